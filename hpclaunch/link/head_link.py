"""A client's link to the head: what goes out, in its order, and whether the head and its cluster work.

Any thread queues messages and released keys; the loop's thread (:mod:`hpclaunch.link.loop`) sends them. Futures,
answers of actors and the link itself share one condition, ``changed``, which guards what callers wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from hpclaunch.comm import messages as m
from hpclaunch.errors import CommClosedError, HPCLaunchError, PeerSilentError
from hpclaunch.link.loop import LoopThread, loop_thread
from hpclaunch.link.session import HeadSession

FailureListener = Callable[[HPCLaunchError], None]


class HeadLink:
    """The link of one client.

    :param name: what the head knows the client by.
    :param asynchronous: calls that block return awaitables.
    """

    def __init__(self, name: str, *, asynchronous: bool = False) -> None:
        self.name = name
        self.asynchronous = asynchronous
        self.thread: LoopThread = loop_thread()
        self.session: HeadSession  # from begin() on
        self.is_open = False
        self.closed = ""  # why nothing can be sent any more
        self.is_closing = False  # the client closes it, not the head
        self.failure: HPCLaunchError | None = None  # why the cluster can't work at present
        self.changed = threading.Condition()
        #: Takes keys that may have been released, and returns those that have no future; called on the loop.
        self.forget_released: Callable[[list[str]], list[str]] = lambda keys: keys
        self._tag = secrets.token_hex(3)
        self._numbers = itertools.count(1)
        self._outgoing: deque[m.Message] = deque()
        self._released: deque[str] = deque()
        self._is_flush_due = False
        self._failure_listeners: set[FailureListener] = set()
        self._background: set[asyncio.Future[None]] = set()

    def begin(self, session: HeadSession) -> None:
        """Use a session that has been opened, and send what was queued before."""
        self.session = session
        self.is_open = True
        if self._outgoing or self._released:
            self._schedule_flush()

    @property
    def is_usable(self) -> bool:
        """True until it is closed, in the process that has opened it."""
        return not self.closed and not self.thread.is_foreign

    def next_number(self) -> int:
        """Return a number that this client has not used."""
        return next(self._numbers)  # which is atomic

    def new_key(self, name: str) -> str:
        """Return a key, or the beginning of keys, that no other client has."""
        return f"{name}-{self._tag}-{next(self._numbers)}"

    def new_suffix(self) -> str:
        """Return the end of keys that no other client has."""
        return f"{self._tag}-{next(self._numbers)}"

    # --- to the head

    def send(self, message: m.Message) -> None:
        """Queue a message; from any thread.

        :raises CommClosedError: the link is closed.
        :raises RuntimeError: the process was forked since the client was made.
        """
        self.thread.check_process()
        if self.closed:
            raise CommClosedError(f"client {self.name} is closed: {self.closed}")
        self._outgoing.append(message)
        self._schedule_flush()

    def release(self, key: str) -> None:
        """Note that the future of a key is gone; from any thread, at any point."""
        self._released.append(key)
        if not self._is_flush_due:
            self._schedule_flush()

    def ask(self, method: str, timeout: float | None = None, **params: Any) -> Any:
        """Ask the head something and wait for the answer.

        :raises TimeoutError: it took longer than ``timeout`` seconds.
        :raises PeerSilentError: the head shows no life.
        """
        return self.thread.run(self.ask_soon(method, **params), timeout)

    async def ask_soon(self, method: str, **params: Any) -> Any:
        """As :meth:`ask`, on the loop.

        :raises PeerSilentError: the head does not answer, and shows no life.
        """
        self.flush()
        try:
            return await self.session.ask(method, **params)
        except PeerSilentError as error:
            raise PeerSilentError(
                f"the head at {self.session.address} does not answer: {error}. It is frozen, or its machine is "
                "very busy; ask again later. Futures are still good"
            ) from None

    async def request(self, method: str, **params: Any) -> Any:
        """As :meth:`ask_soon`, however long the head is silent."""
        self.flush()  # what the user has sent before must arrive before
        return await self.session.request(method, **params)

    def _schedule_flush(self) -> None:
        if not self._is_flush_due and not self.closed and not self.thread.is_foreign:
            self._is_flush_due = True
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                self.thread.loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        """Send what has been queued; runs on the loop."""
        self._is_flush_due = False
        if not self.is_open:
            return
        comm = self.session.comm
        if comm is None or comm.is_closed:
            return
        released = [self._released.popleft() for _ in range(len(self._released))]
        while self._outgoing:  # all that was queued before the keys above were released, at least
            comm.put(self._outgoing.popleft())
        if released and (gone := self.forget_released(released)):
            comm.put(m.ReleaseKeys(gone))
        comm.flush()

    # --- the state of the cluster

    def on_failure(self, error: HPCLaunchError) -> None:
        """The head says that the cluster can't work: callers that wait are told."""
        with self.changed:
            self.failure = error
            self.changed.notify_all()
        for listener in list(self._failure_listeners):
            listener(error)

    def on_recovered(self) -> None:
        """The head says that the cluster works again."""
        self.failure = None

    @contextlib.contextmanager
    def failures_go_to(self, listener: FailureListener) -> Iterator[None]:
        """Call ``listener`` inside this block when the cluster can't work, from any thread; now if that is so."""
        self._failure_listeners.add(listener)
        if self.failure is not None:
            listener(self.failure)
        try:
            yield
        finally:
            self._failure_listeners.discard(listener)

    def run_in_background(self, work: asyncio.Future[None]) -> None:
        """Keep a piece of work on the loop until it has ended."""
        self._background.add(work)
        work.add_done_callback(self._background.discard)
