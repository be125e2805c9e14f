"""Waiting for several futures: all, the first, or each as it ends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast, overload

from hpclaunch.client.futures.all_done import wait_all
from hpclaunch.client.futures.answer import ActorFuture
from hpclaunch.client.futures.collect import futures_and_answers, only_futures
from hpclaunch.client.futures.future import STORED, Future, Owner
from hpclaunch.client.futures.timeout_errors import wait_timeout
from hpclaunch.errors import CancelledError
from hpclaunch.link.facade import allowing_to_block, is_awaiting, soon
from hpclaunch.link.head_link import HeadLink
from hpclaunch.link.timeouts import timeout_seconds
from hpclaunch.tasks.context import TaskFacts, seceding

Item = TypeVar("Item")
T = TypeVar("T")


class DoneAndNotDone(NamedTuple, Generic[Item]):
    """What :func:`wait` returns."""

    done: set[Item]
    not_done: set[Item]


@overload
def wait(
    futures: Iterable[Future[T]], timeout: str | float | None = ..., return_when: str = ...
) -> DoneAndNotDone[Future[T]]: ...


@overload
def wait(futures: Any, timeout: str | float | None = ..., return_when: str = ...) -> DoneAndNotDone[Any]: ...


def wait(
    futures: Any, timeout: str | float | None = None, return_when: str = "ALL_COMPLETED"
) -> DoneAndNotDone[Any]:
    """Wait until all, or the first, of some futures have ended.

    :param futures: one, several, or collections that were persisted. Answers of actors can be among them.
    :param return_when: "ALL_COMPLETED", "FIRST_COMPLETED" or "FIRST_EXCEPTION", as in ``concurrent.futures``.
    :raises TimeoutError: they have not within ``timeout`` seconds.
    """
    words = ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION")
    if return_when not in words:
        raise ValueError(f"return_when is one of {', '.join(words)}, not {return_when!r}")
    if isinstance(timeout, Future):
        raise TypeError("wait takes one list of futures: wait([x, y]), not wait(x, y)")
    everything, timeout = futures_and_answers(futures), timeout_seconds(timeout)
    if everything and is_awaiting(everything[0]._link):
        return _wait_later(everything, timeout, return_when)  # type: ignore[return-value]
    if return_when == "ALL_COMPLETED":
        wait_for_all(everything, timeout)
    else:
        for future in as_completed(everything, timeout=timeout):
            if return_when == "FIRST_COMPLETED" or future._has_failed:
                break
    return _sort(everything)


def wait_for_all(some: Sequence[Future[Any] | ActorFuture[Any]], timeout: float | None) -> None:
    """Wait until all of some futures have ended, each by the client that it is of.

    :raises TimeoutError: they have not within ``timeout`` seconds.
    """
    since = time.monotonic()
    tasks: dict[Owner, list[Future[Any]]] = {}
    for one in some:
        if isinstance(one, Future):
            tasks.setdefault(one._table, []).append(one)

    def left() -> float | None:
        return None if timeout is None else max(0.0, timeout - (time.monotonic() - since))

    try:
        for table, own in tasks.items():
            table.wait_for(own, left())
        for one in some:
            if isinstance(one, ActorFuture):
                one.wait(left())
    except TimeoutError:
        raise wait_timeout(some, timeout or 0.0) from None


def keys_when_done(futures: Any) -> list[str] | None:
    """Return the keys of some futures, after all of these are done; None for None."""
    if futures is None:
        return None
    some = only_futures(futures)
    wait_for_all(some, None)
    return [future._key for future in some]


async def _wait_later(
    some: Sequence[Future[Any] | ActorFuture[Any]], timeout: float | None, return_when: str
) -> DoneAndNotDone[Any]:
    """As :func:`wait`, on the caller's own loop."""
    if return_when == "ALL_COMPLETED":
        await wait_all(some[0]._link, some, timeout)
        return _sort(some)
    async for future in as_completed(some, timeout=timeout):
        if return_when == "FIRST_COMPLETED" or future._has_failed:
            break
    return _sort(some)


def _sort(some: Sequence[Future[Any] | ActorFuture[Any]]) -> DoneAndNotDone[Any]:
    done = {one for one in some if one.done()}
    return DoneAndNotDone(done, set(some) - done)


