"""Ending what runs by ending its process: tasks that are cancelled by force or do not end when their time is over,
and all workers at a restart.

The scheduler knows which tasks a worker has, and its supervisor which of them it runs. So the supervisor is asked,
and asked again for as long as the worker has not answered for the task, which may begin at any time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.timeouts import overdue

if TYPE_CHECKING:
    from hpclaunch.scheduler.server import SchedulerServer

_CANCELLED = "its process was replaced because a task that it ran was cancelled by force"
_OVER_TIME = "its process was replaced because a task that it ran did not end when its timeout was over"


class Replacing:
    """Has worker processes replaced, for a SchedulerServer."""

    def __init__(self, server: SchedulerServer) -> None:
        self._server = server
        self.restarted: frozenset[str] = frozenset()  # the workers that the last restart was about
        self._doomed: dict[str, set[str]] = {}  # worker -> tasks on it that were cancelled by force

    def on_cancel(self, message: m.CancelKeys) -> None:
        """A client cancels tasks."""
        tasks = self._server.reactor.state.tasks
        doomed: dict[str, set[str]] = {}
        for key in message.keys if message.force else ():
            task = tasks.get(key)
            if task is not None and task.worker is not None:
                doomed.setdefault(task.worker.name, set()).add(key)
        self._server.reactor.on_keys_cancelled(message.keys)
        for name, keys in doomed.items():
            self._doomed.setdefault(name, set()).update(keys)
            self.replace([name], keys, _CANCELLED)

    def on_tick(self) -> None:
        """Ask again for the end of tasks that were cancelled by force, and of those that are over their time."""
        for name, late in overdue(self._server.reactor.state, time.monotonic()).items():
            self.replace([name], late, _OVER_TIME)
        for name, keys in list(self._doomed.items()):
            worker = self._server.reactor.state.workers.get(name)
            keys.intersection_update(worker.assigned if worker is not None else ())
            if keys:
                self.replace([name], keys, _CANCELLED)
            else:
                del self._doomed[name]

    def can_replace(self, names: Iterable[str]) -> bool:
        """Say whether each of these workers has a supervisor, which can start another one in its stead."""
        return all(self._server.supervisor_of(name) is not None for name in names)

    def replace(self, names: Iterable[str], keys: Iterable[str], reason: str) -> None:
        """Have those of these workers replaced that run one of these tasks (all, if none is named)."""
        for name in names:
            supervisor = self._server.supervisor_of(name)
            if supervisor is not None:
                supervisor.comm.send(m.ReplaceWorkers([name], list(keys), reason))
