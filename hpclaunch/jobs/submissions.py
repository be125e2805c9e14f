"""What becomes of submissions: taken, taken in part, or refused; and how many to make. Pure. A part of the ledger.

A refusal ends nothing while there are jobs: the cluster goes on with them, and more is tried later (see
:mod:`~hpclaunch.jobs.ceiling`). With no job at all, refusals in a row end in an error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from hpclaunch.jobs import commands as c, reasons
from hpclaunch.jobs.book import Book
from hpclaunch.jobs.ceiling import Ceiling
from hpclaunch.jobs.job import Job
from hpclaunch.jobs.lifecycle import Lifecycle
from hpclaunch.jobs.reasons import Ending, Kind
from hpclaunch.jobs.verdict import Verdict
from hpclaunch.jobs.watch import Watch

#: The end of every job that is alive when the cluster closes.
CLOSED = Ending(Kind.CANCELLED, "the cluster was closed")


class Submissions(ABC):
    """The part of :class:`~hpclaunch.jobs.ledger.Ledger` that submits."""

    wish: int
    book: Book
    jobs: dict[str, Job]
    verdict: Verdict
    watch: Watch
    ceiling: Ceiling
    lifecycle: Lifecycle
    refusal_text: str
    _commands: list[c.Command]
    _wait_until: float | None

    @abstractmethod
    def _flush(self, now: float) -> list[c.Command]:
        """Compare the wish with what is alive, and return all commands so far."""

    def on_submitted(self, ticket: int, ids: Sequence[str], now: float) -> list[c.Command]:
        """The batch system took a submission and named its jobs."""
        new = self.book.close_ticket(ticket, ids, now)
        self._commands.append(c.Journal("submitted", tuple(new)))
        self.verdict.refusals.reset()
        self.ceiling.on_taken(self.book.count())
        self.refusal_text = ""
        self._on_new(new, now)
        return self._flush(now)

    def _on_new(self, ids: Sequence[str], now: float) -> None:
        self.watch.stir(now)
        self.watch.expect_queue(now)
        for job_id in ids if self.lifecycle.is_closing else ():
            self.lifecycle.condemn(self.jobs[job_id], CLOSED, now, None)

    def on_limit_reached(
        self, ticket: int, ids: Sequence[str], limit: str, text: str, now: float, *, wish: int | None = None
    ) -> list[c.Command]:
        """The batch system took these jobs of a submission, and no more: a limit is reached.

        With no job at all that is a refusal; see :meth:`on_submit_failed` for ``text`` and ``wish``.
        """
        new = self.book.close_ticket(ticket, ids, now, is_all=False)
        if new:
            self._commands.append(c.Journal("submitted", tuple(new)))
            self.verdict.refusals.reset()
            self._on_new(new, now)
        if self.book.count():
            self.ceiling.on_refused(self.book.count(), f"{limit} is reached", now)
            self.refusal_text = text
        else:
            self._on_refused(text, now, wish)
        return self._flush(now)

    def on_submit_failed(self, ticket: int, text: str, now: float, *, wish: int | None = None) -> list[c.Command]:
        """A submission was refused.

        :param wish: the wish before, if the one who wished was told. It is his turn then: the wish falls back
            to what there is, and nothing is tried again until the client asks again.
        """
        del self.book.tickets[ticket]
        self._on_refused(text, now, wish)
        return self._flush(now)

    def _on_refused(self, text: str, now: float, wish: int | None) -> None:
        if wish is not None:
            self.wish = min(wish, sum(job.is_live for job in self.book.alive()))
        elif not self.lifecycle.is_closing:
            self.refusal_text = text
            if self.book.count():  # the cluster works with what it has
                self.ceiling.on_refused(self.book.count(), reasons.in_one_line(text), now)
            else:
                self._commands += self.verdict.on_refused(text, now, newest=self.book.generation)

    def _submit_what_fits(self, wanted: int, now: float) -> int:
        """Submit as many of the wanted jobs as the batch system is known to take; return how many."""
        room = self.ceiling.room(self.book.count(), wanted, now)
        if room < wanted:
            self._wait_until = self.ceiling.try_at
        if room:
            self._submit(room, now)
        return room

    def _submit(self, count: int, now: float) -> None:
        self.verdict.submissions.take(now)
        self._commands.append(c.Submit(self.book.open_ticket(count, now), count))
