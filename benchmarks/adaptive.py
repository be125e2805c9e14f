"""Adaptive scaling beside Dask's policy and an oracle, on the same made-up queues and workloads."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.policies import Dask, Ours, oracle
from benchmarks.queue_world import Burst, Site, Trace, World
from benchmarks.rounds import Benchmark, Contestant, Measured, Metric

MIX = (
    Trace("one long map", (Burst(0, 400, 60),)),
    Trace("three maps with pauses", (Burst(0, 200, 30), Burst(1500, 200, 30), Burst(3000, 200, 30))),
    Trace("short tasks", (Burst(0, 2000, 2),)),
    Trace("a busy queue", (Burst(0, 300, 60),), Site(wait=300)),
    Trace("a small site", (Burst(0, 300, 60),), Site(running=6)),
    Trace("failures and pre-emption", (Burst(0, 300, 60),), Site(failing=0.1, preempted=0.02)),
    Trace("a trickle", tuple(Burst(60 * i, 30, 5) for i in range(15)), Site(wait=90)),
    Trace("two functions", (Burst(0, 100, 120, "a"), Burst(200, 300, 10, "b"))),
)


def play(run: Callable[[Trace, int], World]) -> Measured:
    """Play the mix; return what it took, all traces added up."""
    worlds = [run(trace, seed) for trace in MIX for seed in (1, 2)]
    return {
        "turnaround": sum(world.turnaround for world in worlds) / 60,
        "core_hours": sum(world.core_seconds for world in worlds) / 3600,
        "jobs": sum(world.submitted for world in worlds),
    }


def ours() -> Measured:
    """Play ours."""
    return play(lambda trace, seed: World(trace, seed).run(Ours(trace)))


def dask() -> Measured:
    """Play Dask's."""
    return play(lambda trace, seed: World(trace, seed).run(Dask(trace)))


BENCHMARK = Benchmark(
    name="adaptive",
    title="Adaptive scaling on a mix of simulated queues and workloads",
    metrics=[
        Metric("turnaround", "minutes", digits=1),
        Metric("core_hours", "core hours", digits=1),
        Metric("jobs", "jobs", digits=0),
    ],
    contestants=[
        Contestant("hpclaunch", ours, "defaults"),
        Contestant("oracle", lambda: play(oracle), "the best fixed plan in hindsight, for each trace"),
        Contestant("Dask's policy", dask, "written again from its documentation"),
    ],
    text="A virtual clock: the numbers are the same in every round.",
)
