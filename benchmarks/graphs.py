"""Whole programs: a tree reduction, a random graph, an all-to-all shuffle and a sum over Dask arrays."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric
from benchmarks.work import dask_client, our_client

WORKERS = 2
TREE_LEAVES = 16_384
RANDOM_TASKS = 100_000
SHUFFLE_PARTS = 100
ARRAY_SIDE, ARRAY_CHUNK = 10_000, 1_000


def add(*numbers: int) -> int:
    """Add numbers up."""
    return sum(numbers) & 0xFFFF


def split(number: int, parts: int) -> list[int]:
    """Return one item for each of so many partitions."""
    return [number * parts + part for part in range(parts)]


def pick(items: list[int], number: int) -> int:
    """Return one item."""
    return items[number]


def tree(leaves: int) -> tuple[dict[str, Any], str]:
    """Return a graph that adds numbers up in pairs, and the key of its sum."""
    graph: dict[str, Any] = {f"tree-0-{i}": (add, i) for i in range(leaves)}
    level, width = 0, leaves
    while width > 1:
        for i in range(width // 2):
            graph[f"tree-{level + 1}-{i}"] = (add, f"tree-{level}-{2 * i}", f"tree-{level}-{2 * i + 1}")
        level, width = level + 1, width // 2
    return graph, f"tree-{level}-0"


def random_graph(tasks: int) -> tuple[dict[str, Any], str]:
    """Return a graph of tasks with up to three inputs among the 1,000 before, and the key of one after all."""
    chance = random.Random(0)
    graph: dict[str, Any] = {}
    loose: dict[str, None] = {}
    for i in range(tasks):
        count = min(i, chance.randrange(4))
        inputs = [f"mixed-{j}" for j in chance.sample(range(max(0, i - 1_000), i), count)]
        graph[f"mixed-{i}"] = (add, i, *inputs)
        for key in inputs:
            loose.pop(key, None)
        loose[f"mixed-{i}"] = None
    graph["mixed-end"] = (add, *loose)
    return graph, "mixed-end"


def shuffle(parts: int) -> tuple[dict[str, Any], str]:
    """Return a graph in which each of so many outputs takes a piece of each input, and the key of their sum."""
    graph: dict[str, Any] = {f"split-{i}": (split, i, parts) for i in range(parts)}
    for j in range(parts):
        for i in range(parts):
            graph[f"pick-{i}-{j}"] = (pick, f"split-{i}", j)
        graph[f"merge-{j}"] = (add, *(f"pick-{i}-{j}" for i in range(parts)))
    graph["shuffle-end"] = (add, *(f"merge-{j}" for j in range(parts)))
    return graph, "shuffle-end"


def arrays(side: int) -> Any:
    """Return the lazy sum of arcsin and arccos of two random arrays of (side, side, 10)."""
    import dask.array as da

    state: Any = da.random.default_rng(0)
    shape, chunks = (side, side, 10), (ARRAY_CHUNK, ARRAY_CHUNK, 5)
    x, y = state.random(shape, chunks=chunks), state.random(shape, chunks=chunks)
    return (da.arcsin(x) + da.arccos(y)).sum(axis=(1, 2))


def _rate(get: Callable[[Any, str], Any], graph: dict[str, Any], last: str) -> float:
    start = time.perf_counter()
    if not isinstance(get(graph, last), int):
        raise ValueError("wrong result")
    return len(graph) / (time.perf_counter() - start)


def _measure(get: Callable[[Any, str], Any], scale: int) -> Measured:
    """Run the programs, a ``scale``-th of each graph; the array is the same for all."""
    import dask

    get(*tree(64))  # to warm up
    measured = {
        "tree": _rate(get, *tree(TREE_LEAVES // scale)),
        "random": _rate(get, *random_graph(RANDOM_TASKS // scale)),
        "shuffle": _rate(get, *shuffle(int(SHUFFLE_PARTS / scale**0.5))),
    }
    lazy = arrays(ARRAY_SIDE)
    start = time.perf_counter()
    with dask.config.set(scheduler=get):
        if lazy.compute().shape != (ARRAY_SIDE,):
            raise ValueError("wrong shape")
    return {**measured, "array": time.perf_counter() - start}


def ours() -> Measured:
    """Measure hpclaunch."""
    with our_client(WORKERS) as client:
        return _measure(client.get, 1)


def ours_without_security() -> Measured:
    """Measure hpclaunch without TLS."""
    with our_client(WORKERS, security=False) as client:
        return _measure(client.get, 1)


def dask() -> Measured:
    """Measure dask.distributed."""
    with dask_client(WORKERS) as client:
        return _measure(client.get, 16)


BENCHMARK = Benchmark(
    name="graphs",
    title="Programs: tree reduction, random graph, shuffle, array",
    metrics=[
        Metric("tree", "tasks/s, tree", is_more_better=True, digits=0),
        Metric("random", "tasks/s, random graph", is_more_better=True, digits=0),
        Metric("shuffle", "tasks/s, shuffle", is_more_better=True, digits=0),
        Metric("array", "s, array"),
    ],
    contestants=[
        Contestant("hpclaunch", ours, "TLS; the clock runs from the plain dict to the result"),
        Contestant("without security", ours_without_security, "the same over plain TCP"),
        Contestant("dask.distributed", dask, "plain TCP, its default; graphs of a sixteenth of the tasks"),
    ],
    text=(
        f"Two workers. Tree: {TREE_LEAVES:,} numbers added up in pairs. Random: {RANDOM_TASKS:,} tasks with up to "
        f"three inputs each. Shuffle: {SHUFFLE_PARTS} partitions, each to each. Array: arcsin and arccos "
        f"of two random {ARRAY_SIDE:,} x {ARRAY_SIDE:,} x 10, "
        f"in chunks of {ARRAY_CHUNK:,} x {ARRAY_CHUNK:,} x 5, added and summed up."
    ),
    most_rounds=1,
)
