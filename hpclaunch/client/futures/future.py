"""A Future: one task's result, now or later.

A Future is a reference to a task: as long as one exists for a key, the cluster keeps the task's result; when
Python deletes it, the client releases the result. There is one object per key and client.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

from hpclaunch.client.current import current_client
from hpclaunch.client.futures.all_done import wait_all
from hpclaunch.comm import serialize
from hpclaunch.comm.keys import Key, key_of_text, text_of_key
from hpclaunch.comm.messages import Failure
from hpclaunch.comm.serialize import load_failure, load_value, reduce_future
from hpclaunch.errors import CancelledError, PeerError
from hpclaunch.link.facade import allowing_to_block, in_thread, is_awaiting, no_answer
from hpclaunch.link.head_link import HeadLink
from hpclaunch.link.timeouts import timeout_seconds
from hpclaunch.tasks.context import here

T_co = TypeVar("T_co", covariant=True)

PENDING, DONE, STORED, FAILED, CANCELLED, LOST = range(6)
_WORDS = ("pending", "finished", "finished", "error", "cancelled", "lost")


class Owner(Protocol):
    """What a future needs of the table that it is in: :class:`hpclaunch.client.futures.table.FutureTable`."""

    link: HeadLink
    asynchronous: bool
    client: Any
    #: Releases the key of a future that Python deletes.
    note_release: Callable[[str], None]

    def wait_for(self, futures: Sequence[Future[Any]], timeout: float | None) -> None:
        """Wait until some futures are done."""

    def fetch(self, futures: Sequence[Future[Any]], timeout: float | None) -> list[Any]:
        """Fetch large results."""

    def cancel(self, futures: Sequence[Future[Any]], *, force: bool) -> None:
        """Cancel tasks."""

    def retry(self, futures: Sequence[Future[Any]]) -> None:
        """Run failed tasks once more."""

    def release(self, future: Future[Any]) -> None:
        """Release a future that still exists."""

    def watch(self, future: Future[Any], watcher: Callable[[Future[Any]], None]) -> None:
        """Call ``watcher`` from the loop when a future is done."""

    def call_back(self, future: Future[Any], function: Callable[[Future[Any]], Any]) -> None:
        """Call a user's function in the callback thread when a future is done."""

    def reference_in_result(self, key: str) -> None:
        """Have the result of the task that runs here keep the result of another."""


