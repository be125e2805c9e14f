"""How long a worker takes from the start of its process to its first result, and what it weighs.

A task waits at the scheduler; then the command that a job script has is started on this machine, and the clock
runs until the result is there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric
from benchmarks.work import Vitals, dask_client, vitals


def _start(argv: list[str], result: Callable[[], Vitals]) -> Measured:
    """Start a worker, wait for the result that it owes, and look at its processes."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = result()
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "rss": found.rss / 1e6,
            "job": sum(_pss(pid) for pid in _session(process.pid)) / 1e6,
            "modules": found.modules,
        }
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def _session(leader: int) -> list[int]:
    """Return the processes of a session: a job's supervisor or nanny, and its workers."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                found.append(int(entry.name))
    return found


def _pss(pid: int) -> int:
    """Return a process's memory in bytes; pages that it shares with others count in part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no memory of process {pid}")


def ours() -> Measured:
    """Measure hpclaunch's worker."""
    from hpclaunch import Client
    from tests.comm.minihead import MiniCluster

    with (
        tempfile.TemporaryDirectory() as base,
        MiniCluster(Path(base), jobs=0) as cluster,
        Client(cluster.directory) as client,
    ):
        client.scheduler_info()
        future = client.submit(vitals, 0)
        argv = [sys.executable, "-m", "hpclaunch.worker", "--directory", str(cluster.directory), "--job", "1.1"]
        return _start(argv, lambda: future.result(60))


def dask() -> Measured:
    """Measure the worker of dask.distributed, started as dask-jobqueue's job scripts start it."""
    with dask_client(0) as client:
        future = client.submit(vitals, 0)
        argv = [sys.executable, "-m", "distributed.cli.dask_worker", client.scheduler.address]
        return _start([*argv, "--nthreads", "1", "--nworkers", "1", "--nanny"], lambda: future.result(60))


BENCHMARK = Benchmark(
    name="start",
    title="Worker start: from the start of its process to its first result",
    metrics=[
        Metric("seconds", "s"),
        Metric("rss", "MB, worker", digits=0),
        Metric("job", "MB, all", digits=0),
        Metric("modules", "modules", digits=0),
    ],
    contestants=[
        Contestant("hpclaunch", ours, "with its supervisor", {"seconds": "≤ 0.5", "rss": "≤ 60"}),
        Contestant("dask.distributed", dask, "with its nanny"),
    ],
    text="Memory: what the worker process has resident; all processes, sharing what they share.",
)
