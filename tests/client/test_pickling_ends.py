"""What ends a program (SystemExit and its like), raised while a value is pickled or unpickled: an error there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hpclaunch.client.client import Client
from hpclaunch.errors import SerializationError
from tests.client import work


class Bye(BaseException):
    """A user's own."""


ENDS = {"SystemExit": SystemExit, "GeneratorExit": GeneratorExit, "Bye": Bye}


class InReduce:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        raise ENDS[self.kind](3)


class InGetState:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getstate__(self) -> Any:
        raise ENDS[self.kind](3)


class InSetState:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise ENDS[state["kind"]](3)


def make(cls: Callable[[str], Any], kind: str) -> Any:
    return cls(kind)


def take(value: Any) -> None:
    """Is given it."""


def fail_with(cls: Callable[[str], Any], kind: str) -> None:
    raise ValueError(cls(kind))


class Holder:
    def make(self, cls: Callable[[str], Any], kind: str) -> Any:
        return cls(kind)


WAYS: dict[str, Callable[[Client, Any, str], Any]] = {
    "an argument": lambda c, cls, kind: c.submit(take, cls(kind)).result(20),
    "an argument of map": lambda c, cls, kind: c.gather(c.map(take, [cls(kind)])),
    "a keyword of map": lambda c, cls, kind: c.gather(c.map(work.same, [1], y=cls(kind))),
    "a value of scatter": lambda c, cls, kind: c.submit(take, c.scatter(cls(kind))).result(20),
    "a result": lambda c, cls, kind: c.submit(make, cls, kind).result(20),
    "a result that is an input": lambda c, cls, kind: c.submit(take, c.submit(make, cls, kind)).result(20),
    "results that are gathered": lambda c, cls, kind: c.gather(c.map(make, [cls], [kind])),
    "a result of run": lambda c, cls, kind: c.run(make, cls, kind),
    "a result of an actor": lambda c, cls, kind: (
        c.submit(Holder, actor=True).result(20).make(cls, kind).result(20)
    ),
    "a result of the executor": lambda c, cls, kind: c.get_executor().submit(make, cls, kind).result(20),
}


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("way", WAYS)
def test_it_is_an_error_of_that_value(client: Client, way: str, kind: str) -> None:
    innocent = client.map(work.inc, range(10))
    for cls in (InReduce, InGetState, InSetState):
        with pytest.raises(SerializationError, match=kind):
            WAYS[way](client, cls, kind)
    assert client.gather(innocent) == list(range(1, 11))


@pytest.mark.parametrize("kind", ENDS)
def test_in_an_exception_it_leaves_the_text(client: Client, kind: str) -> None:
    for cls in (InReduce, InGetState, InSetState):
        with pytest.raises(Exception, match=cls.__name__):
            client.submit(fail_with, cls, kind).result(20)
