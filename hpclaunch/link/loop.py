"""The one background thread whose event loop serves all clients and clusters of this process.

The blocking API is a thin facade: it hands coroutines to this loop and waits. A process that was forked gets a
thread of its own, since threads do not survive a fork.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

import uvloop

from hpclaunch.comm.loop_errors import on_loop_error
from hpclaunch.comm.unpickling import forget_threads

T = TypeVar("T")


class Abandonment:
    """What a blocking call waits for, so that its wait can be cancelled from outside."""

    def __init__(self) -> None:
        self._is_abandoned = False
        self._waits: set[concurrent.futures.Future[Any]] = set()

    def begin(self, wait: concurrent.futures.Future[Any]) -> None:
        """The call waits for this from now on."""
        self._waits.add(wait)
        if self._is_abandoned:
            wait.cancel()

    def end(self, wait: concurrent.futures.Future[Any]) -> None:
        """It does no more."""
        self._waits.discard(wait)

    def abandon(self) -> None:
        """Have all that the call waits for, now and later, cancelled."""
        self._is_abandoned = True
        for wait in list(self._waits):
            wait.cancel()


#: That of the call which runs here, if it can be given up from outside.
abandonment: ContextVar[Abandonment | None] = ContextVar("abandonment", default=None)


class LoopThread:
    """A daemon thread with a uvloop event loop."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.is_foreign = False  # True in a process that was forked since: the thread is not there
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.loop.set_exception_handler(on_loop_error)
        self._thread = threading.Thread(target=self._serve, name="hpclaunch-io", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    @property
    def is_here(self) -> bool:
        """True in the loop's own thread, where blocking on it would be a deadlock."""
        return threading.current_thread() is self._thread

    def check_process(self) -> None:
        """Raise RuntimeError in a process that was forked since this thread was started."""
        if self.is_foreign:
            raise RuntimeError(
                f"this client was made in process {self.pid}, of which this is a fork: make another one here"
            )

    def check_blocking(self) -> None:
        """Raise RuntimeError where waiting for this thread would never end."""
        self.check_process()
        if self.is_here:
            raise RuntimeError("a blocking call from hpclaunch's own event loop would never end")

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and return its result; its exceptions are raised here.

        :param timeout: seconds, after which it is cancelled and TimeoutError raised.
        :raises RuntimeError: called from the loop's own thread, or in a fork of its process.
        """
        try:
            self.check_blocking()
        except RuntimeError:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        here = abandonment.get()
        if here is not None:
            here.begin(future)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            if not future.done():
                future.cancel()
                raise TimeoutError(f"no answer within {timeout:g} s") from None
            raise
        except KeyboardInterrupt:
            future.cancel()
            raise
        finally:
            if here is not None:
                here.end(future)


_lock = threading.Lock()
_thread: LoopThread | None = None


def loop_thread() -> LoopThread:
    """Return this process's loop thread; it is started when first asked for."""
    global _thread
    with _lock:
        if _thread is None:
            _thread = LoopThread()
        return _thread


def _after_fork() -> None:
    global _lock, _thread
    if _thread is not None:
        _thread.is_foreign = True
    _lock, _thread = threading.Lock(), None
    forget_threads()


os.register_at_fork(after_in_child=_after_fork)
