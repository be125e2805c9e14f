"""How many calls of one actor a client makes in a second, and how long one call takes on its own."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric
from benchmarks.work import Adder, dask_client, our_client


def _calls(adder: Any, *, alone: int, together: int) -> Measured:
    for _ in range(alone // 10):
        adder.add(1).result()
    taken = []
    for _ in range(alone):
        start = time.perf_counter()
        adder.add(1).result()
        taken.append((time.perf_counter() - start) * 1e3)
    before = adder.add(0).result()
    start = time.perf_counter()
    answers = [adder.add(1) for _ in range(together)]
    last = [answer.result() for answer in answers][-1]
    rate = together / (time.perf_counter() - start)
    if last != before + together:
        raise ValueError("calls were lost")
    return {"median": sorted(taken)[alone // 2], "rate": rate}


def ours() -> Measured:
    """Measure hpclaunch."""
    with our_client(1) as client:
        return _calls(client.submit(Adder, actor=True).result(), alone=3_000, together=50_000)


def dask() -> Measured:
    """Measure dask.distributed."""
    with dask_client(1) as client:
        return _calls(client.submit(Adder, actor=True).result(), alone=300, together=2_000)


BENCHMARK = Benchmark(
    name="actors",
    title="Calls of one actor: add(1)",
    metrics=[
        Metric("rate", "calls/s, all at once", is_more_better=True, digits=0),
        Metric("median", "ms, one at a time, median", digits=3),
    ],
    contestants=[
        Contestant("hpclaunch", ours, "TLS"),
        Contestant("dask.distributed", dask, "plain TCP, its default"),
    ],
)
