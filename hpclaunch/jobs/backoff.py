"""When to try again after something failed: waits that grow, and the point at which to give up. And how often to
do a thing at all. Pure.

Failures are counted in *rounds*, not one by one: eight jobs of one submission that die in the same second are one
round. Every submission is a generation; a failure opens a new round only if its job was submitted after the last
round began. So with a wish of N jobs, at most N * limit are submitted before we stop, in whatever order they die.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(slots=True)
class Backoff:
    """Rounds of one kind of failure.

    :param rng: spreads the waits by up to ``jitter``, so that many clusters do not come back in step.
    :param limit: rounds in a row after which to give up; ``patient_limit`` applies while other jobs are up: they
        do the work meanwhile.
    """

    rng: Random
    first_seconds: float = 1.0
    growth: float = 2.0
    cap_seconds: float = 60.0
    jitter: float = 0.1
    limit: int = 3
    patient_limit: int = 8
    rounds: int = 0
    not_before: float = 0.0
    _opened_by: int = -1  # generation of the job that opened the current round
    _covers: int = -1  # failures of generations up to this one belong to the current round

    def on_failure(self, generation: int, newest: int, now: float) -> bool:
        """Count the failure of a job; ``newest`` is the last generation submitted. True if it opens a round."""
        if generation <= self._covers:
            return False
        self.rounds += 1
        self._opened_by = generation
        self._covers = newest
        wait = min(self.cap_seconds, self.first_seconds * self.growth ** (self.rounds - 1))
        self.not_before = now + wait * (1 + self.jitter * self.rng.random())
        return True

    def on_success(self, generation: int) -> None:
        """A job did well. It ends the row of failures, unless it is older than the last round's."""
        if generation >= self._opened_by:
            self.rounds = 0
            self.not_before = 0.0

    def reset(self) -> None:
        """Forget all failures: a client asked to try again."""
        self.rounds = 0
        self.not_before = 0.0
        self._opened_by = self._covers = -1

    def is_exhausted(self, *, others_up: bool) -> bool:
        """Return whether to give up now."""
        return self.rounds >= (self.patient_limit if others_up else self.limit)


@dataclass(slots=True)
class Pace:
    """An interval between questions that is short after a change and grows while nothing changes. Seconds."""

    floor: float
    cap: float
    growth: float = 1.5
    interval: float = 0.0

    def __post_init__(self) -> None:
        self.interval = self.floor

    def quicken(self) -> float:
        """Something changed: go back to the shortest interval, and return it."""
        self.interval = self.floor
        return self.interval

    def slacken(self) -> float:
        """Nothing changed: lengthen the interval, and return it."""
        self.interval = min(self.cap, self.interval * self.growth)
        return self.interval


@dataclass(slots=True)
class Bucket:
    """Permits: some at once, and from then on so many in a minute.

    :param per_minute: at this rate permits come back.
    :param most: permits that there are when none was used for long.
    """

    per_minute: float
    most: int = 10
    left: float = 10.0
    not_before: float = 0.0  # unix time of the next permit
    _since: float = 0.0

    def take(self, now: float) -> None:
        """Use a permit."""
        self.left = min(self.most, self.left + (now - self._since) * self.per_minute / 60) - 1
        self._since = now
        self.not_before = now + max(0.0, 1 - self.left) * 60 / self.per_minute
