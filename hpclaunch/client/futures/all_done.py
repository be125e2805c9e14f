"""Waiting on a user's own event loop until futures are done, by callbacks: any number at once, and no threads."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

from hpclaunch.client.futures.timeout_errors import wait_timeout
from hpclaunch.link.facade import soon
from hpclaunch.link.head_link import HeadLink


class Awaited(Protocol):
    """What is waited for: a task's future, or an actor's answer."""

    def done(self) -> bool:
        """True once there is an outcome."""

    def _watch(self, watcher: Callable[[], None]) -> None:
        """Have ``watcher`` called, from any thread, once there is an outcome."""


async def wait_all(link: HeadLink, futures: Sequence[Awaited], timeout: float | None = None) -> None:
    """Wait until all of some futures are done.

    :raises TimeoutError: they are not within ``timeout`` seconds.
    :raises JobsFailedError: the cluster cannot start workers.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    pending = [future for future in futures if not future.done()]
    left = len(pending)

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left <= 0 and not ended.done():
            ended.set_result(None)

    def fail(error: BaseException) -> None:
        if not ended.done():
            ended.set_exception(error)

    if not pending:
        return
    with link.failures_go_to(functools.partial(soon, loop, fail)):
        for future in pending:
            future._watch(functools.partial(soon, loop, count_down))
        try:
            async with asyncio.timeout(timeout):
                await ended
        except TimeoutError:
            raise wait_timeout(futures, timeout or 0.0) from None
