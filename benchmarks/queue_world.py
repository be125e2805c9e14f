"""A batch system, its jobs and a workload on a virtual clock, for policies of adaptive scaling to be tried on.

Seconds are whole. Jobs of one or several kinds wait in a queue (each its own time, and no more run at once than
the site allows), start, run as many tasks as they have slots, and end when they are released, at their walltime,
or by pre-emption, which some sites follow by putting the job back into the queue; some fail before they start.
What a task was doing when its job ended is done again. Everything follows from a seed: the n-th job that is
submitted has the same fate whichever policy submits it. The clock goes from event to event, or to where the
policy wants to look.
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
    """Tasks of one function that come at one time, or when others are done."""

    at: int  # seconds; not used with ``after``
    tasks: int
    seconds: int
    function: str = "f"
    kind: str = "cpu"  # of the jobs that can run them
    tail: float = 0.0  # sigma of the lognormal distribution of their seconds; 0: all the same
    after: int | None = None  # the number of an earlier burst; its results are shared out as the inputs of these
    pause: int | None = None  # seconds that a person thinks before these come, once ``after`` has been done


class Site(NamedTuple):
    """How the batch system is, in seconds."""

    wait: int = 30  # typical time in the queue
    spread: float = 0.5  # of the wait, up and down
    running: int = 1000  # jobs that run at once
    walltime: int = 3600
    failing: float = 0.0  # part of the jobs that fail before they start
    preempted: float = 0.0  # chance of each running job in each minute
    is_put_back: bool = False  # what is pre-empted waits again, as the same job


class Kind(NamedTuple):
    """One kind of jobs."""

    name: str = "cpu"
    processes: int = 1
    threads: int = 1  # of each process

    @property
    def slots(self) -> int:
        """Tasks that one job runs at once; also its cores."""
        return self.processes * self.threads


class Trace(NamedTuple):
    """A workload on a site."""

    name: str
    bursts: tuple[Burst, ...]
    site: Site = Site()
    maximum: int = 20  # jobs of each kind
    kinds: tuple[Kind, ...] = (Kind(),)


@dataclass(eq=False)
class SimTask:
    """One task, and since when it runs."""

    burst: int
    function: str
    seconds: int
    kind: str = "cpu"
    since: int = 0
    missing: int = 0  # inputs
    then: list[SimTask] = field(default_factory=list)


@dataclass(eq=False)
class SimJob:
    """One job."""

    id: str
    kind: Kind
    submitted: int
    starts: int  # when the queue would let it run
    fails: bool
    lasts: float  # seconds from its start to its pre-emption
    started: int | None = None
    ended: int | None = None
    earlier_seconds: int = 0  # that it ran before it was put back
    last_result: int = 0
    tasks: list[SimTask] = field(default_factory=list)
    is_leaving: bool = False

    def ran(self, now: int) -> int:
        """Return the seconds that it has run."""
        end = now if self.ended is None else self.ended
        return self.earlier_seconds + (0 if self.started is None else end - self.started)


class Chooser(Protocol):
    """A policy: looks at the world, and submits and releases jobs by its methods."""

    def step(self, world: World) -> None:
        """Decide; called when something has happened, and at ``next_look``."""

    def next_look(self, world: World) -> float:
        """Return the second at which it wants to decide again whatever happens."""


class World:
    """All of it; ``now`` is the clock."""

    def __init__(self, trace: Trace, seed: int = 1) -> None:
        self.trace = trace
        self.now = 0
        self.ready: dict[str, deque[SimTask]] = {kind.name: deque() for kind in trace.kinds}
        self.jobs: list[SimJob] = []
        self.left = [burst.tasks for burst in trace.bursts]
        self.came: list[int | None] = [None] * len(trace.bursts)
        self.finished = [0] * len(trace.bursts)
        self.known: dict[str, float] = {}  # learned seconds of functions
        self.submissions = 0
        self._seed = seed
        self._alive: list[SimJob] = []
        self._tasks = self._make_tasks()

    def _make_tasks(self) -> list[list[SimTask]]:
        made: list[list[SimTask]] = []
        for number, burst in enumerate(self.trace.bursts):
            luck = Random(f"{self._seed}-tasks-{number}")
            made.append(
                [
                    SimTask(
                        number,
                        burst.function,
                        max(1, round(burst.seconds * luck.lognormvariate(0, burst.tail))),
                        burst.kind,
                    )
                    for _ in range(burst.tasks)
                ]
            )
            if burst.after is not None and burst.pause is None:
                inputs = made[burst.after]
                for index, task in enumerate(inputs):
                    task.then.append(made[-1][index * burst.tasks // len(inputs)])
                for task in made[-1]:
                    task.missing = sum(task in one.then for one in inputs)
        return made

    # --- what a policy can do and see

    def alive(self, kind: str | None = None) -> list[SimJob]:
        """Return the jobs that have not ended, of one kind or all."""
        return [job for job in self._alive if kind is None or job.kind.name == kind]

    def live(self, kind: str | None = None) -> list[SimJob]:
        """Return those of them that have not been released."""
        return [job for job in self.alive(kind) if not job.is_leaving]

    def waiting(self, kind: str) -> int:
        """Return the tasks that have come and wait for the results of others."""
        return sum(
            task.missing > 0
            for number, tasks in enumerate(self._tasks)
            if self.came[number] is not None and self.left[number] and self.trace.bursts[number].kind == kind
            for task in tasks
        )

    @property
    def submitted(self) -> int:
        """Jobs submitted."""
        return len(self.jobs)

    def submit(self, count: int, kind: str = "cpu") -> None:
        """Submit jobs. The n-th job waits as long whichever policy submits it."""
        self.submissions += count > 0
        site = self.trace.site
        whole = next(one for one in self.trace.kinds if one.name == kind)
        for _ in range(count):
            name = f"j{len(self.jobs) + 1}"
            luck = Random(f"{self._seed}-{name}")
            wait = round(site.wait * (1 + site.spread * luck.uniform(-1, 1)))
            fails, lasts = luck.random() < site.failing, luck.expovariate(1)
            lasts = lasts * 60 / site.preempted if site.preempted else float("inf")
            job = SimJob(name, whole, self.now, self.now + wait, fails, lasts)
            self.jobs.append(job)
            self._alive.append(job)

    def release(self, ids: Iterable[str], *, kills: bool = False) -> None:
        """Let jobs go. Those that run end their tasks first, unless it ``kills``."""
        gone = set(ids)
        for job in self.alive():
            if job.id in gone:
                job.is_leaving = True
                if kills or not job.tasks:
                    self._end(job)

    def is_up(self, job: SimJob) -> bool:
        """Say whether a job's workers are there."""
        return job.started is not None and self.now >= job.started + START_SECONDS

    # --- what happens

    def run(self, chooser: Chooser, limit: int = 200_000) -> World:
        """Run to the end of all work and jobs.

        :raises EndlessError: the work has not ended at second ``limit``.
        """
        while (any(self.left) or self._alive) and self.now < limit:
            self._end_tasks()
            self._end_jobs()
            self._start_jobs()
            self._bring_tasks()
            self._give_tasks()
            chooser.step(self)
            events = [chooser.next_look(self), *self._events()]
            self.now = int(max(self.now + 1, min(limit, *events)))
        if any(self.left):
            raise EndlessError(f"{self.trace.name}: the work does not end")
        return self

    def _events(self) -> Iterable[float]:
        for job in self._alive:
            if job.started is None:
                yield job.starts
            else:
                up = job.started + START_SECONDS
                if self.now < up:
                    yield up
                yield job.started + min(job.lasts, self.trace.site.walltime)
                for task in job.tasks:
                    yield task.since + task.seconds
        for number, burst in enumerate(self.trace.bursts):
            if self.came[number] is None and (at := self._comes(number, burst)) is not None:
                yield at

    def _comes(self, number: int, burst: Burst) -> int | None:
        """Return when a burst comes; None if that is not known yet."""
        if burst.after is None:
            return burst.at
        if burst.pause is None:
            return self.came[burst.after]
        return None if self.left[burst.after] else self.finished[burst.after] + burst.pause

    def _bring_tasks(self) -> None:
        for number, burst in enumerate(self.trace.bursts):
            at = self._comes(number, burst) if self.came[number] is None else None
            if at is not None and at <= self.now:
                self.came[number] = self.now
                self.ready[burst.kind] += [task for task in self._tasks[number] if not task.missing]

    def _start_jobs(self) -> None:
        running = sum(job.started is not None for job in self._alive)
        for job in self.alive():
            if job.started is None and job.starts <= self.now and running < self.trace.site.running:
                if job.fails:
                    self._end(job)
                    continue
                job.started = self.now
                running += 1

    def _end_tasks(self) -> None:
        for job in self.alive():
            for task in [task for task in job.tasks if self.now - task.since >= task.seconds]:
                job.tasks.remove(task)
                job.last_result = self.now
                known = self.known.get(task.function, task.seconds)
                self.known[task.function] = known + 0.1 * (task.seconds - known)
                self.left[task.burst] -= 1
                self.finished[task.burst] = self.now
                for child in task.then:
                    child.missing -= 1
                    if not child.missing and self.came[child.burst] is not None:
                        self.ready[child.kind].append(child)
            if job.is_leaving and not job.tasks:
                self._end(job)

    def _end_jobs(self) -> None:
        site = self.trace.site
        for job in self.alive():
            if job.started is None:
                continue
            if self.now - job.started >= min(site.walltime, job.lasts):
                if site.is_put_back and job.lasts < site.walltime and not job.is_leaving:
                    self._put_back(job)
                else:
                    self._end(job)

    def _put_back(self, job: SimJob) -> None:
        job.earlier_seconds = job.ran(self.now)
        self._drop_tasks(job)
        job.started = None
        job.starts = self.now + self.trace.site.wait
        job.lasts = float("inf")

    def _end(self, job: SimJob) -> None:
        job.ended = self.now
        self._drop_tasks(job)
        self._alive.remove(job)

    def _drop_tasks(self, job: SimJob) -> None:
        self.ready[job.kind.name].extendleft(job.tasks)
        job.tasks = []

    def _give_tasks(self) -> None:
        for job in self.live():
            ready = self.ready[job.kind.name]
            while ready and len(job.tasks) < job.kind.slots and self.is_up(job):
                task = ready.popleft()
                task.since = self.now
                job.tasks.append(task)

    # --- what came of it

    def pieces(self) -> dict[int, list[int]]:
        """Return the pieces of work that a client waits for: the first burst's number, and those of all in it."""
        found: dict[int, list[int]] = {}
        first: list[int] = []
        for number, burst in enumerate(self.trace.bursts):
            is_first = burst.after is None or burst.pause is not None
            first.append(number if is_first else first[burst.after or 0])
            found.setdefault(first[-1], []).append(number)
        return found

    @property
    def turnaround(self) -> int:
        """Seconds from the coming of each piece of work to its last result, added up."""
        return sum(
            max(self.finished[one] for one in members) - (self.came[number] or 0)
            for number, members in self.pieces().items()
        )

    @property
    def makespan(self) -> int:
        """Seconds from the start to the last result."""
        return max(self.finished)

    @property
    def core_seconds(self) -> int:
        """Seconds that jobs ran, for each of their cores."""
        return sum(job.ran(self.now) * job.kind.slots for job in self.jobs)

    def task_seconds(self, numbers: Iterable[int]) -> list[int]:
        """Return how long the tasks of some bursts take."""
        return [task.seconds for number in numbers for task in self._tasks[number]]
