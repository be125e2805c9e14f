"""Python's search for garbage in cycles is put off while many futures are made, and only then."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar

import pytest

from hpclaunch import Client
from hpclaunch.client.gc_pause import gc_paused
from tests.client import work

MANY = 20_000


@pytest.fixture(autouse=True)
def searching() -> Iterator[None]:
    """Whatever a test does, the search is on before and after it."""
    assert gc.isenabled()
    yield
    was_on = gc.isenabled()
    gc.enable()
    assert was_on


def test_it_is_off_inside_and_on_again_behind() -> None:
    with gc_paused(MANY):
        assert not gc.isenabled()
        with gc_paused(MANY):
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_few_objects_are_not_worth_it() -> None:
    with gc_paused(100):
        assert gc.isenabled()


def test_an_error_puts_it_on_again() -> None:
    with pytest.raises(ValueError, match="x"), gc_paused(MANY):
        raise ValueError("x")
    assert gc.isenabled()


def test_who_has_switched_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with gc_paused(MANY):
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


@contextmanager
def another_thread_inside() -> Iterator[None]:
    """Have another thread be inside such a block as long as this one."""
    inside, leave = threading.Event(), threading.Event()

    def make() -> None:
        with gc_paused(MANY):
            inside.set()
            assert leave.wait(20)

    thread = threading.Thread(target=make)
    thread.start()
    assert inside.wait(20)
    yield
    leave.set()
    thread.join(20)


def test_the_last_of_several_threads_puts_it_on_again() -> None:
    with ExitStack() as stack:
        with gc_paused(MANY):
            stack.enter_context(another_thread_inside())
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_fork_in_another_thread_has_it_on() -> None:
    with another_thread_inside():
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Witness:
    """Notes whether the search is on when it is pickled, and is a number where it arrives."""

    saw: ClassVar[list[bool]] = []

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        self.saw.append(gc.isenabled())
        return int, (1,)


@pytest.mark.parametrize(("count", "is_on"), [(100, True), (MANY, False)])
def test_many_calls_are_made_without_it(client: Client, count: int, is_on: bool) -> None:
    Witness.saw.clear()
    futures = client.map(work.inc, [Witness(), *range(count)])
    assert Witness.saw == [is_on]
    assert client.gather(futures) == [2, *range(1, count + 1)]
