"""Which functions all calls on a worker may share, and of which each call needs a copy of its own.

A function that travels by value (of ``__main__``, a lambda, a closure, an object that can be called) brings
state along: defaults, closure, globals that it names, attributes. If two calls on a worker had one copy of it, a
call would see what another has left there. So each call has a copy of its own, as if it ran in a new process,
unless there can be no difference: the function can be imported by name, or nothing in it can change. That is so if

* its closure, defaults, attributes and the globals that it names are immutable values, modules, or functions of
  this kind again, and
* its code changes none of these: it has no ``global`` or ``nonlocal`` variable that it assigns, sets no attributes
  if it can reach a function that travels with it, and names nothing by which it could do so unseen (``globals``,
  ``setattr``, ``exec`` …).

A module is what the worker has by that name, and shared by all that runs there, as in any Python process.
"""

from __future__ import annotations

import dis
import functools
import sys
import weakref
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, CodeType, EllipsisType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any, NamedTuple

_VALUES = frozenset({NoneType, bool, int, float, complex, str, bytes, range, EllipsisType, type(NotImplemented)})
_CONTAINERS = frozenset({tuple, frozenset})

#: Types of other modules whose values never change, by name: asking for them must not import these modules.
_FROZEN = frozenset(
    {
        ("datetime", "date"),
        ("datetime", "timedelta"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("numpy", "ufunc"),
        ("pathlib", "PosixPath"),
        ("pathlib", "PurePosixPath"),
        ("pathlib._local", "PosixPath"),
        ("pathlib._local", "PurePosixPath"),
        ("re", "Pattern"),
        ("uuid", "UUID"),
        *(("numpy", name) for name in ("bool", "bool_", "int8", "int16", "int32", "int64")),
        *(("numpy", name) for name in ("uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")),
        *(("numpy", name) for name in ("complex64", "complex128", "datetime64", "timedelta64", "str_", "bytes_")),
    }
)

#: Names by which code can change what its instructions do not show.
_REFLECTIVE = frozenset(
    {
        "globals", "locals", "vars", "exec", "eval", "setattr", "delattr", "cell_contents", "_getframe",
        "currentframe", "__dict__", "__globals__", "__closure__", "__defaults__", "__kwdefaults__", "__code__",
        "__main__",
    }
)  # fmt: skip

_MISSING = object()


def is_shareable(function: Callable[..., Any]) -> bool:
    """Say whether all calls on a worker may share one copy of a function; see the module's text."""
    return _is_fixed(function, set())


def is_plain_builtin(function: Any) -> bool:
    """Say whether a built-in function is one of a module, and not a method of an object, such as ``[].append``."""
    return function.__self__ is None or type(function.__self__) is ModuleType


def _is_fixed(value: Any, seen: set[int]) -> bool:  # one line for each kind of value
    """Say whether a value, and all that it refers to, can never change; ``seen`` are functions being looked at."""
    kind = type(value)
    if kind in _VALUES or (kind.__module__, kind.__qualname__) in _FROZEN:
        return True
    if kind in _CONTAINERS:
        return _are_fixed(value, seen)
    if kind is FunctionType:
        return _is_by_name(value) or _is_fixed_function(value, seen)
    if kind is BuiltinFunctionType:
        return is_plain_builtin(value) or (isinstance(value.__self__, type) and _is_by_name(value.__self__))
    if kind is MethodType:  # a class method
        return isinstance(value.__self__, type) and _is_by_name(value.__self__)
    if isinstance(value, ModuleType):
        return sys.modules.get(value.__name__) is value and not _is_sent_by_value(value.__name__)
    if kind is functools.partial:
        parts = (value.func, *value.args, *value.keywords.values())
        return not value.__dict__ and _are_fixed(parts, seen)
    return isinstance(value, type) and _is_by_name(value)


def _are_fixed(values: Iterable[Any], seen: set[int]) -> bool:
    return all(_is_fixed(one, seen) for one in values)


def _is_fixed_function(function: FunctionType, seen: set[int]) -> bool:
    """Say whether a function that travels by value can never change."""
    if id(function) in seen:  # it names itself, or a function that names it
        return True
    seen.add(id(function))
    code = _look_at(function.__code__)
    if code.rebinds_globals or not code.rebound.isdisjoint(function.__code__.co_freevars):
        return False
    parts = [
        *(function.__defaults__ or ()),
        *(function.__kwdefaults__ or {}).values(),
        *function.__dict__.values(),
    ]
    parts += _contents(function)
    known = function.__globals__
    parts += [known[name] for name in code.globals if name in known]
    if code.sets_attributes and any(type(one) is FunctionType and not _is_by_name(one) for one in parts):
        return False
    return _are_fixed(parts, seen)


def _contents(function: FunctionType) -> list[Any]:
    """Return what a function's closure has in it, without variables that have no value yet."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append(_MISSING)  # it gets a value later, which would be missed: not fixed
    return found


def _is_by_name(value: Any) -> bool:
    """Say whether a function or class is pickled as a name, under which a worker imports its own."""
    module = getattr(value, "__module__", None)
    if type(module) is not str or module in ("__main__", "__mp_main__") or _is_sent_by_value(module):
        return False
    found: Any = sys.modules.get(module)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def _is_sent_by_value(module: str) -> bool:
    """Say whether the user has told cloudpickle to send what is in a module by value."""
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return False
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(module == name or module.startswith(f"{name}.") for name in registered)


# --- code ---------------------------------------------------------------------------------------------------


class _Code(NamedTuple):
    """What a function's code, with all code inside it, looks up and assigns."""

    globals: frozenset[str]
    rebinds_globals: bool  # or may do so unseen
    rebound: frozenset[str]  # variables of closures that it assigns
    sets_attributes: bool


_known: weakref.WeakKeyDictionary[CodeType, _Code] = weakref.WeakKeyDictionary()


def _look_at(code: CodeType) -> _Code:
    known = _known.get(code)
    if known is None:
        known = _known[code] = _read(code)
    return known


def _read(code: CodeType) -> _Code:
    looked_up: set[str] = set()
    rebound: set[str] = set()
    rebinds = not _REFLECTIVE.isdisjoint(code.co_names)
    sets_attributes = False
    for one in dis.get_instructions(code):
        match one.opname:
            case "LOAD_GLOBAL" | "LOAD_NAME" | "LOAD_FROM_DICT_OR_GLOBALS":
                looked_up.add(one.argval)
            case "STORE_GLOBAL" | "DELETE_GLOBAL":
                rebinds = True
            case "STORE_DEREF" | "DELETE_DEREF":
                rebound.add(one.argval)
            case "STORE_ATTR" | "DELETE_ATTR":
                sets_attributes = True
    for const in code.co_consts:
        if isinstance(const, CodeType):
            inner = _look_at(const)
            looked_up |= inner.globals
            rebound |= inner.rebound
            rebinds = rebinds or inner.rebinds_globals
            sets_attributes = sets_attributes or inner.sets_attributes
    return _Code(frozenset(looked_up), rebinds, frozenset(rebound), sets_attributes)
