"""What clients can ask of the scheduler's state: who has what, and why a task is where it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from hpclaunch.scheduler.eligibility import workers_named
from hpclaunch.scheduler.state import SchedulerState
from hpclaunch.scheduler.why import why


class Inspection:
    """Answers from the state alone.

    :param silent: returns the workers of which nothing is heard, and why that is so.
    """

    def __init__(self, state: SchedulerState, silent: Callable[[], Mapping[str, str]]) -> None:
        self._state = state
        self._silent = silent

    def nthreads(self, workers: Sequence[str] | None = None) -> dict[str, int]:
        """Return the threads of some workers, without those that stand in for tasks that wait."""
        known = self._state.workers
        names = workers_named(self._state, workers)
        return {name: known[name].threads - len(known[name].seceded) for name in names}

    def who_has(self, keys: Sequence[str] | None = None) -> dict[str, list[str]]:
        """Return the workers that keep each of some large results."""
        tasks = self._state.tasks
        some = [key for key, task in tasks.items() if task.holders] if keys is None else keys
        return {key: [w.name for w in tasks[key].holders or ()] if key in tasks else [] for key in some}

    def has_what(self, workers: Sequence[str] | None = None) -> dict[str, list[str]]:
        """Return the keys of the results that each of some workers keeps."""
        names = workers_named(self._state, workers)
        return {name: list(self._state.workers[name].holds) for name in names}

    def processing(self, workers: Sequence[str] | None = None) -> dict[str, list[str]]:
        """Return the keys of the tasks that each of some workers has."""
        names = workers_named(self._state, workers)
        return {name: list(self._state.workers[name].assigned) for name in names}

    def why(self, key: str) -> str:
        """Return in words how a task stands; empty if it is not known."""
        return why(self._state, key, time.monotonic(), self._silent())
