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
from typing import TYPE_CHECKING, Any

from hpclaunch.errors import HPCLaunchError
from hpclaunch.notes import warn

if TYPE_CHECKING:
    from hpclaunch.client.core import ClientCore
    from hpclaunch.client.futures.future import Future

#: Seconds after which a program that waits at its end says so.
_PATIENCE_SECONDS = 2.0


class UnendedCalls:
    """Those of one client, which lives as long as it is connected and so keeps them."""

    def __init__(self) -> None:
        self._tasks: set[Future] = set()
        self._changed = threading.Condition()
        self._is_awaited = False

    def __len__(self) -> int:
        return len(self._tasks)

    def keep(self, task: Future) -> None:
        """Keep a call until :meth:`end` is called for it."""
        self._tasks.add(task)

    def keep_all(self, tasks: Iterable[Future]) -> None:
        """Keep calls until their tasks have ended."""
        self._tasks.update(tasks)
        for task in tasks:
            task._client._watch(task, self.end)

    def end(self, task: Future) -> None:
        """A call has ended, and all that wait for it have been told."""
        self._tasks.discard(task)
        if self._is_awaited:
            with self._changed:
                self._changed.notify_all()

    def wait(self, client: ClientCore) -> None:
        """Wait until all calls have ended, and their done-callbacks too; say so if that takes long.

        :raises HPCLaunchError: they will not end: the cluster can't start workers, or is gone.
        """
        if not self._tasks:
            return
        self._is_awaited = True
        with contextlib.suppress(TimeoutError):
            client._wait_for(list(self._tasks.copy()), _PATIENCE_SECONDS)
        if any(not task.done() for task in self._tasks.copy()):
            print(
                f"hpclaunch: waiting for {len(self)} calls that an executor was given (of {client.name}). "
                "Ctrl-C ends the wait and drops them; shutdown(cancel_futures=True) cancels them beforehand",
                file=sys.stderr,
            )
        while tasks := self._tasks.copy():
            client._wait_for(list(tasks), None)
            with self._changed:
                self._changed.wait_for(lambda tasks=tasks: not tasks & self._tasks)  # type: ignore[misc]

    def complain(self, why: str, say: Callable[[str], None] = warn) -> None:
        """Say that calls are dropped, if there are any."""
        left = [task for task in self._tasks.copy() if not task.done()]
        if left and not _is_ending:
            say(
                f"{len(left)} calls of an executor, among them {left[0]._key}, have not ended and are dropped: "
                f"{why}. Call the executor's shutdown() before, or use it in a with block: that waits for them"
            )


#: Clients that have executors.
_clients: weakref.WeakSet[Any] = weakref.WeakSet()
_is_ending = False


def note_client(client: ClientCore) -> None:
    """Have the program's end wait for the calls of a client's executors."""
    _clients.add(client)


def is_program_ending() -> bool:
    """Say whether the program's end has begun: no more calls can be taken."""
    return _is_ending


def wait_for_calls(cluster: Any) -> None:
    """Wait for the calls of executors on a cluster, before it is closed in order.

    :raises HPCLaunchError: they will not end.
    """
    for client in list(_clients):
        if client.cluster is cluster and not client._closed and not client._thread.is_foreign:
            client._unended.wait(client)


def _on_program_end() -> None:
    global _is_ending
    _is_ending = True
    for client in list(_clients):
        if client._closed or client._thread.is_foreign:
            continue
        try:
            client._unended.wait(client)
        except KeyboardInterrupt:
            print(
                f"hpclaunch: interrupted; {len(client._unended)} calls of an executor are dropped", file=sys.stderr
            )
            return
        except HPCLaunchError as error:
            what = f"{len(client._unended)} calls of an executor have not ended and are dropped"
            print(f"hpclaunch: {what}: {error}", file=sys.stderr)


with contextlib.suppress(RuntimeError):  # imported while the program ends: no executor can be made any more
    threading._register_atexit(_on_program_end)  # type: ignore[attr-defined]
