"""Types that users have registered: there and back, without copies, wherever the functions are defined."""

from __future__ import annotations

import copyreg
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import hpclaunch
from hpclaunch.comm import registry, serialize
from hpclaunch.errors import SerializationError


class Grid:
    """Cells that pickle can't take, for there is a lock beside them."""

    def __init__(self, name: str, cells: Any) -> None:
        self.name = name
        self.cells = cells
        self.lock = threading.Lock()


class FineGrid(Grid):
    pass


def dump_grid(grid: Grid) -> tuple[str, list[Any]]:
    return grid.name, [grid.cells]


def load_grid(name: str, buffers: list[memoryview]) -> Grid:
    return Grid(name, buffers[0])


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    before = dict(registry.table)
    yield
    registry.table.clear()
    registry.table.update(before)


def there_and_back(value: Any) -> Any:
    return serialize.load_value(*serialize.dump_value(value))


def test_without_a_registration_it_can_not_be_sent() -> None:
    with pytest.raises(SerializationError, match="lock"):
        serialize.dump_value(Grid("a", b""))


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_there_and_back_at_any_depth(size: int) -> None:
    hpclaunch.register_serialization(Grid, dump_grid, load_grid)
    back = there_and_back({"grids": [Grid("a", bytearray(size)), (Grid("b", bytes(size)), np.arange(3))]})
    assert back["grids"][0].name == "a"
    assert bytes(back["grids"][0].cells) == bytes(size)
    assert bytes(back["grids"][1][0].cells) == bytes(size)
    back["grids"][0].cells[:] = b"x" * size  # a buffer that could be written to can be again
    (args, _) = serialize.load_call(serialize.dump_call((Grid("c", b"12"),), None)[0], None)
    assert bytes(args[0].cells) == b"12"


def test_large_buffers_are_not_copied() -> None:
    hpclaunch.register_serialization(Grid, dump_grid, load_grid)
    cells = bytearray(100_000)
    payload = serialize.dump_value(Grid("a", cells))
    assert len(payload.buffers) == 1
    cells[7] = 9
    assert memoryview(payload.buffers[0])[7] == 9
    grid = serialize.load_value(payload.pickle, payload.buffers)
    cells[8] = 10
    assert grid.cells[8] == 10


def test_who_gets_a_value_can_pass_it_on() -> None:
    hpclaunch.register_serialization(Grid, dump_grid, load_grid)
    payload = serialize.dump_value(Grid("a", b"123"))
    registry.table.clear()  # as in another process
    grid = serialize.load_value(*payload)
    assert there_and_back(grid).name == "a"


def test_it_is_for_this_class_and_for_us_only() -> None:
    hpclaunch.register_serialization(Grid, dump_grid, load_grid)
    with pytest.raises(SerializationError, match="lock"):
        serialize.dump_value(FineGrid("a", b""))
    with pytest.raises(TypeError, match="lock"):
        pickle.dumps(Grid("a", b""))
    assert Grid not in copyreg.dispatch_table


def test_the_last_registration_counts() -> None:
    hpclaunch.register_serialization(Grid, lambda grid: (0, []), load_grid)
    hpclaunch.register_serialization(Grid, dump_grid, load_grid)
    assert there_and_back(Grid("a", b"")).name == "a"


def test_a_class_and_functions_of_main_travel_too() -> None:
    code = """
        import subprocess, sys, threading
        import hpclaunch
        from hpclaunch.comm import serialize

        class Own:
            def __init__(self, data):
                self.data, self.lock = data, threading.Lock()

        hpclaunch.register_serialization(Own, lambda own: (None, [own.data]), lambda header, some: Own(some[0]))
        sys.stdout.buffer.write(serialize.dump_inline([Own(b"123"), Own]))
    """
    data = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=True).stdout
    own, cls = serialize.load_value(data)
    assert type(own) is cls
    assert bytes(there_and_back(own).data) == b"123"


@pytest.mark.parametrize(
    ("dump", "words"),
    [
        (lambda grid: [1, 2, 3], "dump of Grid gives a header and a list of buffers, not a list"),
        (lambda grid: (None, [1]), "bytes-like object is required"),
        (lambda grid: (None, [np.zeros((4, 4))[:, 1]]), "contiguous"),
        (lambda grid: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_dump_that_fails_is_named(dump: Any, words: str) -> None:
    hpclaunch.register_serialization(Grid, dump, load_grid)
    with pytest.raises(SerializationError, match=words):
        serialize.dump_value(Grid("a", b""))


def test_a_load_that_fails_is_an_error_of_ours() -> None:
    hpclaunch.register_serialization(Grid, dump_grid, lambda header, buffers: 1 / 0)
    with pytest.raises(SerializationError, match="ZeroDivisionError"):
        there_and_back(Grid("a", b""))


@pytest.mark.parametrize("wrong", [("Grid", dump_grid, load_grid), (Grid, None, load_grid), (Grid, dump_grid, 1)])
def test_what_can_not_be_registered(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"takes a class first|is a function, not"):
        hpclaunch.register_serialization(*wrong)
