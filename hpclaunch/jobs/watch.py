"""When to ask about jobs: listings, files, reasons for waiting. Pure timing; what to ask is the ledger's.

One listing is asked for all jobs, and never two at a time. The interval is short after a change and grows while
nothing changes. Jobs whose workers are connected are asked about only every ``poll_connected`` seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random

from hpclaunch.jobs.backoff import Pace
from hpclaunch.jobs.commands import AskReason, Command, LookAtFiles, Poll
from hpclaunch.jobs.job import Limits

#: Intervals between listings vary by so much, so that many clusters do not ask in step.
_JITTER = 0.1


class Watch:
    """The next times of the three questions."""

    def __init__(self, limits: Limits, rng: Random) -> None:
        self._rng = rng
        self._connected_seconds = limits.poll_connected
        self._poll_pace = Pace(limits.poll_floor, limits.poll_cap)
        self._look_pace = Pace(limits.poll_floor, limits.look_cap)
        self._explain_pace = Pace(limits.explain, limits.explain_cap, growth=2.0)
        self._poll_at = self._look_at = self._explain_at = math.inf
        self._all_at = math.inf  # when the connected jobs are asked about again
        self._is_polling = self._is_looking = self._is_explaining = False
        self._is_look_owed = False  # also if no job is watched

    def times(self) -> Iterator[float]:
        """Return the unix times at which a question is due that is not already under way."""
        if not self._is_polling:
            yield min(self._poll_at, self._all_at)
        if not self._is_looking:
            yield self._look_at
        if not self._is_explaining:
            yield self._explain_at

    def stir(self, now: float) -> None:
        """Something changed, or will in a moment: ask soon."""
        self._poll_at = min(self._poll_at, now + self._poll_pace.quicken())
        self._look_at = min(self._look_at, now + self._look_pace.quicken())

    def look_now(self, now: float) -> None:
        """A job seems over: what did it leave behind?"""
        self._look_at = now

    def look_once(self, now: float) -> None:
        """A job has workers again: do they belong to another run of it?"""
        self._look_at = now
        self._is_look_owed = True

    def expect_queue(self, now: float) -> None:
        """Jobs were put in the queue: if they stay there, ask why."""
        self._explain_at = min(self._explain_at, now + self._explain_pace.quicken())

    def stop(self) -> None:
        """Ask nothing any more."""
        self._poll_at = self._look_at = self._explain_at = self._all_at = math.inf

    def questions(
        self, now: float, *, watched: Sequence[str], connected: Sequence[str], waiting: Sequence[str]
    ) -> list[Command]:
        """Return what to ask now.

        :param watched: jobs that only the batch system can tell us about.
        :param connected: jobs with workers.
        :param waiting: queued jobs whose listing gives no reason, the oldest first.
        """
        commands: list[Command] = []
        if not self._is_polling and now >= min(self._poll_at, self._all_at):
            commands += self._poll(now, watched, connected)
        if not self._is_looking and now >= self._look_at:
            self._look_at = math.inf
            self._is_looking = bool(watched) or self._is_look_owed
            self._is_look_owed = False
            commands += [LookAtFiles()] if self._is_looking else []
        if not self._is_explaining and now >= self._explain_at:
            self._explain_at = math.inf
            self._is_explaining = bool(waiting)
            commands += [AskReason(waiting[0])] if waiting else []
        if connected and self._all_at == math.inf:
            self._all_at = now + self._connected_seconds
        return commands

    def on_listed(self, now: float, *, changed: bool, watched: bool) -> None:
        """A listing came, or failed to."""
        self._is_polling = False
        interval = self._poll_pace.quicken() if changed else self._poll_pace.slacken()
        interval *= 1 + _JITTER * self._rng.random()
        if watched:  # what happened meanwhile may have asked for an earlier one
            self._poll_at = min(self._poll_at, now + interval)

    def on_looked(self, now: float, *, found: bool, watched: bool) -> None:
        """The files were looked at."""
        self._is_looking = False
        interval = self._look_pace.quicken() if found else self._look_pace.slacken()
        if watched:
            self._look_at = min(self._look_at, now + interval)
        if found:
            self.stir(now)

    def on_explained(self, now: float) -> None:
        """A reason for waiting came, or there is none."""
        self._is_explaining = False
        self._explain_at = now + self._explain_pace.slacken()

    def _poll(self, now: float, watched: Sequence[str], connected: Sequence[str]) -> list[Command]:
        ids = list(watched)
        if now >= self._all_at:
            ids += connected
            self._all_at = math.inf
        self._poll_at = math.inf
        self._is_polling = bool(ids)
        return [Poll(tuple(ids))] if ids else []
