"""How many jobs the work is worth, and which to retire: adaptive scaling. Pure: facts and ``now`` in, a decision
with its reason in words out; no I/O, clock or randomness.

Rules:

* It thinks in whole jobs. Every job counts as supply from the moment of its submission: what waits in the queue is
  not asked for twice.
* It asks for as many threads as have ``target_duration`` seconds of work each, but for no more than there are
  tasks; and for none that would start when the work is done (it learns how long the queue takes).
* A queued job is cancelled only if more jobs than wanted have been there for ``pending_grace`` seconds without a
  break, the youngest first: a place in the queue is worth something.
* A running job is retired only if it has been idle for ``idle_timeout`` seconds and no result is lost with it.
* Limits and budget are hard. A job's whole walltime is set aside when it is submitted; what it did not use comes
  back when it has ended. If the batch system itself goes over that (a job put back runs twice), queued jobs go,
  and where that is not enough, running ones as soon as their tasks are done.

It does not submit or cancel: :class:`~hpclaunch.jobs.ledger.Ledger` does, and its back-off has the last word.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

import msgspec

from hpclaunch.config.units import format_duration
from hpclaunch.jobs.job import State

#: A job may outlast its walltime by this much until the batch system has ended it, seconds.
OVERTIME_SECONDS = 60.0
#: Idle jobs are kept so many times longer while tasks wait for the results of others.
_PATIENCE_FOR_INPUTS = 3.0
#: Waits in the queue that the expected one is the median of.
_WAITS = 9
#: Rows of the log that are kept.
_LOG_ROWS = 1000


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of :meth:`adapt`, in jobs and seconds."""

    minimum: int = 0
    maximum: int | None = None  # None: no limit
    interval: float = 1.0
    wait_count: int = 3  # steps in a row that must agree before a job is retired
    target_duration: float = 5.0
    idle_timeout: float = 10.0
    pending_grace: float = 60.0
    max_submit_rate: float = 20.0  # submissions per minute; an array is one
    core_hours: float | None = None  # None: no limit


class JobFact(NamedTuple):
    """One job that has not ended."""

    id: str  # empty while it is being submitted
    state: State
    age: float  # seconds since its submission
    tasks: int = 0  # on its workers
    held_bytes: int = 0  # of results that would be lost with it: no other worker has them or could take them
    ends_in: float = math.inf  # seconds until its walltime is over
    used_seconds: float = 0.0  # that it has run, also before it was put back


class Facts(NamedTuple):
    """What a decision is made from."""

    jobs: Sequence[JobFact]
    seconds: float = 0.0  # of all tasks that are ready or assigned, if one thread did them
    tasks: int = 0  # that are ready or assigned
    waiting: int = 0  # tasks that wait for inputs
    trouble: str = ""  # why nothing can be submitted now; empty if it can
    ended_seconds: float = 0.0  # run by jobs that have ended
    is_retry: bool = False  # what was refused, and was said to be, may be tried again


class Shape(NamedTuple):
    """One job: what it gives and costs."""

    threads: int
    cores: int
    walltime: float | None  # seconds


class Decision(NamedTuple):
    """``wish``: jobs that the work is worth, within the limits."""

    wish: int
    submit: int = 0
    cancel: tuple[str, ...] = ()  # queued
    retire: tuple[str, ...] = ()  # idle
    reason: str = ""


class LogRow(msgspec.Struct, frozen=True):
    """One decision that changed something."""

    time: float  # unix time
    wish: int
    jobs: int  # that there were
    submit: int
    release: int
    reason: str


