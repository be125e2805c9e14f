"""Every bad way in which a function can end, in every place in which it can be called: a clear error, and no more.

What ends the worker's process itself is in ``test_misbehaviour``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.client.client import Client
from hpclaunch.errors import SerializationError, TaskError
from tests.client import work


class Picky(Exception):
    """Is pickled, and does not come back: it wants two arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Locked(Exception):
    """Can't be pickled."""

    def __init__(self) -> None:
        super().__init__("it holds a lock")
        self.lock = threading.Lock()


class Wordless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Exiting(Exception):
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class Trap:
    """Is pickled, and raises where it is unpickled."""

    def __reduce__(self) -> Any:
        return divmod, (1, 0)


def leave() -> None:
    sys.exit(5)


def interrupt() -> None:
    raise KeyboardInterrupt


def be_picky() -> None:
    raise Picky(1, 2)


def be_locked() -> None:
    raise Locked


def be_wordless() -> None:
    raise Wordless


def be_exiting() -> None:
    raise Exiting


def recurse() -> Any:
    return recurse()


def return_lock() -> Any:
    return threading.Lock()


def return_trap() -> Any:
    return Trap()


def raise_several() -> None:
    raise ExceptionGroup("several", [ValueError("one"), Locked()])


ENDS = [
    (leave, TaskError, "the task was ended by SystemExit: 5"),
    (interrupt, TaskError, "the task was ended by KeyboardInterrupt"),
    (be_picky, TaskError, "could not be sent back: .*Picky: 1 and 2"),
    (be_locked, TaskError, "could not be sent back: .*Locked: it holds a lock"),
    (be_wordless, Wordless, None),
    (be_exiting, TaskError, "could not be sent back: .*Exiting"),
    (recurse, RecursionError, "maximum recursion depth exceeded"),
    (return_lock, SerializationError, "_thread.lock can't be pickled: TypeError: cannot pickle '_thread.lock'"),
    (return_trap, SerializationError, "can't be unpickled: ZeroDivisionError"),
    (raise_several, TaskError, "could not be sent back: .*several"),
]


def call(function: Callable[[], Any]) -> Any:
    return function()


def noted(notes: str, function: Callable[[], Any]) -> Any:
    work.note(notes)
    return function()


def call_in_a_task(function: Callable[[], Any]) -> Any:
    from hpclaunch import get_client

    return get_client().submit(call, function).result(20)


def call_if(x: int, which: int, end: Callable[[], Any]) -> Any:
    return end() if x == which else x


class Caller:
    """An actor."""

    def call(self, function: Callable[[], Any]) -> Any:
        return function()


@pytest.mark.parametrize(("function", "kind", "words"), ENDS, ids=[function.__name__ for function, *_ in ENDS])
class TestEnds:
    """All of them."""

    def test_in_a_task_with_retries(
        self, client: Client, tmp_path: Path, function: Any, kind: type[Exception], words: str | None
    ) -> None:
        notes = str(tmp_path / "notes")
        expect(client.submit(noted, notes, function, retries=2).result, kind, words)
        # what can't be unpickled here is no failure of the task
        assert work.times_called(notes) == (1 if function is return_trap else 3)
        assert client.submit(work.inc, 1).result(10) == 2

    def test_in_one_of_thousands(
        self, client: Client, function: Any, kind: type[Exception], words: str | None
    ) -> None:
        futures = client.map(call_if, range(3000), which=1777, end=function)
        expect(lambda timeout: client.gather(futures), kind, words)
        del futures[1777]
        assert client.gather(futures) == [x for x in range(3000) if x != 1777]

    def test_in_a_task_of_a_task(
        self, client: Client, function: Any, kind: type[Exception], words: str | None
    ) -> None:
        expect(client.submit(call_in_a_task, function).result, kind, words)
        assert client.submit(call_in_a_task, work.pid).result(10) > 0

    def test_in_an_actor(self, client: Client, function: Any, kind: type[Exception], words: str | None) -> None:
        actor = client.submit(Caller, actor=True).result(10)
        expect(actor.call(function).result, kind, words)
        assert actor.call(work.pid).result(10) > 0

    def test_in_what_a_task_needs(
        self, client: Client, function: Any, kind: type[Exception], words: str | None
    ) -> None:
        expect(client.submit(work.same, client.submit(call, function)).result, kind, words)
        assert client.submit(work.inc, client.submit(work.inc, 1)).result(10) == 3


def expect(result: Callable[[float], Any], kind: type[Exception], words: str | None) -> None:
    """Have an answer fail as it should, in time."""
    with pytest.raises(Exception) as caught:
        result(20)
    assert type(caught.value).__name__ == kind.__name__
    if words is not None:
        caught.match(words)


def test_an_actor_that_cannot_be_made(client: Client) -> None:
    for function, kind, words in ENDS:
        if not function.__name__.startswith("return"):
            expect(client.submit(Unmade, function, actor=True).result, kind, words)
    expect(client.submit(Unmade, Trap(), actor=True).result, SerializationError, "an argument can't be unpickled")
    with pytest.raises(SerializationError, match=r"argument 0, a _thread.lock, can't be pickled"):
        client.submit(Unmade, threading.Lock(), actor=True)


class Unmade:
    def __init__(self, function: Callable[[], Any]) -> None:
        function()


def test_which_argument_it_is(client: Client) -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"argument 1, a builtins.list, can't be pickled: TypeError"):
        client.submit(work.same, 1, [lock])
    with pytest.raises(SerializationError, match=r"argument value=, a _thread.lock, can't be pickled"):
        client.submit(work.same, value=lock)
    with pytest.raises(
        SerializationError, match=r"function .*<lambda>, or something that it uses, can't be pickled"
    ):
        client.submit(lambda: lock)
    futures = client.map(work.inc, range(3))
    with pytest.raises(SerializationError, match=r"argument 1, a _thread.lock, can't be pickled"):
        client.map(work.add, futures, [1, lock, 2])
    assert client.gather(futures) == [1, 2, 3]


def test_what_does_not_unpickle_is_named(client: Client) -> None:
    made = client.submit(return_trap, key="trap")
    with pytest.raises(
        SerializationError, match=r"^the result of task trap can't be unpickled: ZeroDivisionError"
    ):
        client.submit(work.same, made).result(10)
    with pytest.raises(SerializationError, match=r"^an argument can't be unpickled: ZeroDivisionError"):
        client.submit(work.same, Trap()).result(10)
