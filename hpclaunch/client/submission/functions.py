"""Functions as bytes, pickled again only if they may have changed.

A function of ``__main__`` travels by value: its code, and the globals that it names. Pickling that costs several
times what the rest of a submission does, so it is remembered, but only for functions all of whose parts can be
compared: no closure, no attributes, and no globals but modules, built-in functions and constants. As long as those
are the very same objects, the bytes are the same. Everything else is pickled each time: a stale function would be
a wrong result.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType, NoneType
from typing import Any, NamedTuple

from hpclaunch.client.submission.shareable import is_plain_builtin, is_shareable
from hpclaunch.comm.messages import DefineFunction, ForgetFunctions, Message
from hpclaunch.comm.serialize import FunctionBytes, dump_function
from hpclaunch.errors import CommClosedError, SerializationError
from hpclaunch.notes import warn

_CONSTANTS = (NoneType, bool, int, float, complex, str, bytes, ModuleType)
_MISSING = object()

#: Bytes of arguments of one call, or of a function. They travel in messages, which are not made for bulk data.
_MAX_CALL = 1 << 30
#: Bytes of them from which the user is told of a better way.
_MUCH_CALL = 10 << 20
#: Functions that the head has from one client at most, and their bytes; but however large, it has this many.
_MOST_FUNCTIONS = 1000
_MOST_BYTES = 64 << 20
_LEAST_FUNCTIONS = 4

#: Keywords that ``Client.submit`` takes for its own, and never passes on.
SUBMIT_WORDS = frozenset(
    [
        "actor",
        "actors",
        "allow_other_workers",
        "duration",
        "fifo_timeout",
        "key",
        "priority",
        "pure",
        "resources",
        "restarts",
        "retries",
        "timeout",
        "workers",
    ]
)


class _Snapshot(NamedTuple):
    """All that a function's bytes depend on."""

    code: CodeType
    defaults: tuple[Any, ...]
    names: tuple[tuple[str, Any], ...]  # globals that it may look up, and what they are


class SentFunctions:
    """Which functions the head has from this client: the latest, or the closures of a long session would fill it.

    A function stays while it is *in use*, from before its bytes are sent until after the last message
    that names it.

    :param send: sends a message to the head, in order.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._sizes: dict[bytes, int] = {}  # the latest last
        self._total = 0
        self._in_use: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def using(self, function: FunctionBytes) -> FunctionInUse:
        """Have the head know a function inside a ``with`` block.

        :raises SerializationError: at its beginning: the function is too large to be sent.
        """
        return FunctionInUse(self, function)

    def _enter(self, function: FunctionBytes) -> None:
        with self._lock:
            size = self._sizes.pop(function.id, None)
            if size is None:
                size = function.size
                check_size(size, function.name)
                self._send(DefineFunction(*function))
                self._total += size
            self._sizes[function.id] = size
            self._in_use[function.id] = self._in_use.get(function.id, 0) + 1

    def _leave(self, function: bytes) -> None:
        with self._lock:
            left = self._in_use[function] - 1
            if left:
                self._in_use[function] = left
                return
            del self._in_use[function]
            if self._is_much():
                self._forget_some()

    def _is_much(self) -> bool:
        count = len(self._sizes)
        return count > _MOST_FUNCTIONS or (count > _LEAST_FUNCTIONS and self._total > _MOST_BYTES)

    def _forget_some(self) -> None:
        """Forget the oldest half, by number; more if the rest is still large."""
        half = len(self._sizes) // 2
        old: list[bytes] = []
        for function in list(self._sizes)[:-_LEAST_FUNCTIONS]:
            if len(old) >= half and self._total <= _MOST_BYTES:
                break
            if function not in self._in_use:
                self._total -= self._sizes.pop(function)
                old.append(function)
        if old:
            with contextlib.suppress(CommClosedError):
                self._send(ForgetFunctions(old))


class FunctionInUse:
    """The time in which a function is in use."""

    __slots__ = ("_function", "_sent")

    def __init__(self, sent: SentFunctions, function: FunctionBytes) -> None:
        self._sent = sent
        self._function = function

    def __enter__(self) -> FunctionBytes:
        self._sent._enter(self._function)
        return self._function

    def __exit__(self, *_: object) -> None:
        self._sent._leave(self._function.id)


class FunctionCache:
    """Gives a function's bytes; see the module's text."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Callable[..., Any], tuple[_Snapshot, FunctionBytes]]
        self._known = weakref.WeakKeyDictionary()

    def dump(self, function: Callable[..., Any]) -> FunctionBytes:
        """Return a function's bytes.

        :raises SerializationError: it refers to something that can't be pickled.
        """
        if type(function) is not FunctionType or function.__module__ != "__main__":
            return dump_function(function, is_shared=is_shareable(function))
        known = self._known.get(function)
        if known is not None and _is_unchanged(function, known[0]):
            return known[1]
        data = dump_function(function, is_shared=is_shareable(function))
        snapshot = _snapshot(function)
        if snapshot is not None:
            self._known[function] = snapshot, data
        return data


def _snapshot(function: FunctionType) -> _Snapshot | None:
    """Return what a function's bytes depend on; None if not all of that can be compared."""
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if function.__closure__ or function.__dict__ or not all(map(_is_constant, defaults)):
        return None
    variables = function.__globals__
    names = tuple((name, variables.get(name, _MISSING)) for name in dict.fromkeys(_names(function.__code__)))
    if not all(value is _MISSING or _is_constant(value) for _, value in names):
        return None
    return _Snapshot(function.__code__, defaults, names)


def _is_constant(value: Any) -> bool:
    """Say whether a value is the same as before as long as it is the same object."""
    if type(value) is BuiltinFunctionType:
        return is_plain_builtin(value)
    return type(value) in _CONSTANTS


def _is_unchanged(function: FunctionType, snapshot: _Snapshot) -> bool:
    if function.__code__ is not snapshot.code or function.__dict__:
        return False
    if function.__defaults__ or function.__kwdefaults__ or snapshot.defaults:
        now = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        if len(now) != len(snapshot.defaults) or any(
            a is not b for a, b in zip(now, snapshot.defaults, strict=True)
        ):
            return False
    get = function.__globals__.get
    return all(get(name, _MISSING) is value for name, value in snapshot.names)


def _names(code: CodeType) -> Iterator[str]:
    """Give every name that a code object, or one inside it, may look up."""
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _names(one)


def check_size(size: int, name: str) -> None:
    """Warn if so many bytes of arguments, or of a function, are many.

    :raises SerializationError: they are too many.
    """
    if size > _MAX_CALL:
        raise SerializationError(
            f"a call of {name} has {size / 1e9:.1f} GB of arguments, or of data in the function; at most "
            f"{_MAX_CALL / 1e9:.1f} GB can be sent. Make or read the data in a task, and pass on its future"
        )
    if size > _MUCH_CALL:
        warn(
            f"a call of {name} has {size / 1e6:.0f} MB of arguments, or of data in the function, which the head "
            "keeps for each call. Give large values to scatter() once, and pass on the futures that it returns"
        )
