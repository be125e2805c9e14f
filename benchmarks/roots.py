"""Memory that a wide graph takes: root tasks make 1 MB each, and pairs of them are reduced to little."""

from __future__ import annotations

import threading
from typing import Any

import psutil

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric
from benchmarks.work import dask_client, our_client

WORKERS = 2
ROOTS = 400
SIZE = 1_000_000


def make(number: int) -> bytearray:
    """Return 1 MB."""
    return bytearray([number % 256]) * SIZE


def both(one: bytearray, other: bytearray) -> int:
    """Return little of two large arguments."""
    return len(one) + len(other)


def total(*numbers: int) -> int:
    """Add numbers up."""
    return sum(numbers)


def process_id() -> int:
    """Return who runs this."""
    import os

    return os.getpid()


class _Watch:
    """The most that processes have resident of their own at one time, in MB, beyond what they had at first."""

    def __init__(self, pids: list[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._first = self._now()
        self.peak = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _now(self) -> float:
        return sum(process.memory_info().rss for process in self._processes) / 1e6

    def _run(self) -> None:
        while not self._ended.wait(0.005):
            self.peak = max(self.peak, self._now() - self._first)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def _measure(client: Any, pids: list[int]) -> Measured:
    graph: dict[str, Any] = {f"make-{i}": (make, i) for i in range(ROOTS)}
    graph |= {f"both-{i}": (both, f"make-{2 * i}", f"make-{2 * i + 1}") for i in range(ROOTS // 2)}
    graph["total"] = (total, *(f"both-{i}" for i in range(ROOTS // 2)))
    with _Watch(pids) as watch:
        if client.get(graph, "total") != ROOTS * SIZE:
            raise ValueError("wrong result")
    return {"peak": watch.peak}


def ours() -> Measured:
    """Measure hpclaunch."""
    with our_client(WORKERS) as client:
        return _measure(client, list(client.run(process_id).values()))


def dask() -> Measured:
    """Measure dask.distributed."""
    with dask_client(WORKERS) as client:
        return _measure(client, list(client.run(process_id).values()))


BENCHMARK = Benchmark(
    name="roots",
    title="Root tasks: memory of a wide graph",
    metrics=[Metric("peak", "MB, peak of both workers", digits=0)],
    contestants=[
        Contestant("hpclaunch", ours, "TLS"),
        Contestant("dask.distributed", dask, "plain TCP, its defaults: queueing is on"),
    ],
    text=f"{ROOTS} tasks make 1 MB each, {ROOTS // 2} take two of these; what the workers grow by while they run.",
    most_rounds=3,
)
