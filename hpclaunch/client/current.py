"""Which client is meant where none is named: the task's own, the innermost ``as_current`` block's, or the newest.

Owns the clients that were made to be a default (``set_as_default``, as it is unless told otherwise), oldest first.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING

from hpclaunch.client.integrations import dask as dask_default
from hpclaunch.on_import import when_imported
from hpclaunch.tasks.context import task_client

if TYPE_CHECKING:
    from hpclaunch.client.client import Client

_meant: ContextVar[Client | None] = ContextVar("client", default=None)
_defaults: list[Client] = []
_lock = threading.Lock()


def get_client() -> Client:
    """Return the client that is meant here: in a task the one that all tasks of its worker share.

    :raises ValueError: there is none.
    """
    client = _meant.get() or task_client() or default_client()
    if client is None:
        raise ValueError("there is no client here: make one with hpclaunch.Client(), and keep it open")
    return client


def default_client() -> Client | None:
    """Return the newest of this process's open clients that were made to be a default; None if there is none."""
    with _lock:
        for client in reversed(_defaults):
            if not client._closed and not client._thread.is_foreign:
                return client
    return None


def add_default(client: Client) -> None:
    """Make a client the default, until it is closed or another is."""
    with _lock:
        _defaults.append(client)
    dask_default.register()
    when_imported("joblib.parallel", _offer_to_joblib)


def remove_default(client: Client) -> None:
    """Undo :func:`add_default`."""
    with _lock:
        if client in _defaults:
            _defaults.reverse()  # the newest one goes: a block inside a block
            _defaults.remove(client)
            _defaults.reverse()
    if default_client() is None:
        dask_default.unregister()


def _offer_to_joblib(parallel: ModuleType) -> None:
    """Have joblib find the backend "hpclaunch" by its name."""

    def register() -> None:
        importlib.import_module("hpclaunch.joblib")

    getattr(parallel, "EXTERNAL_BACKENDS", {}).setdefault("hpclaunch", register)


@contextlib.contextmanager
def meaning(client: Client) -> Iterator[Client]:
    """Have a client meant inside this block, in this thread or coroutine."""
    token = _meant.set(client)
    try:
        yield client
    finally:
        _meant.reset(token)