class Future(Generic[T_co]):
    """The result of one task, as :meth:`hpclaunch.Client.submit` and ``map`` give it.

    Pass it as an argument of another task to use its result there, without it coming here.

    Made by hand it is the future of a task that the cluster knows already, from this client or another; if there
    is no such task, it is "lost", and asking for its result raises UnknownTaskError.

    :param key: the task's key.
    :param client: None is the current one, as :func:`hpclaunch.get_client` gives it.
    :raises ValueError: there is no current client.
    """

    __slots__ = ("__weakref__", "_data", "_key", "_status", "_table", "_watchers")

    _key: str  # what the cluster knows it by
    _table: Owner
    _status: int
    _data: Any  # bytes; where a stored result is; a Failure; an error
    _watchers: list[Callable[[Future[Any]], None]] | None

    def __new__(cls, key: Key, client: Any = None) -> Future[Any]:
        return future_of(key, client)

    @property
    def key(self) -> Any:
        """The task's key, a text or a tuple."""
        return key_of_text(self._key)

    @property
    def type(self) -> Any:
        """The class of the result; None as long as there is none, or if it is a large one, which is not here."""
        return type(load_value(self._data)) if self._status == DONE else None

    def result(self, timeout: str | float | None = None) -> T_co:
        """Wait for the result and return it; if the task raised, raise that, chained to the remote traceback.

        :param timeout: seconds to wait, or a text such as "500 ms"; None is no limit.
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
        if self._table.asynchronous and is_awaiting(self._table):
            return cast("T_co", self._later(self.result, timeout))
        if self._status == PENDING:
            self._table.wait_for((self,), timeout)
        if self._status == DONE:
            return load_value(self._data)  # type: ignore[no-any-return]  # a cast here would cost a call
        if self._status in (STORED, PENDING):  # pending again: it was lost since
            return cast("T_co", self._table.fetch((self,), timeout)[0])
        raise self._error()

    def exception(self, timeout: str | float | None = None) -> BaseException | None:
        """Wait until the task has ended; return what it raised, or None.

        :raises TimeoutError: it took longer than ``timeout`` seconds.
        :raises CancelledError: it was cancelled.
        """
        timeout = timeout_seconds(timeout)
        if is_awaiting(self._table):
            return self._later(self.exception, timeout)  # type: ignore[return-value]
        if self._status == PENDING:
            self._table.wait_for((self,), timeout)
        if self._status in (DONE, STORED):
            return None
        error = self._error()
        if isinstance(error, CancelledError):
            raise error
        return error

    def traceback(self, timeout: str | float | None = None) -> str | None:
        """Wait until the task has ended; return the traceback on the worker as text, or None."""
        timeout = timeout_seconds(timeout)
        if is_awaiting(self._table):
            return self._later(self.traceback, timeout)  # type: ignore[return-value]
        self.exception(timeout)
        return self._data.traceback if isinstance(self._data, Failure) else None

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._later(self.result, None).__await__()

    async def _later(self, ask: Callable[[], Any], timeout: float | None) -> Any:
        """Wait on the caller's own loop, and ask then."""
        await wait_all(self._table.link, (self,), timeout)
        if self._status == STORED:
            return await in_thread(ask)
        with allowing_to_block():
            return ask()

    @property
    def client(self) -> Any:
        """The :class:`hpclaunch.Client` that this is a future of."""
        return self._table.client

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
        self._table.cancel((self,), force=force)
        return no_answer(self._table)

    def retry(self) -> Any:
        """Run the task once more if it has failed."""
        self._table.retry((self,))
        return no_answer(self._table)

    def release(self) -> None:
        """Release the result, as happens when Python deletes the last reference to this. It can't be used then."""
        self._table.release(self)

    def add_done_callback(self, function: Callable[[Future[T_co]], Any]) -> None:
        """Call ``function(self)`` in a thread for callbacks once the task has ended; now if it has.

        Until then the client keeps the future.
        """
        self._table.call_back(self, function)

    @property
    def _has_failed(self) -> bool:
        """True if it has ended without a result."""
        return self._status > STORED

    def _watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` from the loop once the task has ended; at once if it has."""
        self._table.watch(self, lambda _: watcher())

    @property
    def _link(self) -> HeadLink:
        return self._table.link

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
            self._table.reference_in_result(self._key)
        return future_of, (self._key,)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("hpclaunch.Future", self._key)

    def __del__(self) -> None:
        # Runs in any thread, at any point: only note the key. Weak references lead here until this returns, and
        # another thread may follow one: without a table it sees that this future is gone.
        table = getattr(self, "_table", None)
        if table is not None:
            del self._table
            table.note_release(self._key)

    def __repr__(self) -> str:
        return f"<Future {self.status}, key: {self._key}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<b>Future</b> {escape(self._key)} <i>{self.status}</i>"


def is_gone(future: Future[Any] | None) -> bool:
    """Say whether a future to which a weak reference has led is being deleted, or was."""
    return future is None or not hasattr(future, "_table")


def new_future(key: str, table: Owner) -> Future[Any]:
    """Return a future of a task that is about to be submitted, or asked for; the table keeps account of it."""
    future: Future[Any] = object.__new__(Future)
    future._key = key
    future._table = table
    future._status = PENDING
    future._data = future._watchers = None
    return future


def future_of(key: Key, client: Any = None) -> Future[Any]:
    """Return a future of a task that has been submitted elsewhere: what a pickled future comes back as.

    Who has pickled it must keep theirs until this one is made.

    :param client: None is the current one.
    :raises ValueError: there is no current client.
    """
    if client is None:
        client = current_client()
    elif not hasattr(client, "_core"):
        raise TypeError(f"a future is one of a Client, not of a {type(client).__name__}")
    table = client._core.table
    future: Future[Any] = table.attach(text_of_key(key))
    if here.place is not None:  # the other future may be released when this task has ended
        here.place.before_end = table.synchronize
    return future