class Adaptive:
    """Decides for one kind of job, step by step; remembers since when things are as they are."""

    def __init__(self, policy: Policy, shape: Shape) -> None:
        self.policy = policy
        self.shape = shape
        self.log: deque[LogRow] = deque(maxlen=_LOG_ROWS)
        self.queue_wait = 0.0  # seconds from a submission to its first worker, as learned
        self._waits: deque[float] = deque(maxlen=_WAITS)
        self._started: set[str] = set()
        self._idle_since: dict[str, float] = {}
        self._surplus_since: float | None = None
        self._submissions: deque[float] = deque()
        self._last_note = ""

    def step(self, facts: Facts, now: float) -> Decision:
        """Return what to do now. To be called about every ``interval`` seconds, and done."""
        self._learn(facts.jobs, now)
        live = [job for job in facts.jobs if job.state is not State.DRAINING]
        wish, why = self._wish(facts, live)
        self._surplus_since = (
            None if wish >= len(live) else (now if self._surplus_since is None else self._surplus_since)
        )
        if (over := self._over_budget(facts, live, wish)) is not None:
            decision = over
        elif self._missing(facts, live, wish):
            decision = self._grow(facts, live, wish, why, now)
        else:
            decision = self._shrink(facts, live, wish, why, now)
        if not (facts.is_retry and decision.submit):
            self._note(decision, len(live), now)
        return decision

    def take_over(self, before: Adaptive) -> None:
        """Go on with what another, which this one replaces, has learned and written down."""
        self.log.extend(before.log)
        self.queue_wait, self._waits, self._started = before.queue_wait, before._waits, before._started
        self._submissions = before._submissions

    # --- how many

    def _wish(self, facts: Facts, live: Sequence[JobFact]) -> tuple[int, str]:
        """Return how many jobs the work is worth, and why."""
        policy = self.policy
        threads = self._threads(facts.tasks, facts.seconds)
        wish = math.ceil(threads / self.shape.threads)
        why = _work(facts)
        if wish > len(live) and (late := self._comes_late(facts, live)):
            wish, why = len(live), f"{why}; {late}"
        if wish < policy.minimum:
            return policy.minimum, f"{why}; the minimum is {policy.minimum}"
        if policy.maximum is not None and wish > policy.maximum:
            return policy.maximum, f"{why}; the maximum is {policy.maximum}"
        return wish, why

    def _threads(self, tasks: int, seconds: float) -> int:
        if not tasks:
            return 0
        return max(1, min(tasks, math.ceil(seconds / self.policy.target_duration)))

    def _missing(self, facts: Facts, live: Sequence[JobFact], wish: int) -> int:
        """Return how many jobs to ask for: also in place of those that end before their successors would start.

        A job's successor is asked for while it works, but only if the work outlasts it, and within the maximum.
        """
        running = [job for job in live if job.state is State.UP]
        threads = max(1, len(running) * self.shape.threads)
        left = math.ceil(facts.tasks / threads) * facts.seconds / max(1, facts.tasks)
        leaving = sum(job.ends_in <= min(self.queue_wait, left) for job in running)
        count = max(0, wish - (len(live) - leaving))
        return count if self.policy.maximum is None else min(count, max(0, self.policy.maximum - len(live)))

    def _comes_late(self, facts: Facts, live: Sequence[JobFact]) -> str:
        """Say that a new job would start when nothing is left for it; empty if it would not."""
        up = sum(job.state is State.UP and job.ends_in > self.queue_wait for job in live) * self.shape.threads
        if not up or self.queue_wait <= 0:
            return ""
        left = math.ceil(facts.tasks / up) * facts.seconds / facts.tasks
        if left > self.queue_wait:
            return ""
        return f"it will be done in {left:.0f} s, and the queue takes {self.queue_wait:.0f} s"

    # --- more

    def _grow(self, facts: Facts, live: Sequence[JobFact], wish: int, why: str, now: float) -> Decision:
        count = self._missing(facts, live, wish)
        if facts.trouble:
            return Decision(wish, reason=f"{_jobs(count)} more are wanted, but {facts.trouble}")
        if self._is_too_often(now):
            rate = f"{self.policy.max_submit_rate:g} submissions a minute are allowed"
            return Decision(wish, reason=f"{_jobs(count)} more are wanted, but {rate}")
        paid = self._affordable(facts)
        if paid < count:
            why += f"; the budget of {self.policy.core_hours:g} core hours has room for {paid} more"
            count = paid
        if not count:
            return Decision(wish, reason=why)
        self._submissions.append(now)
        return Decision(wish, submit=count, reason=f"{_jobs(count)} more: {why}")

    def _is_too_often(self, now: float) -> bool:
        """Whether the submissions of the last minute are as many as are allowed."""
        window = 60.0 if self.policy.max_submit_rate >= 1 else 60.0 / self.policy.max_submit_rate
        while self._submissions and self._submissions[0] <= now - window:
            self._submissions.popleft()
        return len(self._submissions) >= max(1.0, self.policy.max_submit_rate)

    def _left_seconds(self, facts: Facts) -> float:
        """Return the job seconds that the budget has left when every job runs to its walltime."""
        if self.policy.core_hours is None:
            return math.inf
        each = self._each_seconds()
        used = facts.ended_seconds + sum(_reserved(job, each) for job in facts.jobs)
        return self.policy.core_hours * 3600.0 / self.shape.cores - used

    def _each_seconds(self) -> float:
        return (self.shape.walltime or math.inf) + OVERTIME_SECONDS

    def _affordable(self, facts: Facts) -> int:
        left = self._left_seconds(facts)
        return 10**9 if left == math.inf else int(max(0.0, left) // self._each_seconds())

    def _over_budget(self, facts: Facts, live: Sequence[JobFact], wish: int) -> Decision | None:
        """Let jobs go for the budget to hold, queued ones first; None if it holds anyway.

        What drains gives back the rest of its walltime soon, so no other job has to go for that.
        """
        over = -self._left_seconds(facts)
        if over <= 0:
            return None
        cancel = _youngest_queued(live)[: math.ceil(min(over / self._each_seconds(), len(live)))]
        over -= len(cancel) * self._each_seconds()
        over -= sum(_rest(job) for job in facts.jobs if job.state is State.DRAINING)
        retire: list[JobFact] = []
        running = (job for job in live if job.state in (State.STARTING, State.UP))
        for job in sorted(running, key=lambda job: (job.held_bytes, job.tasks)):
            if over > 0 and _rest(job) > 0:
                retire.append(job)
                over -= _rest(job)
        if not cancel and not retire:
            return None
        return Decision(wish, cancel=_ids(cancel), retire=_ids(retire), reason="the budget is used up")

    # --- fewer

    def _shrink(self, facts: Facts, live: Sequence[JobFact], wish: int, why: str, now: float) -> Decision:
        policy, surplus = self.policy, len(live) - wish
        if policy.maximum is not None and len(live) > policy.maximum:
            return self._obey_maximum(live, wish, policy.maximum)
        if not surplus:
            return Decision(wish, reason=why)
        assert self._surplus_since is not None
        patience = max(policy.pending_grace, policy.wait_count * policy.interval)
        cancel: tuple[str, ...] = ()
        if now - self._surplus_since >= patience:
            old = [job for job in _youngest_queued(live) if job.age >= policy.pending_grace]
            cancel = _ids(old[:surplus])
        retire = self._idle(facts, live, now)[: surplus - len(cancel)]
        if not cancel and not retire:
            return Decision(wish, reason=f"{why}; {_jobs(surplus)} too many, and none can go yet")
        parts = [f"{_jobs(len(cancel))} fewer in the queue"] if cancel else []
        parts += [f"{_jobs(len(retire))} idle for {policy.idle_timeout:g} s and retired"] if retire else []
        return Decision(wish, cancel=cancel, retire=tuple(retire), reason=f"{' and '.join(parts)}: {why}")

    def _obey_maximum(self, live: Sequence[JobFact], wish: int, maximum: int) -> Decision:
        """A client has set a maximum below what there is: what has cost least goes at once."""
        surplus = len(live) - maximum
        cancel = _ids(_youngest_queued(live)[:surplus])
        running = [job for job in live if job.state in (State.STARTING, State.UP)]
        running.sort(key=lambda job: (job.tasks > 0, job.held_bytes, job.tasks, job.age))
        retire = _ids(running[: surplus - len(cancel)])
        return Decision(
            wish, cancel=cancel, retire=retire, reason=f"{_jobs(surplus)} over the maximum of {maximum}"
        )

    def _idle(self, facts: Facts, live: Sequence[JobFact], now: float) -> list[str]:
        """Return the jobs that can be retired, from the one that has been idle longest."""
        policy = self.policy
        patience = max(policy.idle_timeout, policy.wait_count * policy.interval)
        soon = math.ceil(min(facts.waiting, facts.tasks + facts.waiting) / self.shape.threads)
        found = []
        for job in live:
            since = self._idle_since.get(job.id)
            if since is not None and not job.held_bytes and now - since >= patience:
                found.append((since, job.id))
        found.sort()
        due = [job_id for since, job_id in found if now - since >= patience * _PATIENCE_FOR_INPUTS]
        fresh = [job_id for _, job_id in found if job_id not in due]
        return due + fresh[: max(0, len(fresh) - soon)]

    # --- memory

    def _learn(self, jobs: Sequence[JobFact], now: float) -> None:
        """Take in how long the queue took, and who is idle."""
        for job in jobs:
            if job.state is State.UP and job.id not in self._started:
                self._started.add(job.id)
                self._waits.append(job.age)
            if job.state is State.UP and not job.tasks:
                self._idle_since.setdefault(job.id, now)
            else:
                self._idle_since.pop(job.id, None)
        known = {job.id for job in jobs}
        self._started &= known
        for gone in self._idle_since.keys() - known:
            del self._idle_since[gone]
        now_waiting = [job.age for job in jobs if job.state in (State.QUEUED, State.STARTING)]
        typical = median(self._waits) if self._waits else 0.0
        self.queue_wait = max(typical, *now_waiting, 0.0) if now_waiting else typical

    def _note(self, decision: Decision, live: int, now: float) -> None:
        """Write a decision down if it changes something, or is held back by something new."""
        release = len(decision.cancel) + len(decision.retire)
        acts = bool(decision.submit or release)
        kind = "" if decision.wish <= live else decision.reason.rpartition(", but ")[2]
        held = decision.wish > live and not acts and kind != self._last_note
        self._last_note = "" if acts else kind
        if acts or held or not self.log:
            self.log.append(LogRow(now, decision.wish, live, decision.submit, release, decision.reason))


def _reserved(job: JobFact, each: float) -> float:
    """Return the seconds that are set aside for one job: what it has used, and what it may yet use."""
    if job.state in (State.SUBMITTING, State.QUEUED):
        return job.used_seconds + each
    return max(each, job.used_seconds + (0.0 if job.ends_in == math.inf else _rest(job) + OVERTIME_SECONDS))


def _rest(job: JobFact) -> float:
    """Return the seconds that a running job may yet run, as far as that is known."""
    return 0.0 if job.ends_in == math.inf else max(0.0, job.ends_in)


def _youngest_queued(live: Iterable[JobFact]) -> list[JobFact]:
    return sorted((job for job in live if job.state is State.QUEUED), key=lambda job: job.age)


def _ids(jobs: Iterable[JobFact]) -> tuple[str, ...]:
    return tuple(job.id for job in jobs)


def _work(facts: Facts) -> str:
    if not facts.tasks:
        return "there is nothing to do" if not facts.waiting else "all tasks wait for inputs"
    task = "task" if facts.tasks == 1 else "tasks"
    seconds = f"{facts.seconds:.2g} s" if facts.seconds < 100 else format_duration(round(facts.seconds))
    return f"{facts.tasks} {task} are {seconds} of work for one thread"


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"
