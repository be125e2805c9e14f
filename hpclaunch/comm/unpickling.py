"""Unpickling by several threads that import the same packages for the first time.

Pickle imports ``package.module`` in one go. Python then locks the module first and the package after, while a
plain ``import package`` locks them in the other order. Two threads that meet so are saved from the deadlock by
being given half a module, which breaks some packages (NumPy among them) for the rest of the process. Here a
package is always imported before what is in it.

And one thread unpickles at a time: two may import packages at once whose modules import each other, of which
Python makes ImportErrors and worse in one of them. On a new worker, that is its first tasks.
"""

from __future__ import annotations

import functools
import io
import pickle
import threading
from collections.abc import Callable, Iterable
from typing import Any

from hpclaunch.comm import class_copies

_GLOBAL = b"\x93"  # the opcode that names something in a module
#: Bytes from which a view is not copied for this: it would cost memory, and is seldom the first that imports.
_MAX_COPY = 16 << 20

#: Seconds after which a thread goes on without its turn: what unpickles may wait for another thread.
_TURN_SECONDS = 5.0

_plain_loads = pickle.loads
_turn = threading.RLock()
_imported: set[str] = set()  # modules that are known to be whole


def loads(data: Any, buffers: Iterable[Any] | None = None) -> Any:
    """Unpickle, as :func:`pickle.loads`, in turn, and importing packages before their modules."""
    if buffers is None and type(data) is bytes and _GLOBAL not in data:
        return _plain_loads(data)  # the hot path: nothing is imported, so there is no turn to wait for
    # A try first, for a lock that is taken with a timeout costs more than most values.
    is_alone = _turn.acquire(False) or _turn.acquire(timeout=_TURN_SECONDS)
    try:
        return _load(data, buffers)
    finally:
        if is_alone:
            _turn.release()


def forget_threads() -> None:
    """In a fork of a process: whichever thread was unpickling is not here."""
    global _turn
    _turn = threading.RLock()


def _load(data: Any, buffers: Iterable[Any] | None) -> Any:
    if type(data) is not bytes and memoryview(data).nbytes > _MAX_COPY:
        return _Unpickler(_Reader(memoryview(data)), buffers=buffers).load()
    return _Unpickler(io.BytesIO(data), buffers=buffers).load()


class _Reader:
    """Reads from a buffer without a copy of all of it; pickle asks for pieces of 64 KiB, or for large values."""

    __slots__ = ("_at", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view.cast("B")
        self._at = 0

    def read(self, size: int) -> bytes:
        piece = bytes(self._view[self._at : self._at + size])
        self._at += len(piece)
        return piece

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        piece = self._view[self._at : self._at + len(target)]
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def readline(self) -> bytes:
        start = self._at
        size = len(self._view)
        while self._at < size and self._view[self._at] != 10:
            self._at += 1
        self._at = min(self._at + 1, size)
        return bytes(self._view[start : self._at])


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if module not in _imported:
            self._import_from_top(module)
        found = super().find_class(module, name)
        if module.startswith("cloudpickle."):
            if name == "subimport":
                return functools.partial(self._subimport, found)
            return class_copies.replacement(name, found)
        return found

    def _import_from_top(self, module: str) -> None:
        """Import a module, and before it each of the packages that it is in; wait for other threads that do."""
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            super().find_class(".".join(parts[:count]), "__name__")
        _imported.add(module)

    def _subimport(self, found: Callable[[str], Any], module: str) -> Any:
        """Import a module that a function names."""
        self._import_from_top(module)
        return found(module)
