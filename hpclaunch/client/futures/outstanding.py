"""Calls of executors that have not ended. They run though the program keeps no future of them, and its end waits.

The standard library's executors do the same: what was submitted runs, unless it is cancelled. The wait at the end
of the program comes before clusters and clients are closed, because :mod:`threading` calls its hooks before
:mod:`atexit` does. A fork waits for its own calls only.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.table import FutureTable
from hpclaunch.errors import HPCLaunchError
from hpclaunch.notes import warn

#: Seconds after which a program that waits at its end says so.
_PATIENCE_SECONDS = 2.0


class OutstandingCalls:
    """Those of one client, which lives as long as it is connected and so keeps them.

    :param cluster: the client's cluster object, if it has one.
    """

    def __init__(self, table: FutureTable, cluster: Any) -> None:
        self._table = table
        self.cluster = cluster
        self._tasks: set[Future[Any]] = set()
        self._changed = threading.Condition()
        self._is_awaited = False

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def is_usable(self) -> bool:
        """True while the client is open, in the process that has made it."""
        return self._table.link.is_usable

    def add(self, task: Future[Any]) -> None:
        """Keep a call until :meth:`discard` is called for it."""
        self._tasks.add(task)

    def add_all(self, tasks: Iterable[Future[Any]]) -> None:
        """Keep calls until their tasks have ended."""
        self._tasks.update(tasks)
        for task in tasks:
            self._table.watch(task, self.discard)

    def discard(self, task: Future[Any]) -> None:
        """A call has ended, and all that wait for it have been told."""
        self._tasks.discard(task)
        if self._is_awaited:
            with self._changed:
                self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all calls have ended, and their done-callbacks too; say so if that takes long.

        :raises HPCLaunchError: they will not end: the cluster can't start workers, or is gone.
        """
        if not self._tasks:
            return
        self._is_awaited = True
        with contextlib.suppress(TimeoutError):
            self._table.wait_for(list(self._tasks.copy()), _PATIENCE_SECONDS)
        if any(not task.done() for task in self._tasks.copy()):
            name = self._table.link.name
            print(
                f"hpclaunch: waiting for {len(self)} calls that an executor was given (of {name}). "
                "Ctrl-C ends the wait and drops them; shutdown(cancel_futures=True) cancels them beforehand",
                file=sys.stderr,
            )
        while tasks := self._tasks.copy():
            self._table.wait_for(list(tasks), None)
            with self._changed:
                self._changed.wait_for(lambda tasks=tasks: not tasks & self._tasks)  # type: ignore[misc]

    def warn_of_loss(self, why: str, say: Callable[[str], None] = warn) -> None:
        """Say that calls are dropped, if there are any."""
        left = [task for task in self._tasks.copy() if not task.done()]
        if left and not _is_ending:
            say(
                f"{len(left)} calls of an executor, among them {left[0]._key}, have not ended and are dropped: "
                f"{why}. Call the executor's shutdown() before, or use it in a with block: that waits for them"
            )


#: The calls of clients that have executors.
_awaited: weakref.WeakSet[OutstandingCalls] = weakref.WeakSet()
_is_ending = False


def wait_at_program_end(calls: OutstandingCalls) -> None:
    """Have the program's end wait for the calls of a client's executors."""
    _awaited.add(calls)


def is_program_ending() -> bool:
    """Say whether the program's end has begun: no more calls can be taken."""
    return _is_ending


def wait_for_calls(cluster: Any) -> None:
    """Wait for the calls of executors on a cluster, before it is closed in order.

    :raises HPCLaunchError: they will not end.
    """
    for calls in list(_awaited):
        if calls.cluster is cluster and calls.is_usable:
            calls.wait()


def _on_program_end() -> None:
    global _is_ending
    _is_ending = True
    for calls in list(_awaited):
        if not calls.is_usable:
            continue
        try:
            calls.wait()
        except KeyboardInterrupt:
            print(f"hpclaunch: interrupted; {len(calls)} calls of an executor are dropped", file=sys.stderr)
            return
        except HPCLaunchError as error:
            what = f"{len(calls)} calls of an executor have not ended and are dropped"
            print(f"hpclaunch: {what}: {error}", file=sys.stderr)


with contextlib.suppress(RuntimeError):  # imported while the program ends: no executor can be made any more
    threading._register_atexit(_on_program_end)  # type: ignore[attr-defined]
