"""Clients of a program that has an event loop of its own: blocking calls become awaitables on it.

A call that only waits for futures waits by callbacks, however many wait at once. Any other runs in a thread of its
own, where it may block as it likes. The client's own loop thread does the input and output either way.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from hpclaunch.link.loop import Abandonment, abandonment

_may_block: ContextVar[bool] = ContextVar("may_block", default=False)
Method = TypeVar("Method", bound=Callable[..., Any])


@contextlib.contextmanager
def allowing_to_block() -> Iterator[None]:
    """Call blocking methods inside this block as they are: they will not block."""
    token = _may_block.set(True)
    try:
        yield
    finally:
        _may_block.reset(token)


def is_awaiting(client: Any) -> bool:
    """Say whether a call that blocks must become an awaitable here."""
    return client.asynchronous and not _may_block.get()


def blocking(method: Method) -> Method:
    """Make a method of a client that blocks return an awaitable where its client is asynchronous."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_awaiting(self):
            return in_thread(functools.partial(method, self, *args, **kwargs))
        return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


def in_thread(call: Callable[[], Any]) -> asyncio.Future[Any]:
    """Run a call that blocks in a thread of its own; must be called on an event loop.

    If the answer is cancelled, as by ``asyncio.wait_for``, what the call waits for is given up: a lock must not be
    taken, nor a value out of a queue, for a caller that does not wait any more.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()
    own = Abandonment()
    answer.add_done_callback(lambda ended: own.abandon() if ended.cancelled() else None)

    def resolve(value: Any, error: BaseException | None) -> None:
        if answer.done():  # it was cancelled
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(value)

    def run() -> None:
        _may_block.set(True)
        abandonment.set(own)
        value, error = None, None
        try:
            value = call()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(resolve, value, error)

    threading.Thread(target=copy_context().run, args=(run,), name="hpclaunch-await", daemon=True).start()
    return answer


def no_answer(client: Any) -> Any:
    """Return what a call without an answer returns: None, or an awaitable of it."""
    if not is_awaiting(client):
        return None
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


def soon(loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *args: Any) -> None:
    """Have something called on a loop, from any thread, unless the loop has closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *args)


async def after(waiting: Awaitable[Any], call: Callable[[], Any]) -> Any:
    """Wait for something, then run a call that may block for a moment in a thread of its own."""
    await waiting
    return await in_thread(call)
