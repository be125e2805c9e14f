"""One peer's words, however many, take a part of a turn of the loop; others are heard in between."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpclaunch.comm import connection as connections, framing, messages as m, turns
from hpclaunch.comm.framing import IN_COLUMNS, LIMIT_PEER, Frame, FrameDecoder, encode
from hpclaunch.errors import FrameError

from .test_connection import End, pair

Run = Callable[[Coroutine[Any, Any, Any]], Any]

ROWS = 3 * turns.MOST_ROWS + 1


def filled(kind: type, rows: int) -> Any:
    """Return a message in columns: row i says i in each of its columns."""
    made: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        hint = str(field.type)
        if field.name == "keys":
            made["keys"] = [str(i) for i in range(rows)]
        elif "list" in hint:
            made[field.name] = [i if "int" in hint or "float" in hint else [str(i)] for i in range(rows)]
        elif field.required:
            made[field.name] = b"f" if field.type is bytes else 0
    return kind(**made)


@pytest.mark.parametrize("kind", sorted(IN_COLUMNS, key=str), ids=lambda kind: kind.__name__)
def test_a_message_in_columns_is_cut_into_parts_that_say_the_same(kind: type) -> None:
    whole = filled(kind, ROWS)
    assert turns.is_long([Frame([whole], [])])
    parts = [message for piece in turns.pieces(Frame([whole], [])) for message in piece.messages]
    assert [len(part.keys) for part in parts] == [turns.MOST_ROWS] * 3 + [1]
    for name, column in msgspec.structs.asdict(whole).items():
        if isinstance(column, list):
            assert [one for part in parts for one in getattr(part, name)] == column
        else:
            assert {getattr(part, name) for part in parts} == {column}


def test_many_messages_are_cut_in_their_order() -> None:
    frame = Frame([m.Fence(i) for i in range(5 * turns.MOST_MESSAGES + 3)], [memoryview(b"raw")])
    assert turns.is_long([frame])
    pieces = list(turns.pieces(frame))
    assert max(len(piece.messages) for piece in pieces) == turns.MOST_MESSAGES
    assert [message for piece in pieces for message in piece.messages] == frame.messages
    assert {tuple(map(bytes, piece.buffers)) for piece in pieces} == {(b"raw",)}


def test_few_messages_stay_as_they_are() -> None:
    frame = Frame([m.Fence(1), filled(m.ReleaseKeys, 10), m.Fetch(1, ["k"] * ROWS)], [])
    assert not turns.is_long([frame])
    assert list(turns.pieces(frame)) == [frame]


# --- in a frame


def test_so_many_messages_as_nobody_sends_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 3_000_000
    body = b"\xdd" + count.to_bytes(4, "big") + b"\x91\x28" * count  # so many Heartbeats
    data = len(body).to_bytes(4, "big") + bytes(4) + body
    monkeypatch.setattr(framing, "_decoder", None)
    decoder = FrameDecoder(LIMIT_PEER)
    with pytest.raises(FrameError, match="3000000 messages; the limit is 65536"):
        decoder.feed(data)


@pytest.mark.parametrize("count", [65535, 65536, 65537, 200_000])
def test_whoever_has_more_to_say_sends_several_frames(count: int) -> None:
    messages: list[m.Message] = [m.Fence(i) for i in range(count)]
    frames = FrameDecoder(LIMIT_PEER).feed(b"".join(map(bytes, encode(messages))))
    assert max(len(frame.messages) for frame in frames) <= framing.MOST_MESSAGES
    assert [message for frame in frames for message in frame.messages] == messages


# --- on a connection


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece takes longer than a turn may."""
    monkeypatch.setattr(connections, "_TURN_SECONDS", 0.0)


LONG: list[list[m.Message]] = [
    [m.Fence(i) for i in range(20_000)],
    [filled(m.ReleaseKeys, 400_000)],
]


def total(messages: list[m.Message]) -> int:
    return sum(len(getattr(message, "keys", "1")) for message in messages)


@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize("long", LONG, ids=["many messages", "many rows"])
@pytest.mark.parametrize("is_secure", [True, False])
def test_others_are_heard_while_one_says_very_much(
    long: list[m.Message], is_secure: bool, credentials: Path, run: Run
) -> None:
    async def scene() -> None:
        keys = credentials if is_secure else None
        async with pair(keys) as (talker, far_of_talker), pair(keys) as (other, far_of_other):
            heard_before: list[int] = []
            far_of_talker.comm.on_frames = lambda comm, frames: answer(comm, frames)

            def answer(comm: Any, frames: list[Frame]) -> None:
                if not far_of_talker.messages:
                    other.comm.send(m.Fence(1))
                far_of_talker.on_frames(comm, frames)

            def note(comm: Any, frames: list[Frame]) -> None:
                heard_before.append(total(far_of_talker.messages))
                far_of_other.on_frames(comm, frames)

            far_of_other.comm.on_frames = note
            for message in long:
                talker.comm.send(message)
            await far_of_talker.until(lambda: total(far_of_talker.messages) == total(long))
            await far_of_other.hear(1)
            assert 0 < heard_before[0] < total(long) / 2
            talker.comm.send(m.Fence(-1))  # it is read again
            await far_of_talker.until(lambda: far_of_talker.messages[-1] == m.Fence(-1))

    run(scene())


@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize("long", LONG, ids=["many messages", "many rows"])
def test_all_that_came_before_the_end_is_heard_before_it(long: list[m.Message], run: Run) -> None:
    async def scene() -> None:
        async with pair(None) as (near, far):
            at_the_end: list[int] = []
            far.comm.on_lost = lambda comm, reason: (
                at_the_end.append(total(far.messages)),
                End.on_lost(far, comm, reason),
            )
            for message in long:
                near.comm.send(message)
            near.comm.close("all is said")
            await far.until(lambda: bool(far.lost))
            assert at_the_end == [total(long)]

    run(scene())


@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize("how", ["close", "abort"])
def test_whoever_closes_hears_no_more(how: str, run: Run) -> None:
    async def scene() -> None:
        async with pair(None) as (near, far):

            def enough(comm: Any, frames: list[Frame]) -> None:
                assert not far.messages
                far.on_frames(comm, frames)
                getattr(comm, how)("enough")

            far.comm.on_frames = enough
            for message in LONG[0]:
                near.comm.send(message)
            await far.until(lambda: bool(far.lost))
            await near.until(lambda: bool(near.lost))
            assert len(far.messages) == turns.MOST_MESSAGES

    run(scene())