class as_completed(Generic[Item]):
    """Iterate over futures as they end, in that order, also with ``async for``. More can be added on the way.

    Answers of actors can be among them. What is added twice is given twice.

    :param with_results: give (future, result) pairs; the result of a cancelled task is its CancelledError.
    :param raise_errors: with results: raise a task's error; False has (type, error, traceback) be its result.
    :param timeout: seconds for the whole iteration, after which TimeoutError is raised.
    :param loop: accepted, and not needed.
    """

    @overload
    def __init__(
        self: as_completed[Future[T]],
        futures: Iterable[Future[T]],
        loop: Any = ...,
        with_results: Literal[False] = ...,
        raise_errors: bool = ...,
        *,
        timeout: str | float | None = ...,
    ) -> None: ...

    @overload
    def __init__(
        self: as_completed[tuple[Future[T], Any]],
        futures: Iterable[Future[T]],
        loop: Any = ...,
        *,
        with_results: Literal[True],
        raise_errors: bool = ...,
        timeout: str | float | None = ...,
    ) -> None: ...

    @overload
    def __init__(
        self: as_completed[Any],
        futures: Iterable[Any] | None = ...,
        loop: Any = ...,
        with_results: bool = ...,
        raise_errors: bool = ...,
        *,
        timeout: str | float | None = ...,
    ) -> None: ...

    def __init__(
        self,
        futures: Iterable[Any] | None = None,
        loop: Any = None,
        with_results: bool = False,
        raise_errors: bool = True,
        *,
        timeout: str | float | None = None,
    ) -> None:
        self._with_results = with_results
        self._raises = raise_errors
        self._timeout = timeout_seconds(timeout)
        self._until = None if self._timeout is None else time.monotonic() + self._timeout
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._left: dict[Any, int] = {}  # how often each is to be given yet
        self._link: HeadLink | None = None
        self._wake: tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None = (
            None  # of a caller that waits on a loop
        )
        self.update(futures or ())

    def add(self, future: Any) -> None:
        """Add one more future.

        :raises TypeError: it is none.
        """
        if not isinstance(future, Future | ActorFuture):
            raise TypeError(f"as_completed takes futures, not a {type(future).__name__}")
        self._left[future] = self._left.get(future, 0) + 1
        self._link = future._link
        future._watch(functools.partial(self._note, self._ended, future))

    def _note(self, ended: queue.SimpleQueue[Any], future: Any) -> None:
        ended.put(future)  # which is not read any more if it was cleared since
        if self._wake is not None:
            soon(*self._wake)

    def update(self, futures: Iterable[Any]) -> None:
        """Add more futures."""
        for future in futures:
            self.add(future)

    def count(self) -> int:
        """Futures that have not been given yet."""
        return sum(self._left.values())

    def is_empty(self) -> bool:
        """True if all have been given."""
        return not self._left

    def has_ready(self) -> bool:
        """True if one can be given without waiting."""
        return not self._ended.empty()

    def clear(self) -> None:
        """Forget all futures that have not been given."""
        self._left = {}
        self._ended = queue.SimpleQueue()

    def next_batch(self, block: bool = True) -> list[Item]:
        """Return all that can be given now; if nothing can, wait for the first one if ``block``."""
        batch = [next(self)] if block and self._left else []
        while self.has_ready():
            batch.append(next(self))
        return batch

    def batches(self) -> Iterator[Any]:
        """Give lists of those that have ended meanwhile, instead of one after another; also with ``async for``."""
        return _Batches(self)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if not self._left:
            raise StopIteration
        future = self._next()
        item: Any = (future, self._outcome(future)) if self._take(future) else future
        return cast("Item", item)

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Any:
        if not self._left:
            raise StopAsyncIteration
        future = await self._next_later()
        if not self._take(future):
            return future
        if isinstance(future, Future) and future._status == STORED:
            return future, await future
        with allowing_to_block():
            return future, self._outcome(future)

    def _take(self, future: Any) -> bool:
        """One future is about to be given; say whether with its result."""
        left = self._left.pop(future, 1) - 1
        if left:
            self._left[future] = left
        return self._with_results

    def _outcome(self, future: Any) -> Any:
        """Return the result of a future that has ended, or what stands for it."""
        try:
            return future.result()
        except CancelledError as error:
            return error
        except BaseException as error:
            if self._raises:
                raise
            return type(error), error, error.__traceback__

    async def _next_later(self) -> Any:
        """Return the next future, waiting for it on the caller's own loop."""
        assert self._link is not None
        come = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._wake = loop, come.set
        with self._link.failures_go_to(lambda _: soon(loop, come.set)):
            while True:
                with contextlib.suppress(queue.Empty):
                    return self._ended.get_nowait()
                if self._link.failure is not None:
                    raise self._link.failure
                come.clear()
                left = None if self._until is None else self._until - time.monotonic()
                try:
                    async with asyncio.timeout(left):
                        await come.wait()
                except TimeoutError:
                    raise self._timeout_error() from None

    def _next(self) -> Any:
        with contextlib.suppress(queue.Empty):
            return self._ended.get_nowait()
        with seceding() as task:
            return self._wait_for_next(task)

    def _wait_for_next(self, task: TaskFacts | None) -> Any:
        while True:
            if task is not None:
                task.check()
            left = 0.25 if self._until is None else min(0.25, self._until - time.monotonic())
            with contextlib.suppress(queue.Empty):
                return self._ended.get(timeout=max(0.0, left))
            if self._until is not None and time.monotonic() >= self._until:
                raise self._timeout_error()
            if self._link is not None and self._link.failure is not None:
                raise self._link.failure

    def _timeout_error(self) -> TimeoutError:
        return wait_timeout(list(self._left), self._timeout or 0.0)

    def __repr__(self) -> str:
        ready = self._ended.qsize()
        return f"<as_completed: waiting={self.count() - ready} done={ready}>"


class _Batches:
    """What :meth:`as_completed.batches` returns."""

    def __init__(self, source: as_completed[Any]) -> None:
        self._source = source

    def __iter__(self) -> Iterator[list[Any]]:
        return self

    def __next__(self) -> list[Any]:
        return [next(self._source), *self._source.next_batch(block=False)]

    def __aiter__(self) -> AsyncIterator[list[Any]]:
        return self

    async def __anext__(self) -> list[Any]:
        batch = [await anext(self._source)]
        while self._source.has_ready():
            batch.append(await anext(self._source))
        return batch
