"""Policies of adaptive scaling on :mod:`benchmarks.queue_world`: ours, Dask's as documented, and an oracle."""

from __future__ import annotations

import math

from benchmarks.queue_world import SimJob, Trace, World
from hpclaunch.cluster.adaptive import Adaptive, Facts, JobFact, Policy, Shape
from hpclaunch.cluster.job import State

_UNKNOWN = 0.5


def work(world: World) -> tuple[int, float]:
    """Return tasks that are ready or run, and their seconds as a scheduler would expect them."""
    running = [task for job in world.alive() for task in job.tasks]
    guesses = dict(world.known)
    for task in running:
        if task.function not in world.known:
            guesses[task.function] = max(guesses.get(task.function, _UNKNOWN), 2.0 * (world.now - task.since))
    seconds = sum(guesses.get(task.function, _UNKNOWN) for task in world.ready)
    for task in running:
        elapsed = world.now - task.since
        whole = guesses.get(task.function, _UNKNOWN)
        seconds += whole - elapsed if whole > 2 * elapsed else max(whole / 2, elapsed)
    return len(running) + len(world.ready), seconds


class Ours:
    """:class:`hpclaunch.cluster.adaptive.Adaptive`."""

    def __init__(self, trace: Trace, **policy: float) -> None:
        self.adaptive = Adaptive(
            Policy(maximum=trace.maximum, **policy),  # type: ignore[arg-type]
            Shape(1, 1, trace.site.walltime),
        )

    def step(self, world: World) -> None:
        """Decide."""
        tasks, seconds = work(world)
        facts = Facts([_fact(world, job) for job in world.alive()], seconds, tasks, ended_seconds=_ended(world))
        decision = self.adaptive.step(facts, float(world.now))
        world.release({*decision.cancel, *decision.retire})
        world.submit(decision.submit)


def _ended(world: World) -> float:
    return sum(job.ended - job.started for job in world.jobs if job.ended is not None and job.started is not None)


def _fact(world: World, job: SimJob) -> JobFact:
    state = State.UP if world.is_up(job) else State.QUEUED if job.started is None else State.STARTING
    ran = 0 if job.started is None else world.now - job.started
    left = math.inf if job.started is None else world.trace.site.walltime - ran
    age = float(world.now - job.submitted)
    return JobFact(
        job.id, State.DRAINING if job.is_leaving else state, age, len(job.tasks), ends_in=left, used_seconds=ran
    )


class Dask:
    """What Dask's Adaptive documents: a target by occupancy, and removal after wait_count equal suggestions."""

    def __init__(self, trace: Trace) -> None:
        self.counts: dict[str, int] = {}

    def step(self, world: World) -> None:
        """Decide."""
        tasks = len(world.ready) + sum(len(job.tasks) for job in world.alive())
        known = world.known
        seconds = sum(known.get(task.function, _UNKNOWN) for task in world.ready)
        seconds += sum(known.get(task.function, _UNKNOWN) for job in world.alive() for task in job.tasks)
        target = min(world.trace.maximum, tasks, math.ceil(seconds / 5.0))
        plan = world.live()
        if target >= len(plan):
            self.counts.clear()
            world.submit(target - len(plan))
            return
        absent = [job for job in plan if not world.is_up(job)]
        close = absent[: len(plan) - target]
        there = sorted((job for job in plan if world.is_up(job)), key=lambda job: len(job.tasks))
        close += there[: len(plan) - target - len(close)]
        self.counts = {job.id: self.counts.get(job.id, 0) + 1 for job in close}
        world.release({job_id for job_id, count in self.counts.items() if count >= 3})


class Fixed:
    """Always so many jobs while there is work; idle ones stay for ``keep`` seconds. The oracle takes the best."""

    def __init__(self, count: int, keep: int) -> None:
        self.count, self.keep = count, keep
        self._idle: dict[str, int] = {}

    def step(self, world: World) -> None:
        """Decide."""
        tasks = len(world.ready) + sum(len(job.tasks) for job in world.alive())
        live = world.live()
        idle = [job for job in live if not job.tasks and not world.ready]
        self._idle = {job.id: self._idle.get(job.id, world.now) for job in idle}
        world.release({job_id for job_id, since in self._idle.items() if world.now - since >= self.keep})
        world.submit(max(0, min(self.count, tasks) - len(world.live())))


def oracle(trace: Trace, seed: int) -> World:
    """Return the run of the plan that is best in hindsight: the shortest, and of those within 1 % the cheapest."""
    last = max(burst.at for burst in trace.bursts) + 1
    counts = sorted({*range(1, min(8, trace.maximum)), *range(8, trace.maximum + 1, 4), trace.maximum})
    runs = [World(trace, seed).run(Fixed(n, keep)) for n in counts for keep in {0, min(120, last)}]
    best = min(run.turnaround for run in runs)
    return min((run for run in runs if run.turnaround <= 1.01 * best), key=lambda run: run.core_seconds)
