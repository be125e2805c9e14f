"""How long one task takes on its own: submit, wait for the result, submit the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric
from benchmarks.work import dask_client, inc, our_client

WORKERS = 2


def _delays(call: Callable[[int], Any], times: int) -> Measured:
    """Call one after another, after a tenth as many to warm up; milliseconds."""
    for number in range(times // 10):
        call(number)
    taken = []
    for number in range(times):
        start = time.perf_counter()
        if call(number) != number + 1:
            raise ValueError("wrong result")
        taken.append((time.perf_counter() - start) * 1e3)
    taken.sort()
    return {"median": taken[times // 2], "p90": taken[times * 9 // 10]}


def ours() -> Measured:
    """Measure hpclaunch."""
    with our_client(WORKERS) as client:
        return _delays(lambda n: client.submit(inc, n).result(), 3_000)


def dask() -> Measured:
    """Measure dask.distributed."""
    with dask_client(WORKERS) as client:
        return _delays(lambda n: client.submit(inc, n, pure=False).result(), 300)


def executor() -> Measured:
    """Measure concurrent.futures.ProcessPoolExecutor."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as workers:
        return _delays(lambda n: workers.submit(inc, n).result(), 3_000)


def ray() -> Measured:
    """Measure Ray."""
    from benchmarks.others import ray_cluster

    with ray_cluster(WORKERS) as module:
        remote = module.remote(inc)
        return _delays(lambda n: module.get(remote.remote(n)), 500)


def parsl() -> Measured:
    """Measure Parsl's HighThroughputExecutor."""
    from benchmarks.others import parsl_cluster

    with parsl_cluster(WORKERS) as module:
        app = module.python_app(inc)
        return _delays(lambda n: app(n).result(), 300)


def ipyparallel() -> Measured:
    """Measure ipyparallel's load-balanced view."""
    from benchmarks.others import ipyparallel_view

    with ipyparallel_view(WORKERS) as view:
        return _delays(lambda n: view.apply_async(inc, n).get(), 300)


BENCHMARK = Benchmark(
    name="roundtrip",
    title="Round trip: submit(inc, n).result(), one at a time",
    metrics=[Metric("median", "ms, median", digits=3), Metric("p90", "ms, 90th percentile", digits=3)],
    contestants=[
        Contestant(
            "hpclaunch",
            ours,
            "client, head and worker are three processes with TLS between them",
            {"median": "≤ 0.25"},
        ),
        Contestant("dask.distributed", dask, "plain TCP, its default", {"median": "≥ 20"}),
        Contestant("Ray", ray, "shared memory and loopback", most_rounds=3),
        Contestant("Parsl HTEX", parsl, "CurveZMQ, its default", most_rounds=3),
        Contestant("ipyparallel", ipyparallel, "plain TCP, its default", most_rounds=3),
        Contestant("ProcessPoolExecutor", executor, "two processes and pipes; no third one between them"),
    ],
)
