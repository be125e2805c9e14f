"""The function cache: never stale, whatever changes; as quick as it can be where nothing does."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest

from hpclaunch.client.functions import FunctionCache
from hpclaunch.comm.serialize import load_value


def main_module(source: str) -> types.ModuleType:
    """Return a module that passes for __main__."""
    module = types.ModuleType("__main__")
    exec(compile(source, "<main>", "exec"), module.__dict__)  # noqa: S102
    return module


def call(cache: FunctionCache, function: Callable[..., Any], *args: Any) -> Any:
    return load_value(cache.dump(function).data)(*args)


def test_the_same_function_is_pickled_once() -> None:
    module = main_module("import math\nK = 3\ndef f(x, y=1): return math.floor(x) + K + y + len('ab')")
    cache = FunctionCache()
    first = cache.dump(module.f)
    assert cache.dump(module.f) is first
    assert call(cache, module.f, 1.5) == 7


@pytest.mark.parametrize(
    ("source", "change", "before", "after"),
    [
        ("K = 1000\ndef f(): return K", "K = 2000", 1000, 2000),
        ("def f(): return len([1])", "def len(x): return 99", 1, 99),  # a global comes to hide a built-in
        ("def f(x=1): return x", "f.__defaults__ = (5,)", 1, 5),
        ("def f(*, x=1): return x", "f.__kwdefaults__ = {'x': 6}", 1, 6),
        ("def f(): return 1\ndef g(): return 2", "f.__code__ = g.__code__", 1, 2),
        ("def g(): return 1\ndef f(): return g()", "def g(): return 2", 1, 2),  # a function calls another
        ("L = [1]\ndef f(): return sum(L)", "L.append(5)", 1, 6),  # changed in place
        ("K = 1\ndef f(): return (lambda: K)()", "K = 2", 1, 2),  # named by a function inside
        ("K = 1\ndef f(): return [K for _ in 'a'][0]", "K = 2", 1, 2),
    ],
)
def test_a_change_is_seen(source: str, change: str, before: Any, after: Any) -> None:
    module = main_module(source)
    cache = FunctionCache()
    for _ in range(2):
        assert call(cache, module.f) == before
    exec(change, module.__dict__)  # noqa: S102
    assert call(cache, module.f) == after


def test_closures_and_attributes_are_pickled_each_time() -> None:
    module = main_module(
        "def make(n):\n    def f(): return n\n    return f, (lambda v: None)\ndef g(): return g.n"
    )
    cache = FunctionCache()
    f, _ = module.make(1)
    assert call(cache, f) == 1
    f.__closure__[0].cell_contents = 2
    assert call(cache, f) == 2
    module.g.n = 1
    assert call(cache, module.g) == 1
    module.g.n = 2
    assert call(cache, module.g) == 2


def test_functions_die() -> None:
    import gc
    import weakref

    module = main_module("def f(): return 1")
    cache = FunctionCache()
    cache.dump(module.f)
    function = weakref.ref(module.f)
    del module.f
    gc.collect()
    assert function() is None
