"""How long ``scale(jobs=8)`` takes to give eight connected workers on a real Slurm, beside dask-jobqueue.

Runs on the Slurm of the test beds, as its unprivileged user, with an environment of its own that has both programs
and belongs to Debian's Python, so it needs root on Debian.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rounds import ROOT, Benchmark, Contestant, Measured, Metric, NoGroundError

JOBS = 8
MEMORY = "400 MB"
WALLTIME = "00:10:00"
PYTHON = Path("/usr/bin/python3")
ENVIRONMENTS = Path("/var/tmp/hpclaunch-bench")  # noqa: S108  # root's, where users only read


def ours() -> Measured:
    """Measure hpclaunch."""
    from hpclaunch import SLURMCluster

    with SLURMCluster(cores=1, memory=MEMORY, walltime=WALLTIME, interface="lo") as cluster:
        start = time.perf_counter()
        cluster.scale(jobs=JOBS)
        cluster.wait_for_workers(JOBS, timeout=120)
        seconds = time.perf_counter() - start
    _wait_for_empty_queue()
    return {"seconds": seconds}


def dask() -> Measured:
    """Measure dask-jobqueue."""
    from dask.distributed import Client
    from dask_jobqueue import SLURMCluster

    options = {"dashboard_address": ":0"}
    with (
        SLURMCluster(
            cores=1, memory=MEMORY, walltime=WALLTIME, interface="lo", scheduler_options=options
        ) as cluster,
        Client(cluster) as client,
    ):
        start = time.perf_counter()
        cluster.scale(jobs=JOBS)
        client.wait_for_workers(JOBS, timeout=120)
        seconds = time.perf_counter() - start
    _wait_for_empty_queue()
    return {"seconds": seconds}


def _wait_for_empty_queue() -> None:
    """Wait until the user's jobs are gone, so that they do not disturb the next contestant."""
    until = time.monotonic() + 60
    while subprocess.run(["squeue", "--noheader", "--me"], check=True, capture_output=True).stdout:
        if time.monotonic() > until:
            raise TimeoutError("jobs are left in the queue a minute after the cluster was closed")
        time.sleep(0.1)


@contextlib.contextmanager
def ground() -> Iterator[list[str]]:
    """Have the Slurm test bed up, and both programs installed for its user."""
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        raise NoGroundError("it needs the Slurm of the test beds, which only root on Debian can start")
    from tests.testbed.beds import BedError, SlurmBed

    bed = SlurmBed()
    try:
        bed.up()
        python = _install()
    except (BedError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or error
        raise NoGroundError(f"the test bed could not be made: {detail}") from error
    try:
        with bed.alone():
            bed.begin()
            shutil.copytree(ROOT / "benchmarks", bed.directory / "benchmarks")
            try:
                yield [*bed.prefix(), "env", "-C", str(bed.directory), str(python), "-m", "benchmarks.contestant"]
            finally:
                bed.end()
    finally:
        bed.down()


def _install() -> Path:
    """Install this checkout with the extra ``bench`` for Debian's Python; return the environment's Python."""
    requirements = (ROOT / "pyproject.toml").read_bytes()
    path = ENVIRONMENTS / hashlib.sha256(requirements).hexdigest()[:12]
    python = path / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--root-user-action=ignore"]
    before = os.umask(0o022)
    try:
        if not (path / "complete").exists():
            shutil.rmtree(ENVIRONMENTS, ignore_errors=True)
            _run([str(PYTHON), "-m", "venv", "--without-pip", str(path)])
            _run([*pip, f"{ROOT}[bench]"])
            (path / "complete").touch()
        _run([*pip, "--no-deps", "--force-reinstall", str(ROOT)])
    finally:
        os.umask(before)
    return python


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)


BENCHMARK = Benchmark(
    name="slurm",
    title=f"scale(jobs={JOBS}) to {JOBS} connected workers on a real Slurm",
    metrics=[Metric("seconds", "s")],
    contestants=[
        Contestant("hpclaunch", ours, "one sbatch with an array of 8"),
        Contestant("dask-jobqueue", dask, "eight sbatch", {"seconds": "≥ 2"}),
    ],
    text="Four nodes on this machine, with Debian's Python; the head or scheduler is up before the clock starts.",
    ground=ground,
)
