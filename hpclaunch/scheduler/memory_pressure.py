"""Workers whose memory is full: they get no tasks; and what to say when that stops everything.

Pure.
"""

from __future__ import annotations

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.state import PAUSED, SchedulerState

#: Seconds that everything may stand still for want of memory before clients are told.
STALL_SECONDS = 20.0


def on_worker_paused(state: SchedulerState, name: str, message: m.WorkerPaused) -> None:
    """A worker's memory is full, and it gives back what it has not started; or it takes tasks again."""
    worker = state.workers[name]
    worker.refuses = worker.refuses | PAUSED if message.paused else worker.refuses & ~PAUSED
    state.index(worker)


def is_stuck(state: SchedulerState) -> bool:
    """Say whether tasks are ready and nothing runs, because the memory of every worker is full."""
    workers = state.workers.values()
    return bool(state.ready.count and workers) and all(w.refuses & PAUSED and not w.assigned for w in workers)


class StallMonitor:
    """Notes since when everything stands still, and what the paused workers said."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._has_told = False
        self.whys: dict[str, str] = {}  # by worker

    def on_paused(self, name: str, message: m.WorkerPaused) -> None:
        """A worker said that it pauses, and why; or that it goes on."""
        if message.paused:
            self.whys[name] = message.why
        else:
            self.whys.pop(name, None)

    def warning(self, state: SchedulerState, now: float) -> str:
        """Return what clients are to be told now; empty if nothing, or if they have been told."""
        if not is_stuck(state):
            self._since, self._has_told = None, False
            return ""
        if self._since is None:
            self._since = now
        if self._has_told or now - self._since < STALL_SECONDS:
            return ""
        self._has_told = True
        self.whys = {name: why for name, why in self.whys.items() if name in state.workers}
        name, why = next(iter(self.whys.items()), ("", ""))
        return (
            f"{state.ready.count} tasks wait, and all {len(state.workers)} workers are paused, for their memory "
            f"is full of results that are still wanted. Of worker {name}: {why}. Release futures that you do "
            "not need, give jobs more memory, scale up, or let results be written to disk (target, spill, "
            "max-spill, local-directory)"
        )
