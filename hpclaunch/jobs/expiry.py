"""When jobs near the end of their walltime are replaced and drained. Pure.

A job is *expiring* once a replacement submitted now would, as far as waits in the queue are known, be up when it
is drained: it goes on working, and no longer counts toward the wish. It is drained a margin before its end, so
that what runs can end and what it holds can be moved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from hpclaunch.config.units import format_duration
from hpclaunch.jobs.job import Job, State
from hpclaunch.jobs.reasons import Ending, Kind

#: The margin, if no other is configured: so many seconds, or this part of a job's life if that is less.
MARGIN_SECONDS = 60.0
MARGIN_SHARE = 0.1
#: No job is replaced before this part of its life is over, however long the queue.
EARLIEST_SHARE = 0.5
#: Batch systems send the signal before the end so much earlier than it was asked for.
_SIGNALS_EARLY = 90.0
#: What the newest wait in the queue counts for in the average.
_NEWEST = 0.3


def margin_of(life: float, wanted: float | None) -> float:
    """Return how many seconds before its end a job of this life is drained."""
    margin = min(MARGIN_SECONDS, MARGIN_SHARE * life) if wanted is None else wanted
    return min(margin, life)


class Expiry:
    """What is known of waits in the queue, and what follows from it.

    :param margin: seconds between draining and end; None: see :func:`margin_of`.
    """

    def __init__(self, margin: float | None) -> None:
        self._margin = margin
        self.wait: float | None = None  # average seconds from submission to the first worker

    def on_first_worker(self, job: Job, now: float) -> None:
        """The first worker of a job came."""
        wait = now - job.born
        self.wait = wait if self.wait is None else self.wait + _NEWEST * (wait - self.wait)

    def drain_at(self, job: Job) -> float:
        """Return when a job is to be drained; infinity if no end is known."""
        if job.ends_at is None or job.first_join is None:
            return math.inf
        return job.ends_at - margin_of(job.ends_at - job.first_join, self._margin)

    def replace_at(self, job: Job) -> float:
        """Return from when on a job no longer counts."""
        if job.ends_at is None or job.first_join is None:
            return math.inf
        earliest = job.first_join + EARLIEST_SHARE * (job.ends_at - job.first_join)
        drain_at = self.drain_at(job)
        return min(drain_at, max(earliest, drain_at - (self.wait or 0.0)))

    def times(self, job: Job) -> Iterator[float]:
        """Return when something about a job falls due."""
        if job.state is State.UP:
            yield self.drain_at(job) if job.is_expiring else self.replace_at(job)

    def look(self, job: Job, now: float) -> Ending | None:
        """Note that a job is expiring; return its ending if it is time to drain it."""
        if job.state is not State.UP or job.ends_at is None:
            return None
        if not job.is_expiring and now >= self.replace_at(job):
            job.is_expiring = True
            job.note(f"its walltime ends in {format_duration(job.ends_at - now)}: to be replaced", now)
        if now < self.drain_at(job):
            return None
        return _in_time(job.ends_at - now)

    def told_to_end(self, job: Job, why: str, now: float) -> Ending:
        """Return the ending of a job that the batch system has told to end: it may be about its walltime.

        Else a person cancels it, or has it put back in the queue: that will show.
        """
        left = math.inf if job.ends_at is None else job.ends_at - now
        if now >= self.drain_at(job) - _SIGNALS_EARLY:
            return _in_time(left)
        return Ending(Kind.OUTSIDE, f"the batch system told it to end ({why})")


def _in_time(left: float) -> Ending:
    return Ending(Kind.WALLTIME, f"its walltime was to end in {max(0.0, left):.0f} s, so it was drained")
