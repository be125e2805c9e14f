"""The life of one job: what a listing, its files, accounting and time say of it, and how it ends. Pure.

The ledger hands each fact about a job to :class:`Lifecycle`, which moves the job from state to state and adds the
commands that follow. It knows nothing of how many jobs are wanted.
"""

from __future__ import annotations

from hpclaunch.batch.base import JobState, JobStatus
from hpclaunch.jobs import commands as c, reasons
from hpclaunch.jobs.book import Book
from hpclaunch.jobs.expiry import Expiry
from hpclaunch.jobs.job import Job, JobFiles, Limits, State, on_host
from hpclaunch.jobs.reasons import Ending, Kind, Terms
from hpclaunch.jobs.verdict import Verdict
from hpclaunch.jobs.watch import Watch


class Lifecycle:
    """The steps of each job of one ledger.

    :param commands: what follows is added to this list.
    """

    def __init__(
        self,
        terms: Terms,
        limits: Limits,
        book: Book,
        verdict: Verdict,
        watch: Watch,
        expiry: Expiry,
        commands: list[c.Command],
    ) -> None:
        self.terms = terms
        self.limits = limits
        self.book = book
        self.verdict = verdict
        self.watch = watch
        self.expiry = expiry
        self.commands = commands
        self.is_closing = False  # the cluster ends: nothing is asked, replaced or judged any more
        self.head_addresses = ""  # as sentences name them
        self.ended_seconds = 0.0  # run by all jobs that have ended

    # --- facts about a job

    def on_listed(self, job: Job, status: JobStatus, now: float) -> bool:
        """Apply one line of a listing; return whether it changed anything."""
        if status.state is JobState.UNKNOWN:
            return self._on_missing(job, now)
        if status.state is JobState.ENDED:
            if job.workers or job.listed_end is not None:
                return False
            job.listed_end = status.reason
            self.on_over(job, now)
            return True
        if job.exit_code is None:
            job.on_seen()
        job.host = status.host or job.host
        if job.state is State.DRAINING and status.state is JobState.QUEUED and job.joined is not None:
            self._second_life(job, now)
        if job.workers or job.state is State.DRAINING:
            return False
        return self._on_listed_alive(job, status, now)

    def on_listed_after_end(self, job: Job, status: JobStatus, asked_at: float, now: float) -> None:
        """A listing has a job whose script had come to its end: it is over, or the batch system has put it back.

        Grid Engine does so for exit code 99, and keeps a job in an error state for 100.
        """
        if status.state is JobState.ENDED:
            job.is_unlisted = False
        elif status.state is JobState.UNKNOWN:  # most batch systems do not list what is over, or may miss a job
            job.is_unlisted = job.is_unlisted and asked_at - job.since < self.limits.returning
        elif status.state not in (JobState.QUEUED, JobState.STUCK) or not job.is_unlisted:
            return
        elif asked_at - job.since >= self.limits.requeue:  # else the listing may be late
            job.is_unlisted, job.is_assumed = False, True
            job.note("in the queue again after its end, and cancelled", now)
            self.commands.append(c.Cancel((job.id,)))

    def _on_listed_alive(self, job: Job, status: JobStatus, now: float) -> bool:
        before = job.state, job.is_stuck
        match status.state:
            case JobState.QUEUED:
                self._on_listed_queued(job, now)
                job.is_explained = reasons.explains(status.reason)
                job.reason = status.reason if job.is_explained else job.reason
            case JobState.STARTING if job.state is State.QUEUED:
                job.move(State.STARTING, now, f"starting{on_host(job.host)}")
                job.reason = ""
            case JobState.RUNNING:
                job.on_running(now, now)
            case JobState.SUSPENDED:
                job.reason = f"suspended{f' ({status.reason})' if status.reason else ''}"
                job.running_since = now if job.running_since is not None else None
                job.alone_since = now if job.alone_since is not None else None
            case JobState.STUCK if not job.is_stuck:
                job.is_stuck = True
                job.reason = status.reason
                job.note(f"stuck: {status.reason or 'the batch system will not run it'}", now)
                self.commands.append(c.AskReason(job.id))
        return before != (job.state, job.is_stuck)

    def _on_listed_queued(self, job: Job, now: float) -> None:
        """A job that had started is listed as queued: it was put back, unless the listing is just late."""
        if job.state not in (State.STARTING, State.UP):
            return
        if job.exit_code is None and now - job.since < self.limits.requeue:
            return
        self._put_back(job, now)

    def _put_back(self, job: Job, now: float) -> None:
        """The batch system has ended a job's run and is to begin another."""
        job.put_back(now)
        job.move(State.QUEUED, now, "put back in the queue by the batch system")
        self.commands.append(c.AskPutBack(job.id))
        self.watch.expect_queue(now)

    def _second_life(self, job: Job, now: float) -> None:
        """A job that was told to end, and that others stand in for, was put back instead: it is not needed."""
        if job.workers:
            return
        job.joined = None
        job.cancel_due = now
        if job.is_told:
            job.is_told = False
            job.doom = Ending(Kind.OUTSIDE, reasons.STOOD_IN_FOR)
            job.reason = job.doom.text
        job.note("put back in the queue by the batch system, and cancelled: it had been told to end", now)
        self.commands.append(c.AskPutBack(job.id))

    def _on_missing(self, job: Job, now: float) -> bool:
        if job.workers:
            return False
        job.misses += 1
        first = job.over_since is None
        self.on_over(job, now)
        self.settle(job, now)
        return first

    def on_files(self, job: Job, found: JobFiles, now: float) -> None:
        if job.is_another_run(found.started):  # it began before any listing said so
            if job.workers and job.state is State.UP:  # and they joined before we looked
                job.note("put back in the queue by the batch system, and it runs again", now)
                self.commands.append(c.AskPutBack(job.id))
            elif job.state in (State.STARTING, State.UP):
                self._put_back(job, now)
            elif job.state is State.DRAINING:
                self._second_life(job, now)
        job.started = found.started
        job.on_files(found, now)
        if found.exit_code is not None and not job.workers:
            self.on_over(job, now)
            self.settle(job, now)

    def on_over(self, job: Job, now: float) -> None:
        """There is evidence that the job is over; accounting is asked for the rest."""
        if job.over_since is None:
            job.over_since = now
            job.usage_due = now
            job.is_searched = False
            self.watch.stir(now)
            self.watch.look_now(now)

    def settle(self, job: Job, now: float) -> None:
        """End a job whose end is certain, or has been uncertain for too long."""
        if job.state is State.ENDED or job.over_since is None or now < job.settle_time(self.limits):
            return
        self._prove(job, now)
        ending = job.doom or reasons.why_ended(job.evidence(), self.terms)
        confirmed = job.usage is not None or job.exit_code is not None or job.listed_end is not None
        job.is_assumed = not confirmed or job.is_told  # who was told to end may have been put back
        job.is_unlisted = job.listed_end is None and not job.is_assumed
        self.end(job, ending, now)
        if job.is_assumed and not self.is_closing:  # it will be replaced, so it must not come back
            self.commands.append(c.Cancel((job.id,)))

    def end(self, job: Job, ending: Ending, now: float) -> None:
        job.workers.clear()
        job.cancel_due = None
        late = job.usage is None and ending.kind in (Kind.OUTSIDE, Kind.LOST, Kind.FAILED, Kind.WALLTIME)
        job.usage_due = now + 3 * self.limits.usage if late and not self.is_closing else None
        job.over_since = None
        job.move(State.ENDED, now, f"ended: {ending.text}")
        job.note_usage(self.terms, now)
        if not job.reason.startswith(ending.text):  # it may have grown by what the log says
            job.reason = ending.text
        self.commands.append(c.Journal("ended", (job.id,)))
        if job.is_told and not job.was_put_back and not self.is_closing:
            self.commands.append(c.AskPutBack(job.id))
        self.ended_seconds += job.used_seconds(now)
        self._judge(job, ending, now)
        self.book.forget_old(self.limits.keep_ended)

    def on_time(self, job: Job, now: float) -> None:
        self._prove(job, now)
        if job.over_since is not None:
            self.settle(job, now)
        elif now >= job.silence_time(self.limits):
            had_workers = job.state is State.UP
            patience = self.limits.alone if had_workers else self.limits.startup
            ending = reasons.silent(job.host, patience, self.head_addresses, had_workers=had_workers)
            self.condemn(job, ending, now, now)
        elif expired := self.expiry.look(job, now):
            self.drain(job, expired, now)

    def _prove(self, job: Job, now: float) -> None:
        if not job.is_proved and job.has_proved(self.limits, now):
            job.is_proved = True
            self.verdict.on_proved(job)

    # --- ends that we decide

    def condemn(self, job: Job, ending: Ending, now: float, cancel_due: float | None) -> None:
        """Decide to end a job; the cancel command goes out at ``cancel_due``."""
        job.doom = ending
        job.reason = ending.text
        job.cancel_due = cancel_due
        job.move(State.DRAINING, now, f"to be cancelled: {ending.text}")
        self._judge(job, ending, now)

    def drain(self, job: Job, ending: Ending, now: float) -> None:
        """Let a job end that has not long to live."""
        left = job.ends_at - now if job.ends_at is not None else self.limits.retire
        self.condemn(job, ending, now, now + left + self.limits.overtime)
        self.commands.append(c.RetireWorkers(job.id, ending.text, max(0.0, left), max(0.0, left)))

    def retire(self, job: Job, ending: Ending, now: float) -> None:
        """End a job that is not wanted any more; its workers finish their tasks first."""
        retire, goodbye = self.limits.retire, self.limits.goodbye
        self.condemn(job, ending, now, now + retire + goodbye if job.workers else now)
        if job.workers:
            self.commands.append(c.RetireWorkers(job.id, ending.text, retire, goodbye))

    def _judge(self, job: Job, ending: Ending, now: float) -> None:
        if not self.is_closing:
            up = self.book.up_count()
            self.commands += self.verdict.on_ending(job, ending, now, newest=self.book.generation, others_up=up)
