"""Waiting for several futures: all, the first, or each as it ends; and results in the shape of what was asked."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hpclaunch.client.awaiting import is_awaiting, soon, wait_all
from hpclaunch.client.future import CANCELLED, FAILED, LOST, STORED, Future
from hpclaunch.worker.context import TaskFacts, stepping_aside

if TYPE_CHECKING:
    from hpclaunch.client.client import Client


class DoneAndNotDone(NamedTuple):
    """What :func:`wait` returns."""

    done: set[Future]
    not_done: set[Future]


def wait(
    futures: Future | Iterable[Future], timeout: float | None = None, return_when: str = "ALL_COMPLETED"
) -> DoneAndNotDone:
    """Wait until all, or the first, of some futures have ended.

    :param return_when: "ALL_COMPLETED", "FIRST_COMPLETED" or "FIRST_EXCEPTION", as in ``concurrent.futures``.
    :raises TimeoutError: they have not within ``timeout`` seconds.
    """
    words = ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION")
    if return_when not in words:
        raise ValueError(f"return_when is one of {', '.join(words)}, not {return_when!r}")
    everything = [futures] if isinstance(futures, Future) else list(dict.fromkeys(futures))
    if everything and is_awaiting(everything[0]._client):
        return _wait_later(everything, timeout, return_when)  # type: ignore[return-value]
    if everything:
        if return_when == "ALL_COMPLETED":
            everything[0]._client._wait_for(everything, timeout)
        else:
            for future in as_completed(everything, timeout=timeout):
                if return_when == "FIRST_COMPLETED" or future._status > STORED:
                    break
    return _sort(everything)


async def _wait_later(futures: list[Future], timeout: float | None, return_when: str) -> DoneAndNotDone:
    """As :func:`wait`, on the caller's own loop."""
    if return_when == "ALL_COMPLETED":
        await wait_all(futures[0]._client, futures, timeout)
        return _sort(futures)
    async for future in as_completed(futures, timeout=timeout):
        if return_when == "FIRST_COMPLETED" or future._status > STORED:
            break
    return _sort(futures)


def _sort(futures: list[Future]) -> DoneAndNotDone:
    done = {f for f in futures if f.done()}
    return DoneAndNotDone(done, set(futures) - done)


class as_completed:
    """Iterate over futures as they end, in that order, also with ``async for``. More can be added on the way.

    :param with_results: give (future, result) pairs; a task's error is raised.
    :param timeout: seconds for the whole iteration, after which TimeoutError is raised.
    """

    def __init__(
        self, futures: Iterable[Future] = (), *, with_results: bool = False, timeout: float | None = None
    ) -> None:
        self._with_results = with_results
        self._until = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self._ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._left: dict[Future, None] = {}
        self._client: Client | None = None
        self._wake: tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None = None  # who waits on a loop
        self.update(futures)

    def add(self, future: Future) -> None:
        """Add one more future."""
        if future in self._left:
            return
        self._left[future] = None
        self._client = future._client
        future._client._watch(future, self._note)

    def _note(self, future: Future) -> None:
        self._ended.put(future)
        if self._wake is not None:
            soon(*self._wake)

    def update(self, futures: Iterable[Future]) -> None:
        """Add more futures."""
        for future in futures:
            self.add(future)

    def count(self) -> int:
        """Futures that have not been given yet."""
        return len(self._left)

    def is_empty(self) -> bool:
        """True if all have been given."""
        return not self._left

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._left:
            raise StopIteration
        future = self._next()
        self._left.pop(future, None)
        return (future, future.result()) if self._with_results else future

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self._left:
            raise StopAsyncIteration
        future = await self._next_later()
        self._left.pop(future, None)
        return (future, await future) if self._with_results else future

    async def _next_later(self) -> Future:
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
                    raise TimeoutError(
                        f"{len(self._left)} futures have not ended within {self._timeout:g} s"
                    ) from None

    def _next(self) -> Future:
        with contextlib.suppress(queue.Empty):
            return self._ended.get_nowait()
        with stepping_aside() as task:
            return self._wait_for_next(task)

    def _wait_for_next(self, task: TaskFacts | None) -> Future:
        while True:
            if task is not None:
                task.check()
            left = 0.25 if self._until is None else min(0.25, self._until - time.monotonic())
            with contextlib.suppress(queue.Empty):
                return self._ended.get(timeout=max(0.0, left))
            if self._until is not None and time.monotonic() >= self._until:
                raise TimeoutError(f"{len(self._left)} futures have not ended within {self._timeout:g} s")
            if self._client is not None and self._client._failure is not None:
                raise self._client._failure


_CONTAINERS = (list, tuple, set, frozenset)
_SKIP = object()


def flatten(value: Any) -> Iterator[Future]:
    """Give the futures in nested lists, tuples, sets and dicts.

    :raises TypeError: there is something else in them.
    """
    if isinstance(value, Future):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from flatten(one)
    elif isinstance(value, _CONTAINERS):
        for one in value:
            yield from flatten(one)
    else:
        raise TypeError(f"gather takes futures in lists, tuples, sets and dicts, not a {type(value).__name__}")


def rebuild(value: Any, fetched: Mapping[Future, Any], *, skip_errors: bool) -> Any:
    """Return results in the nesting of their futures; all have ended, the large results are in ``fetched``."""
    if isinstance(value, Future):
        if value in fetched:
            return fetched[value]
        if skip_errors and value._status in (FAILED, CANCELLED, LOST):
            return _SKIP
        return value.result()
    if isinstance(value, dict):
        pairs = ((k, rebuild(v, fetched, skip_errors=skip_errors)) for k, v in value.items())
        return {k: v for k, v in pairs if v is not _SKIP}
    items = (rebuild(v, fetched, skip_errors=skip_errors) for v in value)
    return type(value)(v for v in items if v is not _SKIP)
