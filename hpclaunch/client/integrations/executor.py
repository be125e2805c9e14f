"""A client as a ``concurrent.futures.Executor``: the standard library's words for what a cluster does.

Its futures are real ``concurrent.futures.Future`` objects: ``concurrent.futures.wait`` and ``as_completed`` and
``asyncio`` take them. A future's result is fetched and unpickled when it is asked for, and kept.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, Self, TypeVar

from hpclaunch.client.calls.cancel import cancel_unstarted, cancel_unstarted_soon
from hpclaunch.client.core import ClientCore
from hpclaunch.client.futures.future import STORED, Future
from hpclaunch.client.futures.outstanding import is_program_ending, wait_at_program_end
from hpclaunch.client.submission.functions import SUBMIT_WORDS
from hpclaunch.errors import CommClosedError, HPCLaunchError, ResultTooLargeError
from hpclaunch.link.facade import allowing_to_block
from hpclaunch.link.timeouts import timeout_seconds

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("hpclaunch.client")

#: Seconds that the text of a future waits to hear whether its call runs.
_LOOK_SECONDS = 0.5


class _Unread(Exception):
    """Stands for what a task raised, until it is asked for."""


class TaskFuture(concurrent.futures.Future[T]):
    """One call. Made by :class:`ClientExecutor`, not by hand."""

    def __init__(self, core: ClientCore, task: Future[Any]) -> None:
        super().__init__()
        self._core = core
        self.task: Future[Any] | None = task  # until the result is here
        self._load_lock = threading.RLock()
        self._is_deferred = False  # callbacks are to be called in the callback thread
        core.outstanding.add(task)
        core.table.watch(task, self._on_ended)

    def _invoke_callbacks(self) -> None:
        """Call what :meth:`add_done_callback` was given: not in the loop's thread, which that may wait for."""
        task, call_all = self.task, super()._invoke_callbacks  # type: ignore[misc]
        if task is None or not self._core.link.thread.is_here:
            call_all()
        elif self._done_callbacks:  # type: ignore[attr-defined]
            self._is_deferred = True
            self._core.table.in_callback_thread(lambda _: self._call_then_end(call_all, task))(task)

    def _call_then_end(self, call_all: Callable[[], None], task: Future[Any]) -> None:
        """Call a future's callbacks in the callback thread; the program's end waits for them, too."""
        try:
            call_all()
        except BaseException:  # SystemExit: the futures after this one must be told, too
            log.exception("a future's callback raised")
        finally:
            self._core.outstanding.discard(task)

    def _on_ended(self, task: Future[Any]) -> None:
        """The task has ended; called in the loop's thread, or where this is made."""
        try:
            self._end(task)
        except BaseException:  # SystemExit, of a callback: the futures after this one must be told, too
            log.exception("a future's callback raised")
        finally:
            if not self._is_deferred:
                self._core.outstanding.discard(task)

    def _end(self, task: Future[Any]) -> None:
        if task.cancelled():
            self._note_cancelled()
            return
        with self._load_lock:
            if self.done():
                return
            if task.status != "finished":  # who waits for the first exception is to see one
                self.set_exception(_Unread())
            else:
                self.set_result(None)  # type: ignore[arg-type]  # what it is, is asked later

    def _note_cancelled(self) -> None:
        with self._load_lock:
            if not self.done():
                super().cancel()
                self.set_running_or_notify_cancel()

    def cancel(self) -> bool:
        """Cancel the call if it has not begun; say whether it is cancelled."""
        task = self.task
        if not self.done() and task is not None and cancel_unstarted(self._core.link, [task._key]):
            self._note_cancelled()
        return self.cancelled()

    def running(self) -> bool:
        """Say whether a worker runs the call at this moment."""
        task = self.task
        if self.done() or task is None:
            return False
        return bool(self._core.link.ask("running", keys=[task._key]))

    def result(self, timeout: float | None = None) -> T:
        """Wait for the call and return its result, or raise what it raised.

        :raises TimeoutError: it took longer than ``timeout`` seconds.
        :raises concurrent.futures.CancelledError: it was cancelled.
        """
        self._load(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call and return what it raised, or None.

        :raises TimeoutError: it took longer than ``timeout`` seconds.
        :raises concurrent.futures.CancelledError: it was cancelled.
        """
        self._load(timeout)
        return super().exception(0)

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """Return (done, cancelled, result, exception): what asyncio reads from CPython 3.14 on."""
        if not self.done():
            return False, False, None, None
        if self.cancelled():
            return True, True, None, None
        self._load(None)
        return True, False, self._result, self._exception

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} state={self._state_in_words()}>"

    def _state_in_words(self) -> str:
        if not self.done():
            return "running" if self._seems_running() else "pending"
        if self.cancelled():
            return "cancelled"
        task = self.task
        if task is not None and task._status == STORED:
            return "finished returned a large result that is not loaded yet"
        self._load(None)
        if self._exception is not None:
            return f"finished raised {type(self._exception).__name__}"
        return f"finished returned {type(self._result).__name__}"

    def _seems_running(self) -> bool:
        """Ask the worker, where a text may wait for that, and not for long."""
        task = self.task
        if task is None or self._core.link.thread.is_here:
            return False
        try:
            return bool(self._core.link.ask("running", _LOOK_SECONDS, keys=[task._key]))
        except (HPCLaunchError, RuntimeError, TimeoutError):
            return False

    def _load(self, timeout: float | None) -> None:
        """Wait for the end; then put the result or error where the base class has it."""
        task = self.task
        if task is None:
            return
        timeout = timeout_seconds(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        if not self.done():
            self._core.table.wait_for((task,), timeout)  # in a task, this secedes
        super().exception(_left(until))
        with self._load_lock:
            if self.task is None:
                return
            try:
                with allowing_to_block():
                    self._result = task.result(_left(until))
                self._exception = None
            except KeyboardInterrupt:  # the user's: no task ends with one
                raise
            except BaseException as error:
                if isinstance(error, TimeoutError | ResultTooLargeError) and task.status != "error":
                    raise  # the result is there, and can be asked for again
                self._exception = error
            self.task = None


class ClientExecutor(concurrent.futures.Executor):
    """Runs calls on a cluster. Made by :meth:`hpclaunch.Client.get_executor`.

    :param client: a :class:`hpclaunch.Client`.
    :param options: go to :meth:`hpclaunch.Client.submit` with each call.
    """

    def __init__(self, client: Any, **options: Any) -> None:
        if unknown := sorted(options.keys() - SUBMIT_WORDS):
            raise TypeError(f"get_executor takes the options of submit, and not {', '.join(unknown)}")
        self._client = client
        self._core: ClientCore = client._core
        self._options = options
        self._is_shut = False
        self._lock = threading.Lock()  # between submitting and shutting down
        self._futures: weakref.WeakSet[TaskFuture[Any]] = weakref.WeakSet()
        self._tasks: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        wait_at_program_end(self._core.outstanding)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]:
        """Run ``fn(*args, **kwargs)`` on the cluster.

        :raises RuntimeError: the executor was shut down.
        :raises BrokenExecutor: the client is closed, or its cluster is gone.
        """
        with self._lock:
            self._check()
            if kwargs.keys() & SUBMIT_WORDS:
                task = self._client.submit(_apply, fn, args, kwargs, **self._options)
            else:
                task = self._client.submit(fn, *args, **kwargs, **self._options)
            future: TaskFuture[T] = TaskFuture(self._core, task)
            self._futures.add(future)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Run ``fn`` for each item (or tuple of items), and give the results in this order.

        The calls are submitted now, and run also if no result is ever asked for. An iterator that is closed, or
        that has raised, cancels those that have not begun.

        :param timeout: seconds from now, after which asking for the next result raises TimeoutError.
        :param chunksize: calls in one task.
        :param buffersize: tasks that are submitted and whose results have not been given; None: all at once. The
            iterables are read so far only. The iterator raises RuntimeError if the executor is shut down before
            it has submitted the rest.
        :raises RuntimeError: the executor was shut down.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        timeout = timeout_seconds(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables, strict=False)
        left = self._map_some(fn, calls, chunksize, buffersize)
        left.reverse()

        def more() -> None:
            if buffersize is not None:
                left[:0] = self._map_some(fn, calls, chunksize, 1)

        return _results(left, more, until, chunksize > 1)

    def _map_some(
        self, fn: Callable[..., Any], calls: Iterator[tuple[Any, ...]], chunksize: int, tasks: int | None
    ) -> list[Future[Any]]:
        """Submit the first of some calls, in so many tasks; None: all of them."""
        rows = list(calls if tasks is None else itertools.islice(calls, chunksize * tasks))
        if not rows:
            return []
        with self._lock:
            self._check()
            if chunksize > 1:
                chunks = [rows[at : at + chunksize] for at in range(0, len(rows), chunksize)]
                some: list[Future[Any]] = self._client.map(
                    functools.partial(_run_chunk, fn), chunks, **self._options
                )
            else:
                some = self._client.map(fn, *zip(*rows, strict=True), **self._options)
            self._tasks.update(some)
            self._core.outstanding.add_all(some)
        return some

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.

        :param wait: return when all calls have ended.
        :param cancel_futures: cancel what has not begun.
        :raises JobsFailedError: ``wait``, and the cluster cannot start workers for them.
        """
        with self._lock:
            self._is_shut = True
        futures = [future for future in self._futures if not future.done()]
        tasks = [task for task in self._tasks if not task.done()]
        if cancel_futures and (futures or tasks):
            keys = [future.task._key for future in futures if future.task is not None]
            cancelled = set(cancel_unstarted(self._core.link, keys + [task._key for task in tasks]))
            for future in futures:
                if future.task is not None and future.task._key in cancelled:
                    future._note_cancelled()
        if wait:
            tasks += [task for future in futures if (task := future.task) is not None]
            self._core.table.wait_for(tasks, None)
            concurrent.futures.wait(futures)

    @property
    def _max_workers(self) -> int:
        """How many calls run at once on the workers that are there; some libraries size their batches by it."""
        with allowing_to_block():
            return sum(self._client.nthreads().values())

    def __enter__(self) -> Self:
        return self

    def _check(self) -> None:
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if is_program_ending():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._core.link.closed:
            raise concurrent.futures.BrokenExecutor(str(CommClosedError(self._core.link.closed)))

    def __repr__(self) -> str:
        return f"<ClientExecutor of {self._client!r}>"


def _run_chunk(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
    return [function(*args) for args in calls]


def _apply(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def _results(
    left: list[Future[Any]], more: Callable[[], None], until: float | None, is_chunked: bool
) -> Iterator[Any]:
    """Give the results of tasks, the last one's first; an end before the last cancels what has not begun."""
    try:
        while left:
            more()
            with allowing_to_block():
                value = [left[-1].result(_left(until))]
            left.pop()
            if is_chunked:
                yield from value.pop()
            else:
                yield value.pop()  # and keep nothing of what was given
    finally:
        if left:
            cancel_unstarted_soon(left[0]._link, [task._key for task in left if not task.done()])


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())
