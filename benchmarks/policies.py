"""Policies of adaptive scaling on :mod:`benchmarks.queue_world`: ours, Dask's, and a fixed number of jobs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.queue_world import Kind, SimJob, Trace, World
from hpclaunch.jobs.adaptive import Adaptive, Facts, JobFact, Policy, Shape
from hpclaunch.jobs.job import State

_UNKNOWN = 0.5


def work(world: World, kind: str) -> tuple[int, float]:
    """Return tasks that are ready or run, and their seconds as a scheduler would expect them."""
    running = [task for job in world.alive(kind) for task in job.tasks]
    ready = world.ready[kind]
    guesses = dict(world.known)
    for task in running:
        if task.function not in world.known:
            guesses[task.function] = max(guesses.get(task.function, _UNKNOWN), 2.0 * (world.now - task.since))
    seconds = sum(guesses.get(task.function, _UNKNOWN) for task in ready)
    for task in running:
        elapsed = world.now - task.since
        whole = guesses.get(task.function, _UNKNOWN)
        seconds += whole - elapsed if whole > 2 * elapsed else max(whole / 2, elapsed)
    return len(running) + len(ready), seconds


class Ours:
    """:class:`hpclaunch.jobs.adaptive.Adaptive`, one for each kind of jobs."""

    def __init__(self, trace: Trace, **policy: float) -> None:
        self.adaptive = {
            kind.name: Adaptive(
                Policy(maximum=trace.maximum, **policy),  # type: ignore[arg-type]
                Shape(kind.slots, kind.slots, trace.site.walltime),
            )
            for kind in trace.kinds
        }

    def step(self, world: World) -> None:
        """Decide."""
        for kind, adaptive in self.adaptive.items():
            tasks, seconds = work(world, kind)
            facts = Facts(
                [_fact(world, job) for job in world.alive(kind)],
                seconds,
                tasks,
                waiting=world.waiting(kind),
                ended_seconds=_ended(world, kind),
            )
            decision = adaptive.step(facts, float(world.now))
            world.release({*decision.cancel, *decision.retire})
            world.submit(decision.submit, kind)

    def next_look(self, world: World) -> float:
        """Look each second."""
        return world.now + 1


def _ended(world: World, kind: str) -> float:
    return sum(job.ran(world.now) for job in world.jobs if job.ended is not None and job.kind.name == kind)


def _fact(world: World, job: SimJob) -> JobFact:
    state = State.UP if world.is_up(job) else State.QUEUED if job.started is None else State.STARTING
    left = math.inf if job.started is None else world.trace.site.walltime - (world.now - job.started)
    return JobFact(
        job.id,
        State.DRAINING if job.is_leaving else state,
        float(world.now - job.submitted),
        len(job.tasks),
        ends_in=left,
        used_seconds=job.ran(world.now),
    )


class Dask:
    """The arithmetic of distributed 2025's Scheduler.adaptive_target, workers_to_close and AdaptiveCore.

    Written again for this simulator, with dask-jobqueue's whole jobs (its ``worker_key``) and one cluster for each
    kind of jobs, since it has no groups. Tasks hold no memory here, so its rules for memory say nothing. Jobs that
    are released lose their tasks, as there.
    """

    target_seconds = 5.0
    wait_count = 3

    def __init__(self, trace: Trace) -> None:
        self.counts: dict[str, int] = {}
        self.trace = trace

    def step(self, world: World) -> None:
        """Decide."""
        for kind in world.trace.kinds:
            self._adapt(world, kind)

    def next_look(self, world: World) -> float:
        """Look each second."""
        return world.now + 1

    def _adapt(self, world: World, kind: Kind) -> None:
        jobs = world.alive(kind.name)
        there = [job for job in jobs if world.is_up(job)]
        target = min(self.trace.maximum * kind.processes, self._target(world, kind, there))
        plan = len(jobs) * kind.processes
        if target >= plan:
            self._forget(jobs)
            world.submit(math.ceil((target - plan) / kind.processes), kind.name)
            return
        absent = [job for job in reversed(jobs) if not world.is_up(job)]  # there in no order; this is the kindest
        close = absent[: math.ceil((plan - target) / kind.processes)]
        if target < plan - len(close) * kind.processes:
            close += self._to_close(there, kind, target)
        for job in close:
            self.counts[job.id] = self.counts.get(job.id, 0) + 1
        self._forget([job for job in jobs if job not in close])
        world.release([job.id for job in close if self.counts[job.id] >= self.wait_count], kills=True)

    def _forget(self, jobs: Sequence[SimJob]) -> None:
        for job in jobs:
            self.counts.pop(job.id, None)

    def _target(self, world: World, kind: Kind, there: Sequence[SimJob]) -> int:
        """Return how many workers it wants."""
        queued = len(world.ready[kind.name])
        first = [world.known.get(task.function, _UNKNOWN) for task in list(world.ready[kind.name])[:100]]
        waiting_seconds = sum(first) * max(1.0, queued / 100)
        running = [task for job in there for task in job.tasks]
        occupancy = sum(world.known.get(task.function, _UNKNOWN) for task in running)
        threads = math.ceil((occupancy + waiting_seconds) / self.target_seconds)
        if queued <= threads:
            threads = min(threads, queued + len(running))
        workers = math.ceil(threads / kind.threads) if there else threads
        if queued and not there:
            workers = max(1, workers)
        connected = len(there) * kind.processes
        if workers >= connected:
            return workers
        if there and all(job.tasks for job in there):
            return connected
        return connected - kind.processes * sum(not job.tasks for job in there)

    def _to_close(self, there: Sequence[SimJob], kind: Kind, target: int) -> list[SimJob]:
        """Return jobs to close until ``target`` workers are left: the idle ones first."""
        spare = max(0, len(there) - math.ceil(target / kind.processes))
        return sorted(there, key=lambda job: bool(job.tasks))[:spare]


class Fixed:
    """Always so many jobs of each kind while there is work; idle ones stay for ``keep`` seconds."""

    def __init__(self, count: int, keep: int) -> None:
        self.count, self.keep = count, keep
        self._idle: dict[str, int] = {}

    def step(self, world: World) -> None:
        """Decide."""
        idle = [job for job in world.live() if not job.tasks and not world.ready[job.kind.name]]
        self._idle = {job.id: self._idle.get(job.id, world.now) for job in idle}
        world.release({job_id for job_id, since in self._idle.items() if world.now - since >= self.keep})
        for kind in world.trace.kinds:
            live = world.live(kind.name)
            tasks = len(world.ready[kind.name]) + sum(len(job.tasks) for job in live)
            wish = min(self.count, math.ceil(tasks / kind.slots))
            world.submit(max(0, wish - len(live)), kind.name)

    def next_look(self, world: World) -> float:
        """Look when a job has been idle for long enough."""
        return min((since + self.keep for since in self._idle.values()), default=math.inf)
