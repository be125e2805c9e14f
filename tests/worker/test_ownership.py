"""Results whose memory something else has are copied; all others are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.comm.buffers import copy_of
from hpclaunch.comm.serialize import Payload, dump_value, load_value
from hpclaunch.comm.sharing import share
from hpclaunch.worker.ownership import own

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")

SIZE = 100_000


def is_copied(make: Callable[[], Any], inputs: dict[str, Any] | None = None) -> bool:
    """Say whether any buffer of a result is copied that a task makes like this."""
    value = make()
    expected = dump_value(value).pickle
    payload = dump_value(value)
    assert payload.buffers
    del value
    before = list(payload.buffers)
    assert own(payload, inputs) is payload
    assert payload.pickle == expected
    assert [bytes(b) for b in payload.buffers] == [bytes(b) for b in before]
    return any(a is not b for a, b in zip(before, payload.buffers, strict=True))


def new() -> Any:
    return np.arange(SIZE)


HELD = np.arange(SIZE)
HELD_BYTES = memoryview(bytearray(SIZE * 8))
FRAME = pd.DataFrame({"a": np.arange(SIZE)})
INPUT = dump_value(np.arange(SIZE))
FILE = share(INPUT)
MAPPED = FILE.read()


@pytest.mark.parametrize(
    "make",
    [
        new,
        lambda: new().reshape(100, -1).T,
        lambda: new()[10:],
        lambda: {"a": new(), "b": [new(), (new(),)]},
        lambda: [new()] * 2,
        lambda: pd.DataFrame({"a": new(), "b": np.ones(SIZE)}),
        lambda: load_value(INPUT.pickle, [copy_of(b) for b in INPUT.buffers]),  # an input's own copy
        lambda: load_value(INPUT.pickle, [copy_of(b) for b in INPUT.buffers])[5:],
        lambda: load_value(*FILE.read()),
    ],
)
def test_what_nothing_else_has_is_not_copied(make: Callable[[], Any]) -> None:
    assert not is_copied(make)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HELD,
        lambda: HELD[5:],
        lambda: HELD.reshape(100, -1)[3:].T,
        lambda: (new(), HELD),
        lambda: {"a": HELD[::1]},
        lambda: FRAME,
        lambda: np.frombuffer(HELD_BYTES, dtype="i8"),
        lambda: load_value(*INPUT),  # memory of which it is not known whose it is
    ],
)
def test_what_something_else_has_is_copied(make: Callable[[], Any]) -> None:
    assert is_copied(make)


def test_what_is_in_a_file_that_others_may_write_to_is_copied(tmp_path: Path) -> None:
    def make() -> Any:
        return np.asarray(np.memmap(tmp_path / "data", dtype="i8", mode="w+", shape=SIZE))

    assert is_copied(make)


@pytest.mark.parametrize("value", [INPUT, MAPPED])
def test_inputs_that_tasks_of_graphs_share_are_not_copied(value: Payload) -> None:
    assert not is_copied(lambda: load_value(*value), {"x": value, "y": b"small"})
    assert not is_copied(lambda: load_value(*value)[5:], {"x": value})


def test_a_copy_does_not_change_with_what_it_is_of() -> None:
    array = np.zeros(SIZE)
    payload = own(dump_value(array), None)
    array += 1
    assert not load_value(*payload).any()
