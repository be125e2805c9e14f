"""An actor's answer to one call: a future that is not a task's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar, cast

from hpclaunch.comm import serialize
from hpclaunch.link.facade import soon
from hpclaunch.link.head_link import HeadLink
from hpclaunch.link.timeouts import timeout_seconds
from hpclaunch.tasks.context import TaskFacts, seceding

T_co = TypeVar("T_co", covariant=True)

#: Seconds for which a task waits for an answer before it secedes, and between two looks at whether it was
#: cancelled meanwhile.
_SHORT_SECONDS = 0.2


class ActorFuture(Generic[T_co]):
    """The answer to one call of an actor."""

    __slots__ = ("__weakref__", "_error", "_link", "_payload", "_watchers")

    def __init__(self, link: HeadLink) -> None:
        self._link = link
        self._payload: tuple[Any, Any] | None = None
        self._error: BaseException | None = None
        self._watchers: list[Callable[[], None]] | None = None

    def result(self, timeout: str | float | None = None) -> T_co:
        """Wait for the answer and return it, or raise what the method raised.

        :param timeout: seconds to wait, or a text such as "500 ms"; None is no limit.
        :raises ActorError: the actor was lost; whether the call was carried out is not known.
        :raises TimeoutError: it took longer.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        assert self._payload is not None
        return cast("T_co", serialize.load_value(*self._payload))

    def exception(self, timeout: str | float | None = None) -> BaseException | None:
        """Wait for the answer; return what the method raised, or None."""
        self.wait(timeout_seconds(timeout))
        return self._error

    def wait(self, timeout: float | None) -> None:
        """Wait for the answer, or what came instead of one.

        :raises TimeoutError: it took longer than ``timeout`` seconds.
        """
        if self.done():
            return
        self._link.thread.check_blocking()
        until = None if timeout is None else time.monotonic() + timeout
        if not self._is_here_in(_SHORT_SECONDS if timeout is None else min(timeout, _SHORT_SECONDS), None):
            with seceding() as task:  # the actor may be re-created on this very worker
                if not self._is_here_in(None if until is None else until - time.monotonic(), task):
                    raise TimeoutError(
                        f"the actor has not answered within {timeout:g} s: its calls are carried out in their "
                        "order, and one of them, or its worker, takes longer; ask again, with more time"
                    )

    def _is_here_in(self, seconds: float | None, task: TaskFacts | None) -> bool:
        """Wait for the answer; say whether it is here."""
        until = None if seconds is None else time.monotonic() + seconds
        with self._link.changed:
            while not self.done():
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                if task is not None:
                    task.check()
                    left = _SHORT_SECONDS if left is None else min(left, _SHORT_SECONDS)
                self._link.changed.wait(left)
        return True

    def done(self) -> bool:
        """True once the answer is here."""
        return self._payload is not None or self._error is not None

    @property
    def _has_failed(self) -> bool:
        return self._error is not None

    def __await__(self) -> Generator[Any, None, T_co]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self._watch(lambda: soon(loop, set_done, ended))
        yield from ended
        return self.result()

    def resolve(self, payload: tuple[Any, Any] | None, error: BaseException | None) -> list[Callable[[], None]]:
        """Take the answer, or what came instead of one; return who is to be told. The caller holds ``changed``."""
        if self.done():
            return []
        self._payload, self._error = payload, error
        watchers, self._watchers = self._watchers or [], None
        return watchers

    def _watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` once the answer is here, from the loop; at once if it is."""
        with self._link.changed:
            if not self.done():
                self._watchers = [*(self._watchers or ()), watcher]
                return
        watcher()

    def __repr__(self) -> str:
        return f"<ActorFuture {'finished' if self.done() else 'pending'}>"


def set_done(future: asyncio.Future[None]) -> None:
    """End a wait on a loop, unless it has ended."""
    if not future.done():
        future.set_result(None)
