"""A batch system, its jobs and a workload on a virtual clock, for policies of adaptive scaling to be tried on.

One step is a second. Jobs wait in a queue (each its own time, and no more run at once than the site allows),
start, run one task at a time, and end when they are let go, at their walltime, or by pre-emption; some fail before
they start. What a task was doing when its job ended is done again. Everything follows from a seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

#: Seconds from a job's start to its first task.
START_SECONDS = 3


class EndlessError(Exception):
    """The work has not ended in time."""


class Burst(NamedTuple):
    """Tasks of one function that come at one time."""

    at: int
    tasks: int
    seconds: int
    function: str = "f"


class Site(NamedTuple):
    """How the batch system is, in seconds."""

    wait: int = 30  # typical time in the queue
    spread: float = 0.5  # of the wait, up and down
    running: int = 1000  # jobs that run at once
    walltime: int = 3600
    failing: float = 0.0  # part of the jobs that fail before they start
    preempted: float = 0.0  # chance of each running job in each minute


class Trace(NamedTuple):
    """A workload on a site."""

    name: str
    bursts: tuple[Burst, ...]
    site: Site = Site()
    maximum: int = 20


@dataclass(eq=False)
class SimJob:
    """One job."""

    id: str
    submitted: int
    starts: int
    started: int | None = None
    ended: int | None = None
    tasks: list[SimTask] = field(default_factory=list)
    is_leaving: bool = False


@dataclass(eq=False)
class SimTask:
    """One task, and since when it runs."""

    burst: int
    function: str
    seconds: int
    since: int = 0


class Chooser(Protocol):
    """A policy: looks at the world, and submits and lets go by its methods."""

    def step(self, world: World) -> None:
        """Decide; called every second."""


class World:
    """All of it; ``now`` is the clock."""

    def __init__(self, trace: Trace, seed: int = 1) -> None:
        self.trace = trace
        self.now = 0
        self.ready: deque[SimTask] = deque()
        self.jobs: list[SimJob] = []
        self.left = [burst.tasks for burst in trace.bursts]
        self.finished = [0] * len(trace.bursts)
        self.known: dict[str, float] = {}  # learned seconds of functions
        self.submissions = 0
        self.submitted = 0
        self._seed = seed

    # --- what a policy can do and see

    def alive(self) -> list[SimJob]:
        """Return the jobs that have not ended."""
        return [job for job in self.jobs if job.ended is None]

    def live(self) -> list[SimJob]:
        """Return those of them that have not been let go."""
        return [job for job in self.jobs if job.ended is None and not job.is_leaving]

    def submit(self, count: int) -> None:
        """Submit jobs. The n-th job waits as long whoever submits it."""
        self.submissions += count > 0
        for _ in range(count):
            self.submitted += 1
            site = self.trace.site
            wait = site.wait * (1 + site.spread * Random(f"{self._seed}-{self.submitted}").uniform(-1, 1))
            self.jobs.append(SimJob(f"j{self.submitted}", self.now, self.now + round(wait)))

    def release(self, ids: Iterable[str]) -> None:
        """Let jobs go: those that run end their tasks first."""
        for job in self.alive():
            if job.id in ids:
                job.is_leaving = True
                if not job.tasks:
                    job.ended = self.now

    def is_up(self, job: SimJob) -> bool:
        """Say whether a job's workers are there."""
        return job.started is not None and self.now >= job.started + START_SECONDS

    # --- what happens

    def run(self, chooser: Chooser, limit: int = 200_000) -> World:
        """Run to the end of all work and jobs."""
        while (any(self.left) or self.alive()) and self.now < limit:
            for number, burst in enumerate(self.trace.bursts):
                if burst.at == self.now:
                    self.ready += [SimTask(number, burst.function, burst.seconds) for _ in range(burst.tasks)]
            self._start_jobs()
            self._end_tasks()
            self._end_jobs()
            self._give_tasks()
            chooser.step(self)
            self.now += 1
        if any(self.left):
            raise EndlessError(f"{self.trace.name}: the work does not end")
        return self

    def _start_jobs(self) -> None:
        running = sum(job.started is not None for job in self.alive())
        for job in self.alive():
            if job.started is None and job.starts <= self.now and running < self.trace.site.running:
                if Random(f"{self._seed}-fails-{job.id}").random() < self.trace.site.failing:
                    job.ended = self.now
                    continue
                job.started = self.now
                running += 1

    def _end_tasks(self) -> None:
        for job in self.alive():
            for task in [task for task in job.tasks if self.now - task.since >= task.seconds]:
                job.tasks.remove(task)
                known = self.known.get(task.function, task.seconds)
                self.known[task.function] = known + 0.1 * (task.seconds - known)
                self.left[task.burst] -= 1
                self.finished[task.burst] = self.now
            if job.is_leaving and not job.tasks:
                job.ended = self.now

    def _end_jobs(self) -> None:
        site = self.trace.site
        for job in self.alive():
            if job.started is None:
                continue
            chance = Random(f"{self._seed}-{job.id}-{self.now}").random() if site.preempted else 1.0
            if self.now - job.started >= site.walltime or chance < site.preempted / 60:
                job.ended = self.now
                self.ready.extendleft(job.tasks)
                job.tasks = []

    def _give_tasks(self) -> None:
        for job in self.live():
            if self.is_up(job) and not job.tasks and self.ready:
                task = self.ready.popleft()
                task.since = self.now
                job.tasks.append(task)

    # --- what came of it

    @property
    def turnaround(self) -> int:
        """Seconds from each burst's coming to its last result, added up."""
        return sum(end - burst.at for end, burst in zip(self.finished, self.trace.bursts, strict=True))

    @property
    def core_seconds(self) -> int:
        """Seconds that jobs ran."""
        return sum((job.ended or self.now) - job.started for job in self.jobs if job.started is not None)
