"""Which cluster ``Client()`` means: the ``with`` block's, that of ``initialize()``, a named one, or a new one."""

from __future__ import annotations

import os
import threading
from typing import Any

_entered = threading.local()
_lasting: list[Any] = []


def current_or_new_cluster(*, asynchronous: bool = False, **arguments: Any) -> tuple[Any, bool]:
    """Return the cluster that ``Client()`` means, and whether it was made for it.

    That is the innermost ``with`` block's, or the one that ``initialize()`` has started, or the one named by
    ``$HPCLAUNCH_CLUSTER``, or a new LocalCluster; with arguments, always the last.
    """
    if not arguments:
        found = [*_lasting, *_stack()]
        if found:
            return found[-1], False
        named = os.environ.get("HPCLAUNCH_CLUSTER")
        if named:
            return named, False
    from hpclaunch.cluster.local import LocalCluster

    return LocalCluster(asynchronous=asynchronous, **arguments), True


def enter(cluster: Any) -> None:
    """Begin a ``with`` block of this thread."""
    _stack().append(cluster)


def leave(cluster: Any) -> None:
    """End it."""
    if cluster in _stack():
        _stack().remove(cluster)


def set_lasting(cluster: Any) -> None:
    """Have a cluster meant in all threads, outside of any ``with`` block, until :func:`forget`."""
    _lasting.append(cluster)


def forget(cluster: Any) -> None:
    """End :func:`set_lasting`."""
    if cluster in _lasting:
        _lasting.remove(cluster)


def _stack() -> list[Any]:
    if not hasattr(_entered, "stack"):
        _entered.stack = []
    stack: list[Any] = _entered.stack
    return stack


def _forget_after_fork() -> None:
    _entered.__dict__.clear()
    _lasting.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
