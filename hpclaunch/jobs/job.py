"""One job as the ledger knows it: where it stands, what became known of it, and its story. Data and rules only.

==========  ==================================================================================================
submitting  handed to the batch system, which has not named it yet (no id)
queued      the batch system has it; it has not started, or was put back
starting    the job script runs or is about to; no worker of it has connected yet
up          a worker of it has connected
draining    it is on its way out by our wish: surplus, stuck, or silent too long
ended       it is over, and ``reason`` says why
==========  ==================================================================================================

One literal table says which steps are legal. Two arrows go back: a batch system may put a job that had started
back in the queue, and an end that was only assumed (no trace of the job anywhere) is taken back when a worker of
that job connects.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from hpclaunch import clocks
from hpclaunch.batch.base import JobUsage
from hpclaunch.errors import IllegalTransitionError
from hpclaunch.jobs.reasons import Ending, Evidence, Terms, accounted, tail, why_ended


class State(enum.StrEnum):
    """Where a job stands in our eyes."""

    SUBMITTING = "submitting"
    QUEUED = "queued"
    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"
    ENDED = "ended"


#: Legal steps: ARROWS[old] has new.
ARROWS: dict[State, frozenset[State]] = {
    State.SUBMITTING: frozenset({State.QUEUED}),
    State.QUEUED: frozenset({State.STARTING, State.UP, State.DRAINING, State.ENDED}),
    State.STARTING: frozenset({State.UP, State.QUEUED, State.DRAINING, State.ENDED}),
    State.UP: frozenset({State.QUEUED, State.DRAINING, State.ENDED}),
    State.DRAINING: frozenset({State.ENDED}),
    State.ENDED: frozenset({State.UP}),
}

#: Clocks of nodes may differ by so much.
_SKEW_SECONDS = 10.0

#: States of jobs that count toward the wish.
LIVE = frozenset({State.SUBMITTING, State.QUEUED, State.STARTING, State.UP})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """All the patience that there is with jobs and their batch system, in seconds where not said otherwise."""

    poll_floor: float = 0.2
    poll_cap: float = 15.0
    poll_connected: float = 300.0  # for jobs whose workers are connected
    look_cap: float = 2.0  # files of jobs, in a directory
    proof: float = 10.0  # a worker up for so long proves its job
    usage: float = 5.0  # accounting may stay silent for so long about a job that is over
    listed: float = 1.5  # the same, when the listing itself says how the job ended
    missing_polls: int = 3  # listings in a row without the job
    requeue: float = 10.0  # a job listed as queued so soon after its start is an old listing
    returning: float = 300.0  # one that has ended may still be put back in the queue
    retire: float = 60.0  # for running tasks, when a job is retired
    goodbye: float = 3.0  # for the job script's own end, after its workers have closed
    startup: float = 120.0  # from the start of a job to its first worker
    alone: float = 70.0  # from the loss of a job's last worker to its return
    cancel_retry: float = 10.0
    silence: float = 1800.0  # a batch system may stay silent for so long before it is a failure
    explain: float = 5.0  # in the queue, before we ask why
    explain_cap: float = 300.0
    keep_ended: int = 1000  # jobs that stay in the table after their end
    submit_rate: float = 60.0  # submissions in a minute, after the first ten
    drain_margin: float | None = None  # before a job's end; None: see expiry.margin_of
    overtime: float = 90.0  # batch systems look at limits now and then: a drained job may stay so long


class JobFiles(msgspec.Struct, frozen=True):
    """What the files of one job say; None or empty where there is no file (yet)."""

    started: float | None = None  # unix time
    host: str = ""
    exit_code: int | None = None
    gave_up: str = ""


class JobRow(msgspec.Struct, frozen=True):
    """One line of the table of jobs.

    ``since`` is the unix time of its state; ``story`` has a line per event, with times relative to the submission.
    """

    id: str  # empty while it is being submitted
    state: str
    since: float
    host: str
    workers: int
    reason: str  # why it waits, or how it ended
    story: list[str]
    usage: JobUsage | None = None  # what accounting says of it after its end
    group: str = ""


@dataclass(slots=True, eq=False)
class Job:
    """One submission to the batch system. All times are unix times in seconds; None is "not (yet)"."""

    number: int  # order of submission
    generation: int  # the submission that it was part of
    born: float
    id: str = ""
    state: State = State.SUBMITTING
    since: float = 0.0
    changed: float = 0.0  # a listing that was asked for before this is stale
    host: str = ""
    reason: str = ""
    story: list[tuple[float, str]] = field(default_factory=list)

    workers: set[str] = field(default_factory=set)
    running_since: float | None = None
    first_join: float | None = None
    alone_since: float | None = None  # when the last of its workers went
    is_proved: bool = False  # a worker of it stayed up long enough
    is_judged: bool = False  # its end was put to the back-off

    over_since: float | None = None  # when evidence of its end came; accounting is being asked
    exit_code: int | None = None  # from its exit-code file
    gave_up: str = ""  # from its fail file
    listed_end: str | None = None  # the listing says that it ended, and this
    is_searched: bool = False  # its files were looked at after that
    misses: int = 0  # listings in a row that did not have it
    usage: JobUsage | None = None
    usage_due: float | None = None  # when to ask accounting; None: not, or already asked
    is_assumed: bool = False  # its end is not confirmed
    is_unlisted: bool = False  # no listing has confirmed its end, which its exit-code file or accounting tells
    used_before: float = 0.0  # seconds of runs before it was put back
    was_put_back: bool = False  # and what accounting says of that is no news
    started: float | None = None  # this run, as its start file says, by its node's clock
    clock_ahead: float = 0.0  # seconds by which its node's clock is ahead of ours
    joined: float | None = None  # when the first worker of this run came

    ends_at: float | None = None  # the end of its walltime
    is_expiring: bool = False  # so near to that end that its replacement is wanted
    is_told: bool = False  # the batch system told it to end, and not why: it may be about to put it back
    doom: Ending | None = None  # why we are ending it, or did
    cancel_due: float | None = None  # when to send the cancel command
    is_stuck: bool = False
    is_explained: bool = False  # the listing says why it waits

    def __post_init__(self) -> None:
        self.since = self.changed = self.born
        self.story.append((self.born, "submitting"))

    @property
    def is_live(self) -> bool:
        """Whether it counts toward the wish."""
        return self.state in LIVE

    def move(self, state: State, now: float, text: str) -> None:
        """Take one step of the table. Raise IllegalTransitionError if the table does not have it."""
        if state not in ARROWS[self.state]:
            story = "\n".join(self.story_lines())
            raise IllegalTransitionError(
                f"job {self.id or self.number}: {self.state} -> {state} ({text}). Its story:\n{story}"
            )
        self.state = state
        self.since = now
        self.note(text, now)

    def note(self, text: str, now: float) -> None:
        """Add a line to the story, and count the job as changed."""
        self.changed = now
        self.story.append((now, text))

    def on_clock(self, host: str, ahead: float, now: float) -> None:
        """The clock of its host is so many seconds ahead of ours; a large difference is noted once."""
        text = clocks.note_of(host, ahead)
        if text and abs(self.clock_ahead) <= clocks.NOTED:
            self.note(text, now)
        self.clock_ahead = ahead

    def used_seconds(self, now: float) -> float:
        """Return how long it has run, all its runs together."""
        ran = self.usage.wall_seconds if self.usage is not None else None
        if ran is None:
            ran = 0.0 if self.running_since is None else max(0.0, now - self.running_since)
        return self.used_before + ran

    def put_back(self, now: float) -> None:
        """Forget what was known of a run that is not the current one."""
        self.used_before = (
            0.0 if self.state is State.ENDED else self.used_seconds(now)
        )  # of one that ended is told
        self.host = self.reason = self.gave_up = ""
        self.running_since = self.alone_since = self.over_since = self.usage_due = self.cancel_due = None
        self.exit_code = self.listed_end = self.usage = None
        self.misses = 0
        self.is_assumed = self.is_unlisted = self.is_stuck = self.is_expiring = self.is_told = False
        self.was_put_back = True
        self.doom = self.ends_at = self.started = self.joined = None

    def on_seen(self) -> None:
        """It is there after all: forget what hinted at its end."""
        self.over_since = self.usage_due = self.listed_end = None
        self.misses = 0

    def on_worker(self, worker: str, host: str, now: float) -> None:
        """A worker of it connected, so it is alive."""
        self.on_seen()
        self.workers.add(worker)
        self.host = host or self.host
        self.alone_since = None
        self.running_since = now if self.running_since is None else self.running_since
        self.first_join = now if self.first_join is None else self.first_join
        self.joined = now if self.joined is None else self.joined
        self.changed = now

    def on_running(self, started: float, now: float) -> None:
        """The job script runs, but no worker of it has connected."""
        if self.running_since is None:  # clocks of nodes differ
            self.running_since = min(started, now) if started >= self.born - 60 else now
        if self.state is State.QUEUED:
            self.move(State.STARTING, now, f"starting{on_host(self.host)}, python not yet up")
            self.reason = ""

    def on_files(self, found: JobFiles, now: float) -> None:
        """Take in what its files say."""
        self.host = found.host or self.host
        self.gave_up = found.gave_up or self.gave_up
        if found.started is not None:
            self.on_running(found.started, now)
        if found.exit_code is not None:
            self.exit_code = found.exit_code

    def is_another_run(self, started: float | None) -> bool:
        """Return whether a start file is of a later run than the one that is known."""
        if started is None:
            return False
        if self.started is not None:
            return started != self.started
        return self.joined is not None and started - self.clock_ahead > self.joined + _SKEW_SECONDS

    def evidence(self) -> Evidence:
        """Return what is known about its end."""
        ran = None
        if self.running_since is not None:
            ran = (self.alone_since or self.over_since or self.changed) - self.running_since
        return Evidence(
            exit_code=self.exit_code,
            gave_up=self.gave_up,
            listed=self.listed_end,
            usage=self.usage,
            has_started=self.running_since is not None or self.first_join is not None,
            has_joined=self.first_join is not None,
            ran_seconds=ran,
        )

    def has_proved(self, limits: Limits, now: float) -> bool:
        """Return whether a worker of it stayed up long enough to show that jobs can work here."""
        if self.first_join is None:
            return False
        until = self.alone_since if self.alone_since is not None and not self.workers else now
        return until >= self.first_join + limits.proof

    def settle_time(self, limits: Limits) -> float:
        """Return when a job that seems over may be taken as ended; infinity if more must be heard first."""
        if self.over_since is None:
            return math.inf
        # A worker that is told to end may do so in good order: exit code 0 hides a walltime or a cancellation.
        has_told = self.exit_code in range(1, 128) or (self.exit_code is not None and self.doom is not None)
        if has_told:
            return self.over_since
        if not self.is_searched:
            return math.inf
        if self.usage is not None:
            return self.over_since
        if self.listed_end is not None:
            is_vague = not self.listed_end or self.listed_end.startswith("failed")
            return self.over_since + (limits.usage if is_vague else limits.listed)
        if self.exit_code is not None or self.misses >= limits.missing_polls:
            return self.over_since + limits.usage
        return math.inf

    def silence_time(self, limits: Limits) -> float:
        """Return when a job that runs without a worker has been silent for too long."""
        if self.state is State.STARTING and self.running_since is not None:
            return self.running_since + limits.startup
        if self.state is State.UP and self.alone_since is not None:
            return self.alone_since + limits.alone
        return math.inf

    def deadlines(self, limits: Limits) -> Iterator[float]:
        """Return the times at which the passing of time changes something about this job."""
        if self.usage_due is not None:
            yield self.usage_due
        if self.cancel_due is not None:
            yield self.cancel_due
        if self.over_since is not None:
            yield self.settle_time(limits)
        elif self.workers and self.first_join is not None and not self.is_proved:
            yield self.first_join + limits.proof
        elif not self.workers:
            yield self.silence_time(limits)

    def story_lines(self) -> list[str]:
        """Return the story with times relative to the submission."""
        return [f"{_after(time - self.born)} {text}" for time, text in self.story]

    def take_log(self, log: str, advice: str, now: float) -> None:
        """Add to the reason what its log ends with, and what to do about it."""
        last = tail(log, 1)
        if last and last[0].strip() not in self.reason:
            self.reason += f"; its log ends: {last[0].strip()}"
        if advice and advice not in self.reason:
            self.reason += f". {advice}"
            self.note(advice, now)

    def note_usage(self, terms: Terms, now: float) -> None:
        """Have in the story what accounting says, if it has said something."""
        if self.usage is not None:
            has_run = self.running_since is not None or self.first_join is not None or self.usage.wall_seconds
            self.note(f"accounting: {accounted(self.usage, terms) if has_run else 'it never ran'}", now)

    def refine(self, usage: JobUsage | None, terms: Terms, now: float) -> None:
        """Take in what accounting says after the end; its words may be better than our guess."""
        if usage is None:
            return
        self.usage = usage
        self.note_usage(terms, now)
        if self.doom is not None:
            return
        self.is_assumed = False
        better = why_ended(self.evidence(), terms)
        if better.text not in self.reason:
            self.reason = better.text
            self.note(f"accounting says: {better.text}", now)

    def row(self, silence: str = "") -> JobRow:
        """Return the job's line of the table.

        :param silence: that the batch system does not answer; matters while only that could tell of the job.
        """
        parts = [self.reason, "" if self.workers or self.state is State.ENDED else silence]
        return JobRow(
            id=self.id,
            state=str(self.state),
            since=self.since,
            host=self.host,
            workers=len(self.workers),
            reason="; ".join(part for part in parts if part),
            story=self.story_lines(),
            usage=self.usage,
        )

    def check(self) -> None:
        """Assert what must hold between any two events."""
        assert (self.state is State.SUBMITTING) == (not self.id), self
        assert self.state is not State.UP or self.first_join is not None, self
        assert not self.workers or self.state in (State.UP, State.DRAINING), self
        assert self.state is not State.ENDED or self.reason, self
        assert self.state is not State.DRAINING or self.doom is not None, self
        assert self.doom is None or self.state in (State.DRAINING, State.ENDED), self
        assert not self.is_expiring or self.ends_at is not None, self
        assert self.cancel_due is None or self.state is State.DRAINING or self.is_assumed, self
        assert self.over_since is not None or self.usage_due is None or self.state is State.ENDED, self
        times = list(self._times())
        assert times == sorted(times), self

    def _times(self) -> Iterator[float]:
        return (time for time, _ in self.story)


def on_host(host: str) -> str:
    """Return " on HOST" for a sentence, or nothing if the host is not known."""
    return f" on {host}" if host else ""


def _after(seconds: float) -> str:
    """Return a time after the submission: ``+0.4 s``, from a hundred seconds on ``+0:02:05``."""
    if seconds < 100:
        return f"+{max(0.0, seconds):.1f} s"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"+{hours}:{minute:02d}:{second:02d}"
