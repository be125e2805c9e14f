"""Adaptive scaling beside Dask's policy and oracles, on the same made-up queues and workloads."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.mix import read_mix
from benchmarks.oracle import clairvoyant, fixed, least
from benchmarks.policies import Dask, Ours
from benchmarks.queue_world import Trace, World
from benchmarks.rounds import Benchmark, Contestant, Measured, Metric


def play(run: Callable[[Trace, int], World]) -> Measured:
    """Play the mix; return what it took, all traces added up."""
    worlds = [run(trace, seed) for trace, seed in read_mix()]
    return {
        "turnaround": sum(world.turnaround for world in worlds) / 60,
        "makespan": sum(world.makespan for world in worlds) / 60,
        "core_hours": sum(world.core_seconds for world in worlds) / 3600,
        "jobs": sum(world.submitted for world in worlds),
        "submissions": sum(world.submissions for world in worlds),
    }


def ours() -> Measured:
    """Play ours."""
    return play(lambda trace, seed: World(trace, seed).run(Ours(trace)))


def dask() -> Measured:
    """Play Dask's."""
    return play(lambda trace, seed: World(trace, seed).run(Dask(trace)))


def bound() -> Measured:
    """Add up the bounds."""
    bounds = [least(trace, seed) for trace, seed in read_mix()]
    return {
        "turnaround": sum(seconds for seconds, _ in bounds) / 60,
        "core_hours": sum(core_seconds for _, core_seconds in bounds) / 3600,
    }


BENCHMARK = Benchmark(
    name="adaptive",
    title="Adaptive scaling on a mix of simulated queues and workloads",
    metrics=[
        Metric("turnaround", "minutes, turnaround", digits=1),
        Metric("makespan", "minutes, makespan", digits=1),
        Metric("core_hours", "core hours", digits=1),
        Metric("jobs", "jobs", digits=0),
        Metric("submissions", "submissions", digits=0),
    ],
    contestants=[
        Contestant("hpclaunch", ours, "defaults"),
        Contestant("clairvoyant", lambda: play(clairvoyant), "knows the work and the queue; local search"),
        Contestant("fixed jobs", lambda: play(fixed), "the best number in hindsight, for each trace"),
        Contestant("Dask's policy", dask, "its arithmetic written again, whole jobs"),
        Contestant("lower bound", bound, "no policy can take less"),
    ],
    text=(
        "A virtual clock: the numbers are the same in every round. The workloads of `benchmarks/mix.yaml`, all "
        "made up, are added up. Turnaround is the time from the coming of a piece of work to its last result; "
        "the makespan has the pauses between them, too."
    ),
)
