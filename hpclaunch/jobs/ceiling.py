"""How many jobs the batch system takes from this cluster at a time, as far as its refusals have told. Pure.

Sites limit how many jobs a user may have submitted. Such a refusal is no failure: what there is goes on, a job
that ends makes room for another, and now and then more is tried, for the limit may rise and others of the user's
jobs end. The pause between two tries grows while they are in vain.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(slots=True)
class Ceiling:
    """The number of jobs at which the last submission was refused.

    :param rng: spreads the pauses by up to ``jitter``.
    """

    rng: Random
    first_seconds: float = 5.0
    growth: float = 2.0
    cap_seconds: float = 300.0
    jitter: float = 0.1
    jobs: int | None = None  # None: nothing was refused
    reason: str = ""
    try_at: float = 0.0  # unix time
    _tries: int = 0

    def on_refused(self, jobs: int, reason: str, now: float) -> None:
        """A submission was refused, for one job more than there were."""
        self.jobs, self.reason = jobs, reason
        wait = min(self.cap_seconds, self.first_seconds * self.growth**self._tries)
        self._tries += 1
        self.try_at = now + wait * (1 + self.jitter * self.rng.random())

    def on_taken(self, jobs: int) -> None:
        """A whole submission was taken, and there are so many jobs now."""
        if self.jobs is not None and jobs > self.jobs:
            self.reset()

    def reset(self) -> None:
        """Forget it: the user asks for jobs again."""
        self.jobs, self.reason, self.try_at, self._tries = None, "", 0.0, 0

    def room(self, jobs: int, wanted: int, now: float) -> int:
        """Return how many of so many wanted jobs to submit, where there are ``jobs`` already."""
        if self.jobs is None or now >= self.try_at:
            return wanted
        return max(0, min(wanted, self.jobs - jobs))

    def is_reached(self, jobs: int) -> bool:
        """Return whether one job more would be refused, as far as is known."""
        return self.jobs is not None and jobs >= self.jobs

    def text(self, title: str) -> str:
        """Return a sentence without a full stop, the same until the limit or its reason changes."""
        count = "1 job" if self.jobs == 1 else f"{self.jobs} jobs"
        return f"{title} takes no more than {count} now ({self.reason}); more are tried now and then"
