"""Restarts of worker processes: for tasks that are cancelled by force or do not end when their time is over, and
of all workers when a client restarts the cluster.

The scheduler knows which tasks a worker has, and its supervisor which of them it runs. So the supervisor is asked,
and asked again for as long as the worker has not answered for the task, which may begin at any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from hpclaunch.comm import messages as m
from hpclaunch.errors import UserError, WaitTimeoutError
from hpclaunch.scheduler.client_events import on_restarted
from hpclaunch.scheduler.peers import Peers
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.timeouts import overdue

_CANCELLED = "its process was replaced because a task that it ran was cancelled by force"
_OVER_TIME = "its process was replaced because a task that it ran did not end when its timeout was over"


class Restarts:
    """Has supervisors restart worker processes."""

    def __init__(self, reactor: Reactor, peers: Peers) -> None:
        self._reactor = reactor
        self._peers = peers
        self.restarted: frozenset[str] = frozenset()  # the workers that the last restart of all was about
        self.to_end: dict[str, set[str]] = {}  # worker -> tasks on it that were cancelled by force

    def on_cancel(self, message: m.CancelKeys) -> None:
        """A client cancels tasks."""
        tasks = self._reactor.state.tasks
        forced: dict[str, set[str]] = {}
        for key in message.keys if message.force else ():
            task = tasks.get(key)
            if task is not None and task.worker is not None:
                forced.setdefault(task.worker.name, set()).add(key)
        self._reactor.on_keys_cancelled(message.keys)
        for name, keys in forced.items():
            self.to_end.setdefault(name, set()).update(keys)
            self._replace([name], keys, _CANCELLED)

    def on_timer(self) -> None:
        """Ask again for the end of tasks that were cancelled by force, and of those that are over their time."""
        state = self._reactor.state
        for name, late in overdue(state, time.monotonic()).items():
            self._replace([name], late, _OVER_TIME)
        for name, keys in list(self.to_end.items()):
            worker = state.workers.get(name)
            keys.intersection_update(worker.assigned if worker is not None else ())
            if keys:
                self._replace([name], keys, _CANCELLED)
            else:
                del self.to_end[name]

    async def restart_all(self, timeout: float | None = 30.0, wait: bool = True) -> int:
        """Forget all tasks and restart all worker processes; return how many workers there are then, or now.

        :raises UserError: some worker has no supervisor that could start it again.
        :raises WaitTimeoutError: they are not all there after ``timeout`` seconds.
        """
        workers = self._reactor.state.workers
        old = list(workers)
        if not all(self._peers.supervisor_of(name) is not None for name in old):
            raise UserError("these workers can't be restarted: they are threads of a process without a supervisor")
        on_restarted(self._reactor.lifecycle)
        self.restarted = frozenset(old)
        self._replace(old, (), "the cluster was restarted")
        if not wait:
            return len(workers)
        try:
            async with asyncio.timeout(timeout):
                while set(old) & workers.keys() or len(workers) < len(old):
                    await self._peers.wait_for_change()
        except TimeoutError:
            left = len(workers)
            raise WaitTimeoutError(
                f"{left} of {len(old)} workers are there {timeout:g} s after a restart"
            ) from None
        return len(workers)

    def _replace(self, names: Iterable[str], keys: Iterable[str], reason: str) -> None:
        """Have those of these workers restarted that run one of these tasks (all, if none is named)."""
        for name in names:
            supervisor = self._peers.supervisor_of(name)
            if supervisor is not None:
                supervisor.comm.send(m.ReplaceWorkers([name], list(keys), reason))
