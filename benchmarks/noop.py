"""How many tasks per second: map a function that does nothing over a range, two workers, gather the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric
from benchmarks.work import dask_client, inc, our_client

WORKERS = 2


def _rate(call: Callable[[int], Any], tasks: int) -> Measured:
    """Run ``tasks`` tasks after a tenth as many to warm up."""
    call(tasks // 10)
    start = time.perf_counter()
    results = call(tasks)
    seconds = time.perf_counter() - start
    if list(results) != list(range(1, tasks + 1)):
        raise ValueError("wrong results")
    return {"rate": tasks / seconds}


def ours() -> Measured:
    """Measure hpclaunch."""
    with our_client(WORKERS) as client:
        return _rate(lambda n: client.gather(client.map(inc, range(n))), 200_000)


def dask() -> Measured:
    """Measure dask.distributed."""
    with dask_client(WORKERS) as client:
        return _rate(lambda n: client.gather(client.map(inc, range(n), pure=False)), 3_000)


def pool() -> Measured:
    """Measure multiprocessing.Pool, one task per message."""
    import multiprocessing

    with multiprocessing.Pool(WORKERS) as workers:
        return _rate(lambda n: workers.map(inc, range(n), chunksize=1), 50_000)


def executor() -> Measured:
    """Measure concurrent.futures.ProcessPoolExecutor."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as workers:
        return _rate(lambda n: list(workers.map(inc, range(n))), 10_000)


def ray() -> Measured:
    """Measure Ray."""
    from benchmarks.others import ray_cluster

    with ray_cluster(WORKERS) as module:
        remote = module.remote(inc)
        return _rate(lambda n: module.get([remote.remote(i) for i in range(n)]), 2_000)


def parsl() -> Measured:
    """Measure Parsl's HighThroughputExecutor."""
    from benchmarks.others import parsl_cluster

    with parsl_cluster(WORKERS) as module:
        app = module.python_app(inc)
        return _rate(lambda n: [future.result() for future in [app(i) for i in range(n)]], 2_000)


def ipyparallel() -> Measured:
    """Measure ipyparallel's load-balanced view, one task per message."""
    from benchmarks.others import ipyparallel_view

    with ipyparallel_view(WORKERS) as view:
        return _rate(lambda n: view.map(inc, range(n), block=True, chunksize=1), 1_000)


BENCHMARK = Benchmark(
    name="noop",
    title="No-op throughput: gather(map(inc, range(N))), two workers",
    metrics=[Metric("rate", "tasks/s", is_more_better=True, digits=0)],
    contestants=[
        Contestant("hpclaunch", ours, "TLS between all processes; N = 200,000", {"rate": "≥ 100,000"}),
        Contestant("dask.distributed", dask, "plain TCP, its default; N = 3,000", {"rate": "≥ 100"}),
        Contestant("Ray", ray, "shared memory and loopback; N = 2,000", most_rounds=3),
        Contestant("Parsl HTEX", parsl, "CurveZMQ, its default; N = 2,000", most_rounds=3),
        Contestant("ipyparallel", ipyparallel, "plain TCP, its default, chunksize=1; N = 1,000", most_rounds=3),
        Contestant("ProcessPoolExecutor", executor, "pipes of one machine; N = 10,000"),
        Contestant("multiprocessing.Pool", pool, "pipes of one machine, chunksize=1; N = 50,000", {"rate": "≥ 2"}),
    ],
)
