"""How long the imports take that a script begins with."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric

_CLOCK = "import sys, time; start = time.perf_counter(); {}; print(time.perf_counter() - start, len(sys.modules))"


def _import(line: str) -> Measured:
    """Run an import in five fresh interpreters, after one that warms the disk."""
    runs = []
    for _ in range(6):
        argv = [sys.executable, "-c", _CLOCK.format(line)]
        seconds, modules = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
        runs.append(float(seconds))
    return {"ms": median(runs[1:]) * 1e3, "modules": float(modules)}


BENCHMARK = Benchmark(
    name="imports",
    title="Imports at the top of a script",
    metrics=[Metric("ms", "ms", digits=0), Metric("modules", "modules", digits=0)],
    contestants=[
        Contestant(
            "hpclaunch", lambda: _import("from hpclaunch import Client, SLURMCluster"), "Client, SLURMCluster"
        ),
        Contestant("import hpclaunch alone", lambda: _import("import hpclaunch"), targets={"ms": "≤ 100"}),
        Contestant(
            "dask",
            lambda: _import("from dask.distributed import Client; from dask_jobqueue import SLURMCluster"),
            "Client, SLURMCluster",
        ),
    ],
)
