"""Which functions calls may share: none in which anything can change."""

from __future__ import annotations

import collections
import datetime
import decimal
import functools
import itertools
import math
import operator
import re
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from hpclaunch.client.submission.shareable import is_shareable
from tests.client import work


def function(source: str) -> Any:
    """Return ``f`` of a module that passes for __main__."""
    module = types.ModuleType("__main__")
    module.__dict__.update(work=work, math=math, functools=functools, itertools=itertools, threading=threading)
    exec(compile(source, "<main>", "exec"), module.__dict__)  # noqa: S102
    return module.f


@pytest.mark.parametrize(
    "source",
    [
        "def f(x): return x + 1",
        "f = lambda x: x + 1",
        "async def f(x): return x",
        "def f(x):\n    yield x",
        "K = 3\ndef f(x, y=(1, 'a', (None, 2.0))): return math.floor(x) + K",
        "def g(x): return x\ndef f(x): return g(x) + work.inc(x)",
        "def f(x): return 1 if x < 2 else x * f(x - 1)",
        "def g(x): return f(x)\ndef f(x): return g(x)",
        "def make(n):\n    def inner(x): return x + n\n    return inner\nf = make(3)",
        "def f(x):\n    n = 0\n    def add():\n        nonlocal n\n        n += 1\n    add()\n    return n",
        "def f(x):\n    class Here:\n        n = 0\n    Here.n += 1\n    return Here.n",
        "def f(self, x): self.x = x",
        "f = functools.partial(work.inc, 1)",
        "def g(x, *, y): return x\nf = functools.partial(g, y=3)",
        "def g(x): return x\ndef f(x): return g(x)\nf.__wrapped__ = g",
    ],
)
def test_what_can_not_change_is_shared(source: str) -> None:
    assert is_shareable(function(source))


@pytest.mark.parametrize(
    "source",
    [
        "seen = []\ndef f(x): seen.append(x); return len(seen)",
        "seen = []\ndef g(x): seen.append(x)\ndef f(x): return g(x)",
        "seen = []\ndef f(x):\n    def inner(): return seen\n    return inner()",
        "n = 0\ndef f():\n    global n\n    n += 1\n    return n",
        "n = 0\ndef f():\n    def inner():\n        global n\n        n += 1\n    inner()",
        "def make():\n  n = 0\n  def inner():\n    nonlocal n\n    n += 1\n  return inner\nf = make()",
        "def make():\n    n = [0]\n    return lambda: n\nf = make()",
        "def f(x, seen=[]): seen.append(x)",
        "def f(x, *, seen={}): seen[x] = 1",
        "def f(): f.n = getattr(f, 'n', 0) + 1; return f.n",
        "def g(): pass\ndef f(): g.n = getattr(g, 'n', 0) + 1; return g.n",
        "def f(): return f.seen\nf.seen = []",
        "n = 0\ndef f(): globals()['n'] += 1; return n",
        "def f(): setattr(f, 'n', 1)",
        "def f(): f.__dict__['n'] = 1",
        "class C: n = 0\ndef f(): C.n += 1; return C.n",
        "class C:\n    def m(self): return 1\nf = C().m",
        "class C:\n    def __call__(self): return 1\nf = C()",
        "class C:\n    @classmethod\n    def m(cls): return 1\nf = C.m",
        "class f: pass",
        "f = functools.partial(work.inc, [1])",
        "f = functools.partial(work.inc, x=set())",
        "def g(x, y): y.append(x)\nf = functools.partial(g, y=[])",
        "lock = threading.Lock()\ndef f(): return lock",
        "numbers = itertools.count()\ndef f(): return next(numbers)",
        "push = [].append\ndef f(x): push(x)",
        "f = [].append",
        "f = {}.get",
        "import types\nm = types.ModuleType('made')\ndef f(): m.n = 1",
        "part = ([],)\ndef f(): return part",
        "f = functools.lru_cache(lambda x: x)",
    ],
)
def test_what_may_change_is_not_shared(source: str) -> None:
    assert not is_shareable(function(source))


@pytest.mark.parametrize(
    "value",
    [
        *(1, 1.5, 1j, "a", b"a", None, True, ..., range(3), (1, (2,)), frozenset({1}), NotImplemented),
        *(math, math.sin, len, work.inc, int, decimal.Decimal, decimal.Decimal("1.5"), re.compile("a")),
        *(Path("a/b"), datetime.date(2026, 1, 1), datetime.timedelta(1), dict.fromkeys, functools.partial(int)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_immutable_values_are_shared(value: Any) -> None:
    assert is_shareable(lambda: value)


@pytest.mark.parametrize(
    "value",
    [[], {}, set(), bytearray(), ([],), collections.Counter(), object(), iter([]), threading.Lock(), [].append],
    ids=lambda value: type(value).__name__,
)
def test_mutable_values_are_not_shared(value: Any) -> None:
    assert not is_shareable(lambda: value)


@pytest.mark.parametrize(
    "callee", [work.inc, len, math.sin, int, decimal.Decimal, operator.add], ids=lambda one: one.__name__
)
def test_what_is_imported_by_name_is_shared(callee: Callable[..., Any]) -> None:
    assert is_shareable(callee)


def test_numpy_s_own_functions_and_numbers_are_shared_and_arrays_are_not() -> None:
    np = pytest.importorskip("numpy")
    assert is_shareable(np.sin)
    one = np.float64(1)
    assert is_shareable(lambda: one)
    array = np.ones(3)
    assert not is_shareable(lambda: array)


def test_a_module_that_the_user_sends_by_value_is_not_shared() -> None:
    assert is_shareable(work.inc)
    cloudpickle.register_pickle_by_value(work)
    try:
        assert is_shareable(work.inc)  # nothing in it can change
        assert not is_shareable(work.Counter)
        assert not is_shareable(lambda: work)
    finally:
        cloudpickle.unregister_pickle_by_value(work)
    assert is_shareable(lambda: work)


def test_a_variable_that_gets_its_value_later_is_not_taken_for_fixed() -> None:
    def make() -> Callable[[], Any]:
        def use() -> Any:
            return later

        early.append(is_shareable(use))
        later: list[int] = []
        return use

    early: list[bool] = []
    assert not is_shareable(make())
    assert early == [False]
