"""Delayed calls: graphs of ordinary functions, without Dask."""

from __future__ import annotations

import operator
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import delayed
from hpclaunch.client.client import Client
from hpclaunch.client.graphs.delayed import Delayed
from hpclaunch.errors import CommandError, SerializationError, TaskTimeoutError, UserError
from tests.client import work


def test_a_graph(client: Client) -> None:
    inc, add = delayed(work.inc), delayed(work.add)
    assert add(inc(1), inc(2), 3).compute() == 8
    assert add(*[inc(i) for i in range(10)]).compute(client) == 55


def test_as_a_decorator(client: Client) -> None:
    @delayed
    def double(x: int) -> int:
        return 2 * x

    @delayed(nout=2, name="halves")
    def split(text: str) -> tuple[str, str]:
        return text[: len(text) // 2], text[len(text) // 2 :]

    a, b = split("abcd")
    assert double(4).compute() == 8
    assert (a + b + a).compute() == "abcdab"
    assert double.__name__ == "double"
    assert split("x").key.startswith("halves-")


def test_delayed_values_inside_containers(client: Client) -> None:
    inc = delayed(work.inc)
    nested = delayed([inc(1), {"a": inc(2), "b": (inc(3), 4)}, {5}])
    assert nested.compute() == [2, {"a": 3, "b": (4, 4)}, {5}]
    assert delayed(work.same)(inc(1), pure=True).compute() == 2
    assert delayed(dict)(a=inc(1), key="the function's own", workers=2).compute() == {
        "a": 2, "key": "the function's own", "workers": 2,
    }  # fmt: skip


def test_a_shared_call_runs_once(client: Client, tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    once = delayed(work.note)(notes, 5)
    assert (once + once * once).compute() == 30
    assert work.times_called(notes) == 1


def test_pure_calls_are_one(client: Client, tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    note = delayed(work.note, pure=True)
    one, two = note(notes, delayed(work.inc, pure=True)(1)), note(notes, delayed(work.inc, pure=True)(1))
    assert one.key == two.key
    assert note(notes, 3).key != one.key
    assert note(notes, 3, pure=False).key != note(notes, 3, pure=False).key
    assert (one + two).compute() == 4
    assert work.times_called(notes) == 1


@pytest.mark.parametrize(
    "operation",
    [
        operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
        operator.lt, operator.le, operator.eq, operator.ne, operator.gt, operator.ge,
        operator.lshift, operator.rshift, operator.and_, operator.or_, operator.xor,
    ],
)  # fmt: skip
def test_operators(client: Client, operation: Callable[[Any, Any], Any]) -> None:
    seven, three = delayed(work.inc)(6), delayed(work.inc)(2)
    expected = operation(7, 3)
    assert (
        client.gather(client.compute([operation(seven, three), operation(seven, 3), operation(7, three)]))
        == [expected] * 3
    )


def test_more_operators(client: Client) -> None:
    x = delayed(-3)
    assert client.compute([-x, +x, abs(x), ~x], sync=True) == [3, -3, 3, 2]


def test_attributes_methods_and_items(client: Client) -> None:
    text = delayed(work.same)("one two")
    assert text.upper().split(" ")[1].compute() == "TWO"
    assert delayed(3 + 4j).imag.compute() == 4
    assert delayed(work.Box)(7).inside.compute() == 7
    method = text.upper
    assert method.compute()() == "ONE TWO"
    assert delayed({"a": 1})["a"].compute() == 1
    assert delayed(work.same)(work.inc)(4).compute() == 5  # a call of what is not there yet
    with pytest.raises(AttributeError, match="no '_private'"):
        _ = text._private


def test_what_a_delayed_value_cannot_do() -> None:
    x = delayed(work.inc)(1)
    for act in (lambda: bool(x), lambda: list(x), lambda: len(x), lambda: x.__setitem__(0, 1)):
        with pytest.raises(TypeError, match=r"nout|not known|can't be changed"):
            act()


def test_errors_come_out(client: Client) -> None:
    with pytest.raises(ValueError, match="so it goes"):
        delayed(work.inc)(delayed(work.fail)("so it goes")).compute()
    with pytest.raises(SerializationError, match="inside an object"):
        delayed(work.open_box)(work.Box(delayed(work.inc)(1))).compute()


def test_wishes(client: Client, tmp_path: Path) -> None:
    assert delayed(work.Flaky(str(tmp_path / "a"), 2))().compute(retries=2) == 3


def test_persist(client: Client, tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    kept = delayed(work.note)(notes, 5).persist()
    assert kept.compute() == 5
    assert client.persist([delayed(work.add)(kept, kept)])[0].compute() == 10
    assert work.times_called(notes) == 1


@pytest.mark.slow
def test_a_long_chain(client: Client) -> None:
    x = delayed(0)
    for _ in range(3000):
        x = x + 1
    assert x.compute() == 3000


def test_it_needs_a_client() -> None:
    with pytest.raises(ValueError, match="there is no client here"):
        delayed(work.inc)(1).compute()


def test_it_can_be_pickled() -> None:
    x = delayed(work.add)(delayed(work.inc)(1), 2)
    again = pickle.loads(pickle.dumps(x))
    assert again.key == x.key
    assert [one.key for one in again.inputs()] == [one.key for one in x.inputs()]


# --- drawings


@pytest.fixture
def graph() -> Delayed:
    inc = delayed(work.inc)
    value: Delayed = delayed(work.add)(inc(1), inc(2)).bit_length()
    return value


def test_a_drawing_as_text(graph: Delayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    drawing = graph.visualize(tmp_path / "graph")
    assert drawing.path == tmp_path / "graph.txt"
    assert str(drawing) == drawing.path.read_text()
    assert str(drawing).splitlines() == [
        "1. inc", "2. inc", "3. add  <- 1, 2", "4. .bit_length()  <- 3  (wanted)",
    ]  # fmt: skip


def test_a_drawing_in_graphviz_words(graph: Delayed, tmp_path: Path) -> None:
    drawing = graph.visualize(tmp_path / "graph.dot")
    assert "1 -> 3" in drawing.path.read_text()
    assert graph.visualize(None).path is None
    with pytest.raises(ValueError, match="not as 'gif'"):
        graph.visualize(tmp_path / "graph.gif")


def test_a_picture_needs_graphviz(graph: Delayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="Install graphviz"):
        graph.visualize(tmp_path / "graph.png")


@pytest.mark.slow
def test_a_picture_by_graphviz(graph: Delayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a program that takes graphviz's arguments; what the real one draws is its own business."""
    program = tmp_path / "dot"
    program.write_text(
        '#!/bin/sh\n[ "$1" = -Tpng ] && exit 3\n[ "$2" = -o ] && echo "<svg>$1" > "$3"; cat >> "$3"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    drawing = graph.visualize(tmp_path / "graph")
    assert drawing.path == tmp_path / "graph.svg"
    assert drawing.path.read_text() == f"<svg>-Tsvg\n{drawing.dot}"
    assert drawing._repr_mimebundle_()["image/svg+xml"].startswith("<svg>")
    with pytest.raises(CommandError, match="exit code: 3"):
        graph.visualize(tmp_path / "graph.png")


def test_options_of_a_computation(client: Client, tmp_path: Path) -> None:
    slow = delayed(work.wait_for)(str(tmp_path / "gate"))
    with pytest.raises(TaskTimeoutError, match=r"for longer than its timeout of 0\.2 s"):
        client.compute(delayed(work.same)(slow), timeout="200 ms").result(20)
    (tmp_path / "gate").touch()
    assert client.compute([delayed(work.inc)(1)], timeout=10, num_workers=3, traverse=False)[0].result(10) == 2
    inside = {"a": delayed(work.inc)(1)}
    assert client.compute(inside, traverse=False) is inside
    assert client.compute(inside, sync=True) == {"a": 2}
    with pytest.raises(UserError, match=r"no option 'worker'.*do you mean 'workers'"):
        client.compute(inside, worker="a")
    with pytest.raises(UserError, match=r"no option 'key' for a computation"):
        client.persist(inside, key="a")
    with pytest.raises(UserError, match="actors= is not there for graphs"):
        client.persist(inside, actors=True)
    with pytest.raises(ValueError, match="timeout= is how long a task may run"):
        client.compute(inside, timeout=-1)
