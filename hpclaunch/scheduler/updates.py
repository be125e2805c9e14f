"""What a client is told at the end of a tick. Pure data."""

from __future__ import annotations

from collections.abc import Iterable

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.state import Task


class Updates:
    """What one client is told after this tick, in columns; behind its fence, if it has put one up."""

    __slots__ = ("cancelled", "failed", "fence", "keys", "results", "retried", "stored")

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.results: list[bytes] = []
        self.stored: list[tuple[str, int, list[str]]] = []
        self.failed: list[tuple[str, m.Failure]] = []
        self.cancelled: list[str] = []
        self.fence = 0
        self.retried: list[str] = []  # failed, and run once more: what follows is of the new run

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to tell but a fence."""
        return not (self.keys or self.stored or self.failed or self.cancelled or self.retried)

    def messages(self) -> Iterable[m.Message]:
        """Return it as messages, one of each kind at most."""
        if self.fence:
            yield m.Fence(self.fence)
        if self.retried:
            yield m.TasksRetried(self.retried)
        if self.keys:
            yield m.TasksDone(self.keys, self.results)
        if self.stored:
            keys, sizes, holders = zip(*self.stored, strict=True)
            yield m.TasksStored(list(keys), list(sizes), [], list(holders))
        if self.failed:
            keys, failures = zip(*self.failed, strict=True)
            yield m.TasksFailed(list(keys), list(failures))
        if self.cancelled:
            yield m.TasksCancelled(self.cancelled)


def killed(task: Task) -> m.Failure:
    """Return the failure of a task that took too many workers down."""
    deaths = task.deaths or []
    # The first line of each tells how it died; what it had printed is of interest for the last one.
    lines = [f"  {i}. {how.partition(chr(10))[0]}" for i, (_, how) in enumerate(deaths, 1)]
    printed = deaths[-1][1].splitlines()[1:] if deaths else []
    listed = "\n".join([*lines, *(f"     {line}" for line in printed)])
    # The words of deaths.how().
    received = ", or received what it needs" if any(" received what " in how for _, how in deaths) else ""
    return m.Failure(
        "KilledWorkerError",
        f"{len(deaths)} workers died while they ran task {task.key} ({task.function.name}){received}; it will not "
        f"be tried again:\n{listed}",
    )
