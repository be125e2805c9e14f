"""How long a parallel job takes to its first result and its end: ``initialize()``, dask-mpi and bare mpirun.

Open MPI from the package index, on this machine, with more ranks than it has cores. The clock starts with mpirun.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric

SIZES = (4, 8)
OURS = """
from hpclaunch import initialize
initialize()
from hpclaunch import Client
client = Client()
print("first", client.submit(abs, -1).result(), flush=True)
"""
DASK = """
from dask_mpi import initialize
initialize(dashboard=False)
from distributed import Client
client = Client()
print("first", client.submit(abs, -1).result(), flush=True)
"""
BARE = """
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 1:
    print("first", flush=True)
"""


def _measure(program: str) -> Measured:
    mpirun = Path(sys.executable).parent / "mpiexec"
    found: Measured = {}
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "program.py"
        script.write_text(program)
        for size in SIZES:
            command = [str(mpirun), "--allow-run-as-root", "--oversubscribe", "-n", str(size), sys.executable]
            start = time.perf_counter()
            process = subprocess.Popen(
                [*command, str(script)],
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert process.stdout is not None
            while not process.stdout.readline().startswith("first"):
                if process.poll() is not None:
                    raise RuntimeError(f"mpirun ended with exit code {process.returncode} and without a result")
            found[f"first{size}"] = time.perf_counter() - start
            process.stdout.read()
            process.wait(60)
            found[f"end{size}"] = time.perf_counter() - start
    return found


def ours() -> Measured:
    """Measure hpclaunch."""
    return _measure(OURS)


def dask() -> Measured:
    """Measure dask-mpi."""
    return _measure(DASK)


def bare() -> Measured:
    """Measure ranks that import mpi4py and end."""
    return _measure(BARE)


BENCHMARK = Benchmark(
    name="mpi",
    title="A parallel job: mpirun to the first result, and to its end",
    metrics=[
        Metric(f"{what}{size}", f"s, {words}, {size} ranks")
        for size in SIZES
        for what, words in (("first", "result"), ("end", "end"))
    ],
    contestants=[
        Contestant("hpclaunch", ours, "initialize(), TLS", {"first4": "≤ mpirun + 0.5"}),
        Contestant("dask-mpi", dask, "initialize(), no TLS", {"first4": "≥ 2"}),
        Contestant("mpirun", bare, "ranks that only import mpi4py"),
    ],
    text="Open MPI 5 on this machine, oversubscribed; dask-mpi's ranks end as soon as they can, too.",
)
