"""Tasks that are to end before their time, to be run once more, or to run to their ends whoever waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from hpclaunch.client.futures.collect import only_futures
from hpclaunch.client.futures.future import CANCELLED, FAILED, PENDING, Future
from hpclaunch.comm import messages as m
from hpclaunch.link.facade import nothing

if TYPE_CHECKING:
    from hpclaunch.client.client import Client


class EndCalls:
    """The part of a Client that is about the ends of tasks."""

    def _cancel_unstarted(self, keys: list[str]) -> list[str]:
        """Cancel those of some tasks that have not begun; return their keys."""
        return list(_client(self)._ask("cancel_unstarted", keys=keys)) if keys else []

    def _cancel_unstarted_soon(self, keys: list[str]) -> None:
        """As :meth:`_cancel_unstarted`, without an answer: it may be called in any thread, at any point."""
        client = _client(self)
        if keys and not client._closed and not client._thread.is_foreign:
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                asking = client._request("cancel_unstarted", keys=keys)
                asyncio.run_coroutine_threadsafe(asking, client._thread.loop)

    def cancel(self, futures: Future | Iterable[Future], force: bool = False) -> Any:
        """Cancel tasks, and with them all that use their results.

        A task that runs already is left to end, and can see that it is not wanted (:func:`hpclaunch.get_task`).

        :param force: replace the worker process that runs it; its other tasks run again elsewhere and are not
            blamed. (Workers in threads of this process, ``processes=False``, can't be replaced.)
        """
        client, some = _client(self), only_futures(futures)
        pending = [f for f in some if f._status == PENDING]
        client._end([(f._key, CANCELLED, None) for f in pending])
        if pending:
            client._send(m.CancelKeys([f._key for f in pending], bool(force)))
        return nothing(client)

    def retry(self, futures: Future | Iterable[Future]) -> Any:
        """Run failed tasks once more, and before them those of their inputs that have failed."""
        client, some = _client(self), only_futures(futures)
        with client._changed:
            failed = [future for future in some if future._status == FAILED and client._is_current(future)]
            if failed:
                keys, number = [future._key for future in failed], next(client._numbers)
                for future in failed:
                    future._status, future._data = PENDING, None
                client._fences.put_up(number, keys)
                client._send(m.Fence(number))
                client._send(m.RetryKeys(keys))
        return nothing(client)

    def _see_through(self, keys: list[str]) -> None:
        """Have tasks run to their ends whoever lets go of them; what is sent later comes after this."""
        _client(self)._send(m.SeeThrough(keys))


def _client(calls: EndCalls) -> Client:
    return cast("Client", calls)
