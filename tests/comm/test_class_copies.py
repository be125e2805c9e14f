"""Classes that travel by value: one of each in a task, none of another's; a client's own stay as they are."""

from __future__ import annotations

import enum
import gc
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import cloudpickle

from hpclaunch.comm import class_copies, unpickling

T = TypeVar("T")


def in_task(work: Callable[[], T]) -> T:
    """Call in a thread, as a task is called."""
    results: list[T] = []

    def run() -> None:
        class_copies.enter({})
        results.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def load(data: bytes) -> Any:
    return unpickling.loads(data)


def make() -> Any:
    class Thing:
        rate = 1

        def of(self) -> int:
            return self.rate

    return Thing


def test_each_task_has_a_class_of_its_own_with_what_the_client_had() -> None:
    thing = make()
    first = cloudpickle.dumps(thing)
    thing.rate = 2
    second = cloudpickle.dumps(thing)

    def use(data: bytes) -> tuple[int, type]:
        cls = load(data)
        found = cls.rate
        cls.rate = 99
        return found, cls

    (a, one), (b, two), (c, three) = (in_task(lambda data=data: use(data)) for data in (first, second, first))
    assert (a, b, c) == (1, 2, 1)
    assert len({one, two, three, thing}) == 4
    assert thing.rate == 2


def test_all_values_of_one_task_share_their_class_which_is_as_the_first_brings_it() -> None:
    thing = make()
    function = cloudpickle.dumps(lambda x: (isinstance(x, thing), x.of()))
    thing.rate = 5
    value = cloudpickle.dumps(thing())
    assert in_task(lambda: load(function)(load(value))) == (True, 1)


def test_a_client_s_class_comes_back_to_it_as_it_is_there() -> None:
    thing = make()
    sent = cloudpickle.dumps(thing)

    def task() -> bytes:
        cls = load(sent)
        cls.rate = 7
        return cloudpickle.dumps(cls())

    back = load(in_task(task))
    assert type(back) is thing
    assert back.of() == 1


def test_a_class_that_only_a_worker_has_becomes_one_class_on_the_client() -> None:
    def task() -> tuple[bytes, bytes]:
        cls = make()
        return cloudpickle.dumps(cls()), cloudpickle.dumps(cls())

    one, other = map(load, in_task(task))
    assert type(one) is type(other)
    assert one.of() == 1


def test_enumerations_keep_their_members() -> None:
    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

    data = cloudpickle.dumps((Colour, Colour.RED, lambda one: one is Colour.RED))

    def task() -> bytes:
        colour, red, is_red = load(data)
        assert is_red(red)
        assert colour is not Colour
        assert colour.RED is red
        return cloudpickle.dumps(red)

    assert load(in_task(task)) is Colour.RED


def test_threads_of_a_task_find_its_classes() -> None:
    thing = make()
    value = cloudpickle.dumps(thing())

    def task() -> bool:
        cls = type(load(value))
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(load(value)))
        thread.start()
        thread.join()
        return type(found[0]) is cls

    del thing
    gc.collect()  # as on a worker, where there is no class but those of tasks
    assert in_task(task)


def test_derived_classes_and_those_that_name_each_other_come_whole() -> None:
    class Base:
        def make(self) -> Any:
            return Derived()

    class Derived(Base):
        def up(self) -> Any:
            return super().make()

    data = cloudpickle.dumps(Base)

    def task() -> list[bool]:
        base = load(data)
        derived = base().make()
        return [isinstance(derived, base), type(derived.up()) is type(derived), type(derived) is not Derived]

    assert in_task(task) == [True] * 3


def test_large_pickles_take_the_same_way() -> None:
    thing = make()
    data = cloudpickle.dumps((thing(), "x" * (17 << 20), [thing] * 3, ["words"] * 100_000))

    def task() -> tuple[int, bool, int]:
        one, text, classes, words = load(memoryview(data))  # type: ignore[arg-type]
        return len(text), isinstance(one, classes[2]) and classes[0] is not thing, len(words)

    assert in_task(task) == (17 << 20, True, 100_000)
