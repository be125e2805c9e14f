"""How much work there is, and of what kind: what adaptive scaling looks at. Pure.

Nothing is counted while tasks come and go: every measurement looks at the workers and at a sample of the ready
queue, so that it costs the same with a thousand tasks and with a million.

A function that has never run is taken to last :data:`ASSUMED_SECONDS`, as in Dask, until one of its tasks has run
longer than that: whatever has run longer than expected is taken to need as long again.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from hpclaunch.scheduler.evacuation import pinned_bytes
from hpclaunch.scheduler.function import LEAST_SECONDS, Function
from hpclaunch.scheduler.sizes import least_bytes
from hpclaunch.scheduler.state import READY, ReadyQueue, RestrictedQueue, SchedulerState, Worker

#: Seconds that a task of an unknown function is taken to last.
ASSUMED_SECONDS = 0.5
#: Entries of the ready queue that are looked at.
_SAMPLE = 1000
#: Assigned tasks of one worker that are looked at one by one.
_CLOSELY = 64

Resources = tuple[tuple[str, float], ...]


class ReadyWork(NamedTuple):
    """Tasks that no worker has yet, and that ask for the same."""

    resources: Resources
    tasks: int
    seconds: float  # of all of them, on one thread
    memory: int = 0  # bytes that a worker has at least for what one of them is given, if that is much


class JobLoad(NamedTuple):
    """What one job's workers have to do, and what they keep."""

    tasks: int
    seconds: float
    held_bytes: int  # of results that would be lost with it, see evacuation.pinned_bytes; 0 while there are tasks


class Demand(NamedTuple):
    """All that there is to do."""

    ready: list[ReadyWork]
    waiting: int  # tasks that wait for the results of others
    jobs: dict[str, JobLoad]  # by job id


class Meter:
    """Measures the demand; remembers since when each worker has had its oldest task."""

    def __init__(self) -> None:
        self._oldest: dict[str, tuple[str, float]] = {}  # worker -> key, first seen
        self._guesses: dict[bytes, float] = {}  # function -> seconds, while it is unknown

    def measure(self, state: SchedulerState, now: float) -> Demand:
        """Return what there is to do now."""
        self._watch_running(state, now)
        jobs = {job_id: JobLoad(0, 0.0, held) for job_id, held in pinned_bytes(state).items()}
        for worker in state.workers.values():
            tasks, seconds = self._work_of(worker, now)
            known = jobs[worker.job_id]
            jobs[worker.job_id] = JobLoad(known.tasks + tasks, known.seconds + seconds, known.held_bytes)
        return Demand(self._ready_work(state), state.waiting, jobs)

    def _seconds(self, function: Function) -> float:
        seconds = function.seconds
        if seconds is None:
            return self._guesses.get(function.id, ASSUMED_SECONDS)
        return max(seconds, LEAST_SECONDS)

    def _watch_running(self, state: SchedulerState, now: float) -> None:
        """Learn of functions that are unknown from how long their first tasks have run."""
        oldest: dict[str, tuple[str, float]] = {}
        for name, worker in state.workers.items():
            key = next(iter(worker.assigned), None)
            if key is None:
                continue
            before = self._oldest.get(name)
            since = before[1] if before is not None and before[0] == key else now
            oldest[name] = key, since
            function = worker.assigned[key].function
            if function.seconds is None:
                guess = max(ASSUMED_SECONDS, 2 * (now - since))
                self._guesses[function.id] = max(guess, self._guesses.get(function.id, 0.0))
            else:
                self._guesses.pop(function.id, None)
        self._oldest = oldest

    def _work_of(self, worker: Worker, now: float) -> tuple[int, float]:
        """Return how many tasks a worker has, and how many seconds of one thread they take."""
        count = len(worker.assigned)
        if not count:
            return 0, 0.0
        if count > _CLOSELY:
            return count, worker.backlog
        elapsed = now - self._oldest[worker.name][1]
        seconds = 0.0
        for place, task in enumerate(worker.assigned.values()):
            whole = (task.requirements.seconds if task.requirements is not None else 0.0) or self._seconds(
                task.function
            )
            if place < worker.threads:
                seconds += whole - elapsed if whole > 2 * elapsed else max(whole / 2, elapsed)
            else:
                seconds += whole
        return count, seconds

    def _ready_work(self, state: SchedulerState) -> list[ReadyWork]:
        work: dict[tuple[Resources, int], tuple[int, float]] = {}
        if state.ready.count:
            work[(), 0] = state.ready.count, state.ready.count * self._mean_seconds(state.ready)
        for queue in state.restricted.values():
            if queue.count:
                kind = queue.requirements.resources, _memory_for(queue)
                tasks, seconds = work.get(kind, (0, 0.0))
                each = queue.requirements.seconds or self._seconds(queue.function)
                work[kind] = tasks + queue.count, seconds + queue.count * each
        return [ReadyWork(resources, *amount, memory) for (resources, memory), amount in work.items()]

    def _mean_seconds(self, queue: ReadyQueue) -> float:
        """Return the mean run time of the tasks of a queue, from a sample spread over all of it."""
        step = max(1, queue.entries // _SAMPLE)
        sample = [
            self._seconds(task.function) for task in islice(queue.all(), 0, None, step) if task.state == READY
        ]
        return sum(sample) / len(sample) if sample else ASSUMED_SECONDS


def _memory_for(queue: RestrictedQueue) -> int:
    """Return the bytes that the largest of some tasks takes for what it is given; 0 if they are not large."""
    return max(map(least_bytes, islice(queue, _SAMPLE)), default=0) if queue.requirements.by_size else 0
