"""Functions as bytes: never stale, whatever changes; as quick as can be where nothing does; freed in the end."""

from __future__ import annotations

import random
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hpclaunch import Client
from hpclaunch.client.submission import functions
from hpclaunch.client.submission.functions import FunctionCache, SentFunctions
from hpclaunch.comm import messages as m
from hpclaunch.comm.serialize import FunctionBytes, load_value
from hpclaunch.errors import CommClosedError, SerializationError


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


# --- what the head has


class Head:
    """Hears what a client says of functions, and complains of a call of one that it does not know."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()
        self.defined = 0

    def hear(self, message: m.Message) -> None:
        if isinstance(message, m.DefineFunction):
            assert message.function not in self.known
            self.known.add(message.function)
            self.defined += 1
        elif isinstance(message, m.ForgetFunctions):
            assert self.known.issuperset(message.functions)
            self.known.difference_update(message.functions)
        else:
            assert isinstance(message, m.SubmitTasks)
            assert message.function in self.known, "a call of a function that was forgotten"


def bytes_of(number: int, size: int = 1) -> FunctionBytes:
    return FunctionBytes(b"%d" % number, "f", bytes(size))


def test_a_function_is_sent_once_as_long_as_it_is_used_now_and_then() -> None:
    head = Head()
    sent = SentFunctions(head.hear)
    for i in range(5000):
        for one in (bytes_of(-1), bytes_of(i)):
            with sent.using(one):
                assert one.id in head.known
    assert head.defined == 5001
    assert len(head.known) <= 1001


@pytest.mark.filterwarnings("ignore:a call of f has 31 MB")
def test_many_bytes_are_forgotten_but_for_the_latest() -> None:
    head = Head()
    sent = SentFunctions(head.hear)
    for round_ in range(3):
        for i in range(4):  # in turns, and none is sent again
            with sent.using(bytes_of(i, 30 << 20)):
                assert head.defined == (i + 1 if not round_ else 4)
    with sent.using(bytes_of(5, 30 << 20)):
        pass
    assert b"5" in head.known
    assert len(head.known) < 5


def test_what_is_in_use_is_not_forgotten() -> None:
    head = Head()
    sent = SentFunctions(head.hear)
    with sent.using(bytes_of(-1)), sent.using(bytes_of(-1)):
        for i in range(3000):
            with sent.using(bytes_of(i)):
                pass
        assert b"-1" in head.known
    assert b"-1" in head.known, "it is the latest but one"


def test_a_function_that_cannot_be_sent_is_not_taken_for_sent() -> None:
    def fail(_: m.Message) -> None:
        raise CommClosedError("gone")

    sent = SentFunctions(fail)
    for _ in range(2):
        with pytest.raises(CommClosedError, match="gone"), sent.using(bytes_of(1)):
            pass
    with pytest.raises(SerializationError, match=r"at most 1\.1 GB"), sent.using(bytes_of(2, (1 << 30) + 1)):
        pass


def test_threads_never_call_what_another_has_had_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_MOST_FUNCTIONS", 5)
    head = Head()
    sent = SentFunctions(head.hear)

    def use(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(2000):
            with sent.using(bytes_of(rng.randrange(12))) as function:
                time.sleep(0)  # let others come between
                head.hear(m.SubmitTasks(function.id, [], [], []))

    with ThreadPoolExecutor(6) as pool:
        for one in pool.map(use, range(6)):
            assert one is None
    assert head.defined > 1000


def test_a_cluster_forgets_closures_of_the_past(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each result is that of its own closure, however often the head and its workers are told to forget."""
    monkeypatch.setattr(functions, "_MOST_FUNCTIONS", 7)

    def closure(n: int) -> Callable[[int], int]:
        return lambda x: x * 1000 + n

    def use(x: int) -> list[int]:
        futures = [client.submit(closure(i % 20), x) for i in range(200)]
        return [*client.gather(futures)]

    with ThreadPoolExecutor(3) as pool:
        for x, results in enumerate(pool.map(use, range(3))):
            assert results == [x * 1000 + i % 20 for i in range(200)]
