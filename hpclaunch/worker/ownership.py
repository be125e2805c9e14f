"""Whose memory a result is: it is what was returned at that moment, whatever happens to the object later.

A large result is not copied when it is pickled: its buffers are the memory of the arrays that were returned. That
is right as long as this is all that is left of them. If anything else still refers to one, such as an actor, a
cache or a thread that the task has started, it may change the array later, so its buffer is copied.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from hpclaunch.comm.buffers import Buffer, OwnBytes, OwnPages, copy_of
from hpclaunch.comm.serialize import Payload


def own(payload: Payload, inputs: Mapping[str, Any] | None) -> Payload:
    """Return a result whose buffers nothing else refers to; called when the task's own references are gone.

    :param inputs: the task's. A result may refer to those that it shares with others, as only graphs in Dask's
        sense do, whose tasks do not change what they are given.
    """
    buffers = payload.buffers
    if not buffers:
        return payload
    shared = _owners_of(inputs.values()) if inputs else frozenset()
    seen: dict[int, int] = {}  # how many of the result's own buffers lie in one object
    for buffer in buffers:
        owner = _owner(buffer)
        seen[id(owner)] = seen.get(id(owner), 0) + 1
        del owner
    payload.buffers[:] = [b if _is_own(b, seen, shared) else copy_of(b) for b in buffers]
    return payload


def _is_own(buffer: Buffer, seen: Mapping[int, int], shared: frozenset[int]) -> bool:
    """Say whether nothing but a result's buffers refers to the memory of one of them.

    Look from an array at the one that it is a view of, down to where the memory is: each must have one reference.
    An object that is not known to have its memory for itself does not count as such.
    """
    link: Any = _owner(buffer)
    expected = _references_of_a_buffer() + seen[id(link)] - 1
    while link is not None:
        kind = type(link).__name__
        if kind == "bytes" or id(link) in shared or type(link).__module__ == "pyarrow.lib":  # Arrow's never change
            return True
        if sys.getrefcount(link) > expected or kind == "memmap":  # a file, which others may write to
            return False
        if kind == "memoryview":  # others of the same memory can't be counted
            return id(link.obj) in shared or isinstance(link.obj, OwnBytes | OwnPages)
        if kind in ("bytearray", "OwnBytes", "OwnPages"):
            return True
        if not hasattr(link, "base"):
            return False
        link = link.base
        expected = _references_of_a_base()
    return True


def _owner(buffer: Buffer) -> Any:
    return memoryview(buffer).obj


def _owners_of(values: Iterable[Any]) -> frozenset[int]:
    """Return the ids of the objects in whose memory a task's inputs are."""
    return frozenset(
        id(_owner(buffer)) for value in values if isinstance(value, Payload) for buffer in value.buffers
    )


class _Base:
    """Stands for an array that another is a view of."""


class _View:
    def __init__(self, base: _Base) -> None:
        self.base = base


@cache
def _references_of_a_buffer() -> int:
    """Count the references to an object of which only a raw buffer is left, as this Python counts them."""
    buffer = pickle.PickleBuffer(bytearray(8)).raw()
    link = _owner(buffer)
    return sys.getrefcount(link)


@cache
def _references_of_a_base() -> int:
    """Count those to an object that only one view refers to."""
    link: Any = _View(_Base())
    link = link.base  # the view is gone now, but its reference is what is counted
    return sys.getrefcount(link) + 1
