"""The book of a cluster's jobs: which there are, under which names, and which of them count. Pure.

A job is entered when it is submitted, under its submission's *ticket*, and gets its name when the batch system
gives it one, or when it shows up before that. Nothing is decided here: see :mod:`~hpclaunch.jobs.ledger`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

from hpclaunch.jobs.job import Job, JobRow, State


class Book:
    """All jobs of one ledger."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}  # by id, in order of submission
        self.tickets: dict[int, list[Job]] = {}  # being submitted; the ticket is the generation
        self.generation = 0  # of the newest submission
        self._count = 0

    # --- questions

    def alive(self) -> Iterator[Job]:
        """Return all jobs that have not ended, those being submitted last."""
        yield from (job for job in self.jobs.values() if job.state is not State.ENDED)
        yield from self.submitting()

    def submitting(self) -> list[Job]:
        """Return the jobs that have no name yet."""
        return [job for jobs in self.tickets.values() for job in jobs]

    def live_count(self) -> int:
        """Return how many jobs count toward the wish."""
        return sum(job.is_live and not job.is_expiring for job in self.alive())

    def count(self) -> int:
        """Return how many jobs the batch system may have now, those on their way out too."""
        return sum(1 for _ in self.alive())

    def up_count(self) -> int:
        """Return how many jobs have workers."""
        return sum(bool(job.workers) for job in self.jobs.values())

    def has_watched(self) -> bool:
        """Return whether there are jobs that only the batch system can tell us about."""
        return any(job.id and not job.workers for job in self.alive()) or bool(self.unlisted())

    def unlisted(self) -> list[str]:
        """Return the ids of jobs that have ended, and of which no listing has confirmed that."""
        return [job.id for job in self.jobs.values() if job.state is State.ENDED and job.is_unlisted]

    def to_cancel(self) -> list[str]:
        """Return the ids of all jobs that may still be there, also those whose end is not confirmed."""
        return [job.id for job in self.jobs.values() if job.state is not State.ENDED or job.is_assumed]

    def rows(self, silence: str) -> list[JobRow]:
        """Return the table of jobs, in order of submission.

        :param silence: that the batch system does not answer; empty if it does.
        """
        known = sorted([*self.jobs.values(), *self.submitting()], key=attrgetter("number"))
        return [job.row(silence) for job in known]

    # --- in and out

    def open_ticket(self, count: int, now: float) -> int:
        """Enter the jobs of a new submission; return its ticket."""
        self.generation += 1
        self.tickets[self.generation] = [self._new(now) for _ in range(count)]
        return self.generation

    def close_ticket(self, ticket: int, ids: Sequence[str], now: float, *, is_all: bool = True) -> list[str]:
        """Name the jobs of a submission; return the names that are new.

        :param is_all: False if the batch system did not take the others: there are none such then.
        """
        waiting = self.tickets.pop(ticket)
        new = [job_id for job_id in ids if job_id not in self.jobs]
        for job_id in new:
            self._name(waiting.pop(0) if waiting else self._nameless(now), job_id, now, "queued")
        for other in self.tickets.values() if is_all else ():  # one that was met early came from the wrong ticket
            other += waiting
            break
        return new

    def meet(self, job_id: str, now: float) -> Job:
        """A job shows up whose submission's answer is still on the way, or was lost."""
        return self._name(self._nameless(now), job_id, now, "queued")

    def adopt(self, job_id: str, now: float) -> Job:
        """Enter a job of an earlier head."""
        return self._name(self._new(now), job_id, now, "taken over from an earlier head")

    def forget_old(self, keep: int) -> None:
        """Keep the table of a long-lived cluster short."""
        over = [job.id for job in self.jobs.values() if job.state is State.ENDED and not job.is_assumed]
        for job_id in over[: max(0, len(over) - keep)]:
            del self.jobs[job_id]

    def _new(self, now: float) -> Job:
        self._count += 1
        return Job(self._count, self.generation, now)

    def _name(self, job: Job, job_id: str, now: float, text: str) -> Job:
        job.id = job_id
        self.jobs[job_id] = job
        job.move(State.QUEUED, now, text)
        return job

    def _nameless(self, now: float) -> Job:
        """Return a job that has no name yet, of whichever submission; a new one if there is none."""
        waiting = next((jobs for jobs in self.tickets.values() if jobs), None)
        return waiting.pop(0) if waiting else self._new(now)

    def check(self) -> None:
        """Assert what must hold between any two events."""
        for job_id, job in self.jobs.items():
            assert job.id == job_id, job
            job.check()
        submitting = self.submitting()
        assert all(job.state is State.SUBMITTING for job in submitting), submitting
        numbers = [job.number for job in (*self.jobs.values(), *submitting)]
        assert len(set(numbers)) == len(numbers), numbers
