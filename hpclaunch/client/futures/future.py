"""A Future: one task's result, now or later.

A Future object is the client's wish: as long as one exists for a key, the cluster keeps the task's result; when
Python lets go of it, the cluster does too. There is one object per key and client.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from hpclaunch.client.submission.options import timeout_seconds
from hpclaunch.comm import serialize
from hpclaunch.comm.keys import Key, key_of_text, text_of_key
from hpclaunch.comm.messages import Failure
from hpclaunch.comm.serialize import load_failure, load_value, reduce_future
from hpclaunch.errors import CancelledError, PeerError
from hpclaunch.link.facade import allowing_to_block, in_thread, is_awaiting, wait_all
from hpclaunch.tasks.context import here

if TYPE_CHECKING:
    from hpclaunch.client.client import Client

PENDING, DONE, STORED, FAILED, CANCELLED, LOST = range(6)
_WORDS = ("pending", "finished", "finished", "error", "cancelled", "lost")


class Future:
    """The result of one task, as :meth:`hpclaunch.Client.submit` and ``map`` give it.

    Pass it as an argument of another task to use its result there, without it coming here.

    Made by hand it is the future of a task that the cluster knows already, whoever has submitted it; if there is
    no such task, it is "lost", and asking for its result raises UnknownTaskError.

    :param key: the task's key.
    :param client: None is the one that is meant here, as :func:`hpclaunch.get_client` gives it.
    :raises ValueError: no client is meant.
    """

    __slots__ = ("__weakref__", "_client", "_data", "_key", "_status", "_watchers")

    _key: str  # what the cluster knows it by
    _client: Client
    _status: int
    _data: Any  # bytes; where a stored result is; a Failure; an error
    _watchers: list[Callable[[Future], None]] | None

    def __new__(cls, key: Key, client: Client | None = None) -> Future:
        return future_of(key, client)

    @property
    def key(self) -> Any:
        """The task's key, a text or a tuple."""
        return key_of_text(self._key)

    @property
    def type(self) -> Any:
        """The class of the result; None as long as there is none, or if it is a large one, which is not here."""
        return type(load_value(self._data)) if self._status == DONE else None

    def result(self, timeout: str | float | None = None) -> Any:
        """Wait for the result and return it; if the task raised, raise that, chained to the remote traceback.

        :param timeout: seconds to wait, or a text such as "500 ms"; None is for ever.
        :raises TimeoutError: it took longer.
        :raises CancelledError: it was cancelled.
        :raises ResultTooLargeError: it does not fit into the memory that is free here.
        :raises TooLargeError: what the task is given does not fit into the memory of any worker.
        :raises KilledWorkerError: too many workers died running it.
        :raises JobsFailedError: the cluster cannot start workers.
        :raises CommClosedError: the connection to the cluster is over.
        """
        if timeout is not None:
            timeout = timeout_seconds(timeout)
        if self._client.asynchronous and is_awaiting(self._client):
            return self._later(self.result, timeout)
        if self._status == PENDING:
            self._client._wait_for((self,), timeout)
        if self._status == DONE:
            return load_value(self._data)
        if self._status in (STORED, PENDING):  # pending again: it was lost since
            return self._client._fetch((self,), timeout)[0]
        raise self._error()

    def exception(self, timeout: str | float | None = None) -> BaseException | None:
        """Wait until the task has ended; return what it raised, or None.

        :raises TimeoutError: it took longer than ``timeout`` seconds.
        :raises CancelledError: it was cancelled.
        """
        timeout = timeout_seconds(timeout)
        if is_awaiting(self._client):
            return self._later(self.exception, timeout)  # type: ignore[return-value]
        if self._status == PENDING:
            self._client._wait_for((self,), timeout)
        if self._status in (DONE, STORED):
            return None
        error = self._error()
        if isinstance(error, CancelledError):
            raise error
        return error

    def traceback(self, timeout: str | float | None = None) -> str | None:
        """Wait until the task has ended; return the traceback on the worker as text, or None."""
        timeout = timeout_seconds(timeout)
        if is_awaiting(self._client):
            return self._later(self.traceback, timeout)  # type: ignore[return-value]
        self.exception(timeout)
        return self._data.traceback if isinstance(self._data, Failure) else None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._later(self.result, None).__await__()

    async def _later(self, ask: Callable[[], Any], timeout: float | None) -> Any:
        """Wait on the caller's own loop, and ask then."""
        await wait_all(self._client, (self,), timeout)
        if self._status == STORED:
            return await in_thread(ask)
        with allowing_to_block():
            return ask()

    @property
    def client(self) -> Client:
        """The client that this is a future of."""
        return self._client

    def done(self) -> bool:
        """True once the task has ended, in whatever way."""
        return self._status != PENDING

    def cancelled(self) -> bool:
        """True if the task was cancelled."""
        return self._status == CANCELLED

    @property
    def status(self) -> str:
        """ "pending", "finished", "error", "cancelled" or "lost"."""
        return _WORDS[self._status]

    def cancel(self, force: bool = False) -> Any:
        """Cancel the task, and with it all tasks that use its result: see :meth:`hpclaunch.Client.cancel`."""
        return self._client.cancel([self], force=force)

    def retry(self) -> Any:
        """Run the task once more if it has failed."""
        return self._client.retry([self])

    def release(self) -> None:
        """Let go of the result, as Python does when nobody has this object any more. It can't be used then."""
        if self._client._is_current(self):
            self._client._end([(self._key, CANCELLED, None)])
            self._client._forget(self)

    def add_done_callback(self, function: Callable[[Future], Any]) -> None:
        """Call ``function(self)`` once the task has ended, in a thread of its own kind; now if it has.

        Until then the future lives, whoever else lets go of it.
        """
        self._client._kept.add(self)
        self._client._watch(self, self._client._callback_caller(function))

    @property
    def _has_failed(self) -> bool:
        """True if it has ended without a result."""
        return self._status > STORED

    def _watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` from the loop once the task has ended; at once if it has."""
        self._client._watch(self, lambda _: watcher())

    def _error(self) -> BaseException:
        if self._status == CANCELLED:
            return CancelledError(f"task {self._key} was cancelled")
        if isinstance(self._data, PeerError):
            return type(self._data)(f"task {self._key} has no result: {self._data}")
        return load_failure(self._data)

    def __reduce__(self) -> Any:
        if serialize.is_collecting():
            return reduce_future(self._key)
        if not serialize.note_reference(self._key):
            self._client._name_in_result(self._key)
        return future_of, (self._key,)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("hpclaunch.Future", self._key)

    def __del__(self) -> None:
        # Runs in any thread, at any point: only note the key. Weak references lead here until this returns, and
        # another thread may follow one: without a client it sees that this future is gone.
        client = getattr(self, "_client", None)
        if client is not None:
            del self._client
            client._note_release(self._key)

    def __repr__(self) -> str:
        return f"<Future {self.status}, key: {self._key}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<b>Future</b> {escape(self._key)} <i>{self.status}</i>"


def is_gone(future: Future | None) -> bool:
    """Say whether nobody has a future any more to which a weak reference has led: one that is being deleted."""
    return future is None or not hasattr(future, "_client")


def new_future(key: str, client: Client) -> Future:
    """Return a future of a task that is about to be submitted, or asked for; the client keeps account of it."""
    future = object.__new__(Future)
    future._key = key
    future._client = client
    future._status = PENDING
    future._data = future._watchers = None
    return future


def future_of(key: Key, client: Client | None = None) -> Future:
    """Return a future of a task that somebody else has submitted: what a pickled future comes back as.

    The client is the one that is meant here. Whoever pickled it must keep theirs until this one is made.

    :raises ValueError: no client is meant.
    """
    if client is None:
        from hpclaunch.client.current import get_client

        client = get_client()
    elif not hasattr(client, "_want"):
        raise TypeError(f"a future is one of a Client, not of a {type(client).__name__}")
    future = client._want(text_of_key(key))
    if here.place is not None:  # whoever keeps it may let go when this task has ended
        here.place.unheard = client
    return future
