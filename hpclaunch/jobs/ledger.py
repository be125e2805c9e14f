"""The ledger of jobs: what happened to each, and what is to be done about it. Pure: facts and ``now`` in, commands
out; no I/O, clock, randomness or environment.

It decides about every job of one cluster from submission to end, and keeps the wish (how many jobs shall be
alive). Which jobs there are is :mod:`~hpclaunch.jobs.book`'s, when to ask is :mod:`~hpclaunch.jobs.watch`'s,
when to stop trying is :mod:`~hpclaunch.jobs.verdict`'s. It does not run anything and does not know tasks.

Rules:

* A connected worker is the best status there is: its job is not asked about, except rarely.
* A job that is missing from a listing is only *missing*. It is over when its exit-code file, the listing or
  accounting says so, or when all three stay silent for several listings and seconds.
* One end, one judgement: a job that ended before it was *proved* (a worker up for some seconds) counts once toward
  back-off, unless we cancelled it.
* Nothing is submitted while a failure stands; the next ``on_scale`` clears it.
* A batch system that does not answer changes nothing: no job is given up and none is submitted for it.
* A listing that was asked for before a job's last change says nothing about that job.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from hpclaunch.batch.base import JobStatus, JobUsage
from hpclaunch.jobs import commands as c, reasons
from hpclaunch.jobs.book import Book
from hpclaunch.jobs.ceiling import Ceiling
from hpclaunch.jobs.expiry import Expiry
from hpclaunch.jobs.job import Job, JobFiles, JobRow, Limits, State, on_host
from hpclaunch.jobs.lifecycle import Lifecycle
from hpclaunch.jobs.reasons import Ending, Kind, Terms
from hpclaunch.jobs.scaling import decide
from hpclaunch.jobs.submissions import CLOSED, Submissions
from hpclaunch.jobs.verdict import Verdict
from hpclaunch.jobs.watch import Watch


class Ledger(Submissions):
    """Jobs and the wish. Every ``on_<fact>`` applies one fact and returns what is to be done now.

    :param terms: what every job was promised, for the sentences.
    :param rng: spreads the waits of back-off.
    """

    def __init__(self, terms: Terms, rng: Random, limits: Limits | None = None) -> None:
        self.terms = terms
        self.limits = limits or Limits()
        self.wish = 0
        self.book = Book()
        self.jobs = self.book.jobs
        self.verdict = Verdict(terms, rng, self.limits.submit_rate)
        self.watch = Watch(self.limits, rng)
        self.expiry = Expiry(self.limits.drain_margin)
        self.ceiling = Ceiling(rng)
        self.silent_since: float | None = None
        self.silence_text = self.refusal_text = ""
        self._idle: tuple[str, ...] = ()
        self._commands: list[c.Command] = []
        self.lifecycle = Lifecycle(
            terms, self.limits, self.book, self.verdict, self.watch, self.expiry, self._commands
        )
        self._wait_until: float | None = None
        self._looking_since = -math.inf

    # --- questions

    @property
    def is_closing(self) -> bool:
        """Whether the cluster is about to end."""
        return self.lifecycle.is_closing

    @property
    def failure(self) -> str:
        """Why nothing is submitted any more; empty while all is well."""
        return self.verdict.failure

    def rows(self, now: float) -> list[JobRow]:
        """Return the table of jobs, in order of submission."""
        return self.book.rows(reasons.no_answer(self.terms, self.silent_since, self.silence_text, now))

    def wake_at(self) -> float | None:
        """Return the unix time at which ``on_clock`` has something to do; None if it never has."""
        times = [time for job in self.jobs.values() for time in job.deadlines(self.limits)]
        times += [time for job in self.jobs.values() for time in self.expiry.times(job)]
        times += self.watch.times()
        if self._wait_until is not None:
            times.append(self._wait_until)
        earliest = min(times, default=math.inf)
        return None if earliest == math.inf or self.is_closing else earliest

    def notes(self) -> list[str]:
        """Return what holds for the cluster as a whole and is to be said beside the table of jobs."""
        missing = self._wanted() - self.book.live_count()
        if missing <= 0 or self.ceiling.jobs is None or self.is_closing:
            return []
        return [
            f"{missing} more job{'s are' if missing > 1 else ' is'} wanted: {self.ceiling.text(self.terms.title)}"
        ]

    def _wanted(self) -> int:
        return self.wish

    # --- the wish

    def on_scale(self, wish: int, now: float, idle: Sequence[str] = ()) -> list[c.Command]:
        """A client asks for so many jobs. Clears a failure, and tries again at once.

        :param idle: ids of jobs with workers, from cheapest to lose.
        """
        self.wish = wish
        self._idle = tuple(idle)
        self.verdict.reset()
        self.ceiling.reset()
        return self._flush(now)

    def on_close(self, now: float) -> list[c.Command]:
        """The cluster is about to end: nothing is submitted, asked or reported any more.

        All that is left to do is to cancel ``book.to_cancel()``.
        """
        self.lifecycle.is_closing = True
        self.wish = 0
        self.watch.stop()
        for job in self.jobs.values():
            if job.is_live:
                self.lifecycle.condemn(job, CLOSED, now, None)
            job.cancel_due = None
        return self._take()

    def on_adopted(self, ids: Iterable[str], now: float) -> list[c.Command]:
        """These jobs were submitted by a head before us; the wish grows to keep them."""
        new = [job_id for job_id in ids if job_id not in self.jobs]
        for job_id in new:
            self.book.adopt(job_id, now)
        self.wish = max(self.wish, self.book.live_count())
        self._commands.append(c.Journal("submitted", tuple(new)))
        self.watch.stir(now)
        return self._flush(now)

    # --- workers

    def on_worker_joined(
        self, job_id: str, worker: str, host: str, head_address: str, now: float
    ) -> list[c.Command]:
        """A worker of a job connected, to this address of the head."""
        if self.is_closing or not job_id:
            return self._take()
        job = self.jobs.get(job_id) or self._meet(job_id, now)
        if job.state is State.ENDED:
            job.put_back(now)
        if job.first_join is None:
            self.expiry.on_first_worker(job, now)
        if job.alone_since is not None:
            self.watch.look_once(now)
        job.on_worker(worker, host, now)
        if job.state in (State.UP, State.DRAINING):
            return self._take()
        was_over = " (its end had only been assumed)" if job.state is State.ENDED else ""
        reached = f", reaching the head at {head_address}" if head_address else ""
        job.move(State.UP, now, f"up{on_host(job.host)}: worker {worker} connected{reached}{was_over}")
        job.reason = ""
        return self._flush(now)

    def on_job_ends(self, job_id: str, seconds_left: float, why: str, now: float) -> list[c.Command]:
        """A job's walltime ends in so many seconds.

        :param why: the batch system has told it to end, and how; empty if it has not.
        """
        job = self.jobs.get(job_id)
        if job is None or not job.workers or job.state is not State.UP:
            return self._take()
        if why:
            ending = self.expiry.told_to_end(job, why, now)
            job.is_told = ending.kind is Kind.OUTSIDE
            self.lifecycle.drain(job, ending, now)
        else:
            job.ends_at = now + seconds_left
        return self._flush(now)

    def on_clock_told(self, job_id: str, host: str, ahead: float, now: float) -> list[c.Command]:
        """The clock of a job's host is so many seconds ahead of ours."""
        job = self.jobs.get(job_id)
        if job is not None:
            job.on_clock(host, ahead, now)
        return self._take()

    def on_worker_left(self, job_id: str, worker: str, reason: str, now: float) -> list[c.Command]:
        """The connection to a worker ended."""
        job = self.jobs.get(job_id)
        if job is None or worker not in job.workers:
            return self._take()
        job.workers.discard(worker)
        job.changed = now
        if not job.workers:
            job.alone_since = now
            job.note(f"its last worker, {worker}, left" + (f": {reason}" if reason else ""), now)
            if job.exit_code is not None:
                self.lifecycle.on_over(job, now)
        self.watch.stir(now)
        return self._flush(now)

    def on_retired(self, job_id: str, now: float) -> list[c.Command]:
        """The workers of a job have finished and closed."""
        job = self.jobs.get(job_id)
        if job and job.state is State.DRAINING and not self.is_closing and job.cancel_due is not None:
            job.cancel_due = min(job.cancel_due, now + self.limits.goodbye)
            self.watch.stir(now)
        return self._take()

    # --- the batch system's words

    def on_status(self, statuses: Mapping[str, JobStatus], asked_at: float, now: float) -> list[c.Command]:
        """A listing came, of jobs as they stood between ``asked_at`` and ``now``."""
        self.silent_since = None
        self.verdict.on_answer()
        changed = False
        for job_id, status in statuses.items():
            job = self.jobs.get(job_id)
            if job is not None and job.state is State.ENDED:
                self.lifecycle.on_listed_after_end(job, status, asked_at, now)
            elif job is not None and job.changed <= asked_at:
                changed |= self.lifecycle.on_listed(job, status, now)
        self.watch.on_listed(now, changed=changed, watched=self.book.has_watched())
        return self._flush(now)

    def on_status_failed(self, text: str, now: float) -> list[c.Command]:
        """The batch system did not answer. Nothing is concluded from that."""
        self.silent_since = now if self.silent_since is None else self.silent_since
        self.silence_text = text
        self.watch.on_listed(now, changed=False, watched=self.book.has_watched())
        if now - self.silent_since >= self.limits.silence and not self.is_closing:
            self._commands += self.verdict.on_silence(now - self.silent_since, text)
        return self._flush(now)

    def on_usage(self, asked: Iterable[str], usages: Mapping[str, JobUsage], now: float) -> list[c.Command]:
        """Accounting answered about these jobs; it may not know (yet) all of them."""
        for job_id in asked:
            job = self.jobs.get(job_id)
            if job is None:
                continue
            usage = usages.get(job_id)
            if job.state is State.ENDED:
                job.refine(usage, self.terms, now)
            elif job.over_since is not None and usage is not None:
                job.usage = usage
                job.host = job.host or usage.host
            elif job.over_since is not None:
                job.usage_due = now + min(2.0, 0.3 + (now - job.over_since) / 2)
            if job.state is not State.ENDED:
                self.lifecycle.settle(job, now)
        return self._flush(now)

    def on_reason(self, job_id: str, text: str, now: float) -> list[c.Command]:
        """The batch system said why a job waits or is stuck; empty if it gives no reason."""
        job = self.jobs.get(job_id)
        if job is not None and job.is_stuck and job.is_live:
            self.lifecycle.condemn(job, reasons.stuck(job.reason, text, self.terms), now, now)
            return self._flush(now)
        self.watch.on_explained(now)
        if text and job is not None and job.state is State.QUEUED:
            for other in self.jobs.values():  # all our jobs ask for the same, so they wait for the same
                if other.state is State.QUEUED and not other.is_explained:
                    other.reason = text
        return self._take()

    def on_put_back(self, job_id: str, text: str, now: float) -> list[c.Command]:
        """Accounting said why a job's run before this one ended; empty if it does not know."""
        job = self.jobs.get(job_id)
        if text and job is not None:
            job.note(f"why it was put back: {text}", now)
        if job is not None and job.is_told and job.state is State.ENDED:
            job.is_told = False
            job.reason = reasons.STOOD_IN_FOR if text else f"cancelled from outside: {job.reason}"
        return self._take()

    def on_cancelled(self, ids: Iterable[str], now: float) -> list[c.Command]:
        """These jobs were cancelled and are gone from the batch system."""
        for job_id in ids:
            job = self.jobs.get(job_id)
            if job is not None and job.state is State.DRAINING and job.doom is not None:
                self.lifecycle.end(job, job.doom, now)
            elif job is not None and job.state is State.ENDED:
                job.is_assumed = False
        return self._flush(now)

    def on_cancel_failed(self, ids: Iterable[str], text: str, now: float) -> list[c.Command]:
        """Some of these jobs may still be there after they were cancelled."""
        for job_id in ids:
            job = self.jobs.get(job_id)
            if job is None or not (job.state is State.DRAINING or job.is_assumed):
                continue
            job.cancel_due = None if self.is_closing else now + self.limits.cancel_retry
            if job.state is State.DRAINING:
                job.reason = f"cancelled, but it may still be there: {reasons.first_line(text)}"
        self.watch.stir(now)
        return self._take()

    # --- the jobs' own words

    def on_files(self, files: Mapping[str, JobFiles], now: float) -> list[c.Command]:
        """New start, exit-code and fail files were found. May be empty."""
        for job_id, found in files.items():
            job = self.jobs.get(job_id) or (self._meet(job_id, now) if found.exit_code is None else None)
            if job is not None and job.state is not State.ENDED:
                self.lifecycle.on_files(job, found, now)
        for job in self.jobs.values():
            if job.over_since is not None and job.over_since <= self._looking_since:
                job.is_searched = True
                self.lifecycle.settle(job, now)
        self.watch.on_looked(now, found=bool(files), watched=self.book.has_watched())
        return self._flush(now)

    def on_log(self, job_id: str, path: str, log: str, now: float) -> list[c.Command]:
        """The end of a job's log was read; ``log`` is empty if there is nothing to read at ``path``."""
        job = self.jobs.get(job_id)
        if job is None:
            return self._take()
        reason = job.doom.text if job.doom else job.reason
        if not self.is_closing:
            self._commands += self.verdict.on_log(job, reason, path, log, others_up=self.book.up_count())
        job.take_log(log, reasons.hint(log, self.terms), now)
        return self._take()

    # --- time

    def on_clock(self, now: float) -> list[c.Command]:
        """Time has passed."""
        if self.is_closing:
            return self._take()
        for job in [job for job in self.jobs.values() if job.state is not State.ENDED]:
            self.lifecycle.on_time(job, now)
        self._ask(now)
        return self._flush(now)

    # --- deciding and asking

    def _flush(self, now: float) -> list[c.Command]:
        """Compare the wish with what is alive, and return all commands so far."""
        if not self.is_closing:
            self._decide(now)
            due = [job for job in self.jobs.values() if job.cancel_due is not None and job.cancel_due <= now]
            for job in due:
                job.cancel_due = None
            if due:
                self._commands.append(c.Cancel(tuple(job.id for job in due)))
        return self._take()

    def _take(self) -> list[c.Command]:
        commands = self._commands.copy()
        self._commands.clear()
        return commands

    def _decide(self, now: float) -> None:
        verdict = self.verdict
        decision = decide(
            self.wish,
            self.book.alive(),
            now,
            not_before=verdict.not_before,
            is_stopped=verdict.is_stopped,
            idle=self._idle,
        )
        self._wait_until = decision.wait_until
        self._submit_what_fits(decision.submit, now)
        ending = Ending(Kind.CANCELLED, f"not wanted any more ({decision.reason})")
        for job_id in (*decision.cancel, *decision.retire):
            self.lifecycle.retire(self.jobs[job_id], ending, now)

    def _ask(self, now: float) -> None:
        """Ask what is due: accounting, the batch system, the jobs' files."""
        asked = [job for job in self.jobs.values() if job.usage_due is not None and job.usage_due <= now]
        for job in asked:
            job.usage_due = None
        if asked:
            self._commands.append(c.AskUsage(tuple(job.id for job in asked)))
        named = [job for job in self.book.alive() if job.id]
        questions = self.watch.questions(
            now,
            watched=[job.id for job in named if not job.workers] + self.book.unlisted(),
            connected=[job.id for job in named if job.workers],
            waiting=[job.id for job in named if job.state is State.QUEUED and not job.is_explained],
        )
        if c.LookAtFiles() in questions:
            self._looking_since = now
        self._commands += questions

    # --- jobs in and out of the book

    def _meet(self, job_id: str, now: float) -> Job:
        """A job that we have no name for shows up: its submission's answer is still on the way, or was lost."""
        self._commands.append(c.Journal("submitted", (job_id,)))
        return self.book.meet(job_id, now)

    def check(self) -> None:
        """Assert what must hold between any two events."""
        self.book.check()
        assert not self._commands, self._commands
        most = max(self.wish, len(self.book.submitting()))
        assert self.is_closing or self.book.live_count() <= most, self.wish
        assert not self.verdict.failure or self.verdict.is_stopped
