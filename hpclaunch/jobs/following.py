"""A ledger whose wish can follow the work: what adaptive scaling decides is applied here. Pure.

While it follows, there is no wish to be kept: a job that ends is replaced only if the next decision says so, and
the jobs that are retired are those that the decision names. ``on_scale`` goes back to a wish that is kept.
Back-off and giving up are as ever. It also adds up how long jobs have run, for budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from hpclaunch.jobs import commands as c
from hpclaunch.jobs.job import Limits
from hpclaunch.jobs.ledger import Ledger
from hpclaunch.jobs.reasons import Ending, Kind, Terms


class FollowingLedger(Ledger):
    """A :class:`~hpclaunch.jobs.ledger.Ledger` that can be told to follow decisions."""

    def __init__(self, terms: Terms, rng: Random, limits: Limits | None = None) -> None:
        super().__init__(terms, rng, limits)
        self._quota: int | None = None  # jobs that are still to be submitted; None: the wish is kept
        self._worth = 0  # jobs that the work is worth, while it follows

    def on_scale(self, wish: int, now: float, idle: Sequence[str] = ()) -> list[c.Command]:
        """A client asks for so many jobs; see :meth:`Ledger.on_scale`."""
        self._quota = None
        return super().on_scale(wish, now, idle)

    def on_adapted(
        self, submit: int, release: Iterable[str], reason: str, now: float, *, worth: int = 0
    ) -> list[c.Command]:
        """Adaptive scaling wants so many jobs more, and these retired.

        :param worth: so many jobs the work is worth, whether or not they can be had.
        """
        self._quota, self._worth = submit, worth
        ending = Ending(Kind.CANCELLED, f"not wanted any more ({reason})")
        for job_id in release:
            job = self.jobs.get(job_id)
            if job is not None and job.is_live:
                self.lifecycle.retire(job, ending, now)
        return self._flush(now)

    def _wanted(self) -> int:
        return self.wish if self._quota is None else self._worth

    def _decide(self, now: float) -> None:
        if self._quota is None:
            super()._decide(now)
            return
        verdict = self.verdict
        self._wait_until = None
        if self._quota and not verdict.is_stopped:
            if now < verdict.not_before:
                self._wait_until = verdict.not_before
            else:
                count, self._quota = self._quota, 0
                self._submit_what_fits(count, now)
                self._wait_until = None  # the next decision comes soon
        self.wish = sum(job.is_live for job in self.book.alive())
