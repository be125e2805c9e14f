"""The current client, where none is named: the task's own, the innermost ``as_current`` block's, or the newest.

Owns the clients that were made to be a default (``set_as_default``, as it is unless told otherwise), oldest first.
Clients are :class:`hpclaunch.Client` objects, which is above this module.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from hpclaunch.tasks.context import task_client

_current: ContextVar[Any] = ContextVar("client", default=None)
_defaults: list[Any] = []
_lock = threading.Lock()


def current_client() -> Any:
    """Return the current client: in a task the one that all tasks of its worker share.

    :raises ValueError: there is none.
    """
    client = _current.get() or task_client() or default_client()
    if client is None:
        raise ValueError("there is no client here: make one with hpclaunch.Client(), and keep it open")
    return client


def default_client() -> Any:
    """Return the newest of this process's open clients that were made to be a default; None if there is none."""
    with _lock:
        for client in reversed(_defaults):
            if client._core.link.is_usable:
                return client
    return None


def add_default(client: Any) -> None:
    """Make a client the default, until it is closed or another is."""
    with _lock:
        _defaults.append(client)


def remove_default(client: Any) -> None:
    """Undo :func:`add_default`."""
    with _lock:
        if client in _defaults:
            _defaults.reverse()  # the newest one goes: a block inside a block
            _defaults.remove(client)
            _defaults.reverse()


@contextlib.contextmanager
def as_current(client: Any) -> Iterator[Any]:
    """Have :func:`current_client` return a client inside this block, in this thread or coroutine."""
    token = _current.set(client)
    try:
        yield client
    finally:
        _current.reset(token)
