"""Waiting for several futures: all, the first, or each as it ends; and results in the shape of what was asked."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hpclaunch.client.calls.actors import ActorFuture
from hpclaunch.client.futures.collect import futures_and_answers
from hpclaunch.client.futures.future import STORED, Future
from hpclaunch.client.futures.timeout_errors import late
from hpclaunch.client.submission.options import timeout_seconds
from hpclaunch.errors import CancelledError
from hpclaunch.link.facade import allowing_to_block, is_awaiting, soon, wait_all
from hpclaunch.tasks.context import TaskFacts, stepping_aside

if TYPE_CHECKING:
    from hpclaunch.client.core import ClientCore


class DoneAndNotDone(NamedTuple):
    """What :func:`wait` returns."""

    done: set[Any]
    not_done: set[Any]


def wait(futures: Any, timeout: str | float | None = None, return_when: str = "ALL_COMPLETED") -> DoneAndNotDone:
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
    if everything and is_awaiting(everything[0]._client):
        return _wait_later(everything, timeout, return_when)  # type: ignore[return-value]
    if return_when == "ALL_COMPLETED":
        wait_for_all(everything, timeout)
    else:
        for future in as_completed(everything, timeout=timeout):
            if return_when == "FIRST_COMPLETED" or future._has_failed:
                break
    return _sort(everything)


def wait_for_all(some: Sequence[Future | ActorFuture], timeout: float | None) -> None:
    """Wait until all of some futures have ended, each by its own client, which alone hears of it.

    :raises TimeoutError: they have not within ``timeout`` seconds.
    """
    since = time.monotonic()
    tasks: dict[Any, list[Future]] = {}
    for one in some:
        if isinstance(one, Future):
            tasks.setdefault(one._client, []).append(one)

    def left() -> float | None:
        return None if timeout is None else max(0.0, timeout - (time.monotonic() - since))

    try:
        for client, own in tasks.items():
            client._wait_for(own, left())
        for one in some:
            if isinstance(one, ActorFuture):
                one._wait_for(left())
    except TimeoutError:
        raise late(some, timeout or 0.0) from None


async def _wait_later(
    some: Sequence[Future | ActorFuture], timeout: float | None, return_when: str
) -> DoneAndNotDone:
    """As :func:`wait`, on the caller's own loop."""
    if return_when == "ALL_COMPLETED":
        await wait_all(some[0]._client, some, timeout)
        return _sort(some)
    async for future in as_completed(some, timeout=timeout):
        if return_when == "FIRST_COMPLETED" or future._has_failed:
            break
    return _sort(some)


def _sort(some: Sequence[Future | ActorFuture]) -> DoneAndNotDone:
    done = {one for one in some if one.done()}
    return DoneAndNotDone(done, set(some) - done)


class as_completed:
    """Iterate over futures as they end, in that order, also with ``async for``. More can be added on the way.

    Answers of actors can be among them. What is added twice is given twice.

    :param with_results: give (future, result) pairs; the result of a cancelled task is its CancelledError.
    :param raise_errors: with results: raise a task's error; False has (type, error, traceback) be its result.
    :param timeout: seconds for the whole iteration, after which TimeoutError is raised.
    :param loop: accepted, and not needed.
    """

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
        self._client: ClientCore | None = None
        self._wake: tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None = None  # who waits on a loop
        self.update(futures or ())

    def add(self, future: Any) -> None:
        """Add one more future.

        :raises TypeError: it is none.
        """
        if not isinstance(future, Future | ActorFuture):
            raise TypeError(f"as_completed takes futures, not a {type(future).__name__}")
        self._left[future] = self._left.get(future, 0) + 1
        self._client = future._client
        future._watch(functools.partial(self._note, self._ended, future))

    def _note(self, ended: queue.SimpleQueue[Any], future: Any) -> None:
        ended.put(future)  # nobody looks there any more if it was cleared since
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

    def next_batch(self, block: bool = True) -> list[Any]:
        """Return all that can be given now; if nothing can, wait for the first one if ``block``."""
        batch = [next(self)] if block and self._left else []
        while self.has_ready():
            batch.append(next(self))
        return batch

    def batches(self) -> Iterator[Any]:
        """Give lists of those that have ended meanwhile, instead of one after another; also with ``async for``."""
        return _Batches(self)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._left:
            raise StopIteration
        future = self._next()
        return (future, self._outcome(future)) if self._take(future) else future

    def __aiter__(self) -> AsyncIterator[Any]:
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
        assert self._client is not None
        come = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._wake = loop, come.set
        with self._client._complaining(lambda _: soon(loop, come.set)):
            while True:
                with contextlib.suppress(queue.Empty):
                    return self._ended.get_nowait()
                if self._client._failure is not None:
                    raise self._client._failure
                come.clear()
                left = None if self._until is None else self._until - time.monotonic()
                try:
                    async with asyncio.timeout(left):
                        await come.wait()
                except TimeoutError:
                    raise self._late() from None

    def _next(self) -> Any:
        with contextlib.suppress(queue.Empty):
            return self._ended.get_nowait()
        with stepping_aside() as task:
            return self._wait_for_next(task)

    def _wait_for_next(self, task: TaskFacts | None) -> Any:
        while True:
            if task is not None:
                task.check()
            left = 0.25 if self._until is None else min(0.25, self._until - time.monotonic())
            with contextlib.suppress(queue.Empty):
                return self._ended.get(timeout=max(0.0, left))
            if self._until is not None and time.monotonic() >= self._until:
                raise self._late()
            if self._client is not None and self._client._failure is not None:
                raise self._client._failure

    def _late(self) -> TimeoutError:
        return late(list(self._left), self._timeout or 0.0)

    def __repr__(self) -> str:
        ready = self._ended.qsize()
        return f"<as_completed: waiting={self.count() - ready} done={ready}>"


class _Batches:
    """What :meth:`as_completed.batches` returns."""

    def __init__(self, source: as_completed) -> None:
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


_CONTAINERS = (list, tuple, set, frozenset)
_SKIP = object()


def flatten(value: Any) -> Iterator[Future]:
    """Give the futures in nested lists, tuples, sets and dicts; other values in them are none of them."""
    if isinstance(value, Future):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from flatten(one)
    elif isinstance(value, _CONTAINERS):
        for one in value:
            yield from flatten(one)


def rebuild(value: Any, fetched: Mapping[Future, Any], *, skip_errors: bool) -> Any:
    """Return results in the nesting of their futures; all have ended, the large results are in ``fetched``."""
    if isinstance(value, Future):
        if value in fetched:
            return fetched[value]
        if skip_errors and value._has_failed:
            return _SKIP
        return value.result()
    if isinstance(value, ActorFuture):
        return _SKIP if skip_errors and value.exception() is not None else value.result()
    if isinstance(value, dict):
        pairs = ((k, rebuild(v, fetched, skip_errors=skip_errors)) for k, v in value.items())
        return {k: v for k, v in pairs if v is not _SKIP}
    if not isinstance(value, _CONTAINERS):
        return value
    items = (rebuild(v, fetched, skip_errors=skip_errors) for v in value)
    return type(value)(v for v in items if v is not _SKIP)
