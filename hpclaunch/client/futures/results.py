"""Large results: fetched from the workers that hold them when a caller asks for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from hpclaunch.client.futures.free_memory import PART, Stored, check, explained
from hpclaunch.client.futures.future import FAILED, LOST, PENDING, STORED, Future
from hpclaunch.client.futures.timeout_errors import fetch_timeout
from hpclaunch.comm import messages as m, serialize
from hpclaunch.comm.fetch import Fetcher
from hpclaunch.errors import CommClosedError
from hpclaunch.link.head_link import HeadLink

#: Large results that are fetched at the same time.
_FETCHES = 16


class HoldsFuture:
    """A result that keeps its own future for as long as it exists, such as an actor's proxy."""

    def _hold(self, future: Future[Any]) -> None:
        """This is the result of ``future``."""
        raise NotImplementedError


class LargeResults:
    """Fetches the results of one client's futures.

    :param is_current: says whether a future is the one of its key.
    """

    def __init__(self, link: HeadLink, is_current: Callable[[Future[Any]], bool]) -> None:
        self._link = link
        self._is_current = is_current
        self.fetcher: Fetcher  # once the link is open
        self.memory_part: float | None = PART  # of what is free here, that results may have

    def fetch(self, futures: Sequence[Future[Any]], timeout: float | None) -> list[Any]:
        """Return large results.

        :raises ResultTooLargeError: there is no memory for them here.
        :raises TimeoutError: they have not arrived within ``timeout`` seconds.
        """
        results = {future._key: data for future in futures if type(data := future._data) is Stored}
        check(results, self.memory_part)
        try:
            return self._fetch_in_turn(futures, timeout)
        except (MemoryError, OSError) as error:
            explanation = explained(error, results)
            if explanation is None or explanation is error:
                raise
            raise explanation from error

    def _fetch_in_turn(self, futures: Sequence[Future[Any]], timeout: float | None) -> list[Any]:
        until = None if timeout is None else time.monotonic() + timeout
        values: list[Any] = []
        for start in range(0, len(futures), _FETCHES):
            some = futures[start : start + _FETCHES]
            try:
                payloads = self._link.thread.run(self._fetch_all(some), _left(until))
            except TimeoutError:
                raise fetch_timeout(some, timeout or 0.0) from None
            for future, payload in zip(some, payloads, strict=True):
                if payload is None:  # lost with its worker: it is computed again
                    values.append(future.result(_left(until)))
                else:
                    values.append(_load(future, payload))
        return values

    async def _fetch_all(self, futures: Sequence[Future[Any]]) -> list[serialize.Payload | None]:
        fetches = [asyncio.ensure_future(self.fetch_one(future)) for future in futures]
        try:
            return await asyncio.gather(*fetches)
        finally:
            for fetch in fetches:  # if one of them has failed
                fetch.cancel()

    async def fetch_one(self, future: Future[Any]) -> serialize.Payload | None:
        """Fetch a large result; None: its holders do not have it, and the future is pending again, or lost."""
        stored = future._data
        if future._status != STORED:
            return None
        payload = await self.fetcher.fetch(stored.places, future._key)
        if payload is not None:
            return payload
        with self._link.changed:
            if future._status == STORED and future._data is stored:  # no other call was quicker, or knows better
                if not self._is_current(future):
                    text = f"the result of task {future._key} was released by release()"
                    future._data, future._status = m.Failure("LostResultError", text), FAILED
                elif self._link.closed:
                    future._data, future._status = CommClosedError(self._link.closed), LOST
                else:
                    future._data, future._status = None, PENDING
                    self._link.send(m.LocateKeys([future._key], [stored.places]))
        return None


def _load(future: Future[Any], payload: serialize.Payload) -> Any:
    """Unpickle a large result."""
    value = serialize.load_value(*payload)
    if issubclass(type(value), HoldsFuture):
        value._hold(future)
    return value


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())
