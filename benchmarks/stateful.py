"""How many calls per second of functions that bring state along, each of which gets a copy of its own here.

dask.distributed shares one copy among all calls on a worker, so it has less to do and calls can see each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric
from benchmarks.work import dask_client, our_client

WORKERS = 2


def _models() -> dict[str, Callable[[int], Any]]:
    """Return functions that can't be imported by name, as those of a script or notebook."""
    import numpy as np

    class Model:
        def __init__(self) -> None:
            self.weights = [1.0, 2.0, 3.0]

        def score(self, x: int) -> float:
            return sum(self.weights) + x

    table = [1.0, 2.0, 3.0]
    array = np.ones(10 << 17)
    return {
        "method": Model().score,
        "list": lambda x: sum(table) + x,
        "array": lambda x: float(array[0] + array[-1]) + 4.0 + x,
    }


def _rates(run: Callable[[Callable[[int], Any], int], list[Any]], tasks: int) -> Measured:
    """Map each model over a range, after a tenth as many calls to warm up; calls per second."""
    measured: Measured = {}
    for name, model in _models().items():
        run(model, tasks // 10)
        start = time.perf_counter()
        results = run(model, tasks)
        measured[name] = tasks / (time.perf_counter() - start)
        if results != [6.0 + x for x in range(tasks)]:
            raise ValueError(f"wrong results: {name}")
    return measured


def ours() -> Measured:
    """Measure hpclaunch."""
    with our_client(WORKERS) as client:
        return _rates(lambda model, n: client.gather(client.map(model, range(n))), 5_000)


def dask() -> Measured:
    """Measure dask.distributed."""
    with dask_client(WORKERS) as client:
        return _rates(lambda model, n: client.gather(client.map(model, range(n), pure=False)), 1_000)


BENCHMARK = Benchmark(
    name="stateful",
    title="Calls of functions with state: a method of an object, a closure over a list, one over 10 MB",
    metrics=[
        Metric("method", "calls/s, a method", is_more_better=True, digits=0),
        Metric("list", "calls/s, over a list", is_more_better=True, digits=0),
        Metric("array", "calls/s, over an array of 10 MB", is_more_better=True, digits=0),
    ],
    contestants=[
        Contestant("hpclaunch", ours, "TLS; each call has a copy of its own"),
        Contestant("dask.distributed", dask, "plain TCP, its default; calls share one copy"),
    ],
)
