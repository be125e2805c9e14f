"""Functions as bytes, pickled again only if they may have changed.

A function of ``__main__`` travels by value: its code, and the globals that it names. Pickling that costs several
times what the rest of a submission does, so it is remembered, but only for functions all of whose parts can be
compared: no closure, no attributes, and no globals but modules, built-in functions and constants. As long as those
are the very same objects, the bytes are the same. Everything else is pickled each time: a stale function would be
a wrong result.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType, NoneType
from typing import Any, NamedTuple

from hpclaunch.comm.serialize import FunctionBytes, dump_function

_CONSTANTS = (NoneType, bool, int, float, complex, str, bytes, ModuleType, BuiltinFunctionType)
_MISSING = object()

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
            return dump_function(function)
        known = self._known.get(function)
        if known is not None and _is_unchanged(function, known[0]):
            return known[1]
        data = dump_function(function)
        snapshot = _snapshot(function)
        if snapshot is not None:
            self._known[function] = snapshot, data
        return data


def _snapshot(function: FunctionType) -> _Snapshot | None:
    """Return what a function's bytes depend on; None if not all of that can be compared."""
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if function.__closure__ or function.__dict__ or any(type(one) not in _CONSTANTS for one in defaults):
        return None
    variables = function.__globals__
    names = tuple((name, variables.get(name, _MISSING)) for name in dict.fromkeys(_names(function.__code__)))
    if any(value is not _MISSING and type(value) not in _CONSTANTS for _, value in names):
        return None
    return _Snapshot(function.__code__, defaults, names)


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
