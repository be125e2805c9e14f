"""Frames: any cut of the bytes gives the same frames, limits hold, garbage is refused before it costs memory."""

from __future__ import annotations

import contextlib
import itertools
import struct
import tracemalloc

import pytest
from hypothesis import given, strategies as st

from hpclaunch.comm import framing, messages as m
from hpclaunch.comm.buffers import Buffer
from hpclaunch.comm.framing import LIMIT_PEER, LIMIT_STRANGER, Frame, FrameDecoder, encode
from hpclaunch.errors import FrameError


def wire(messages: list[m.Message], buffers: list[Buffer] | None = None) -> bytes:
    return b"".join(bytes(piece) for piece in encode(messages, buffers or []))


def plain(frames: list[Frame]) -> list[tuple[list[m.Message], list[bytes]]]:
    return [(frame.messages, [bytes(b) for b in frame.buffers]) for frame in frames]


keys = st.lists(st.text(max_size=20), max_size=5)
some_messages = st.lists(
    st.one_of(
        st.builds(m.ReleaseKeys, keys),
        st.builds(m.Data, st.integers(0, 2**40), st.text(max_size=10), st.integers(-1, 5)),
        st.builds(m.RunTasks, st.binary(max_size=16), keys, st.lists(st.binary(max_size=200), max_size=5)),
    ),
    max_size=4,
)
some_buffers = st.lists(st.one_of(st.binary(max_size=300), st.integers(0, 200_000).map(bytes)), max_size=3)


@given(
    frames=st.lists(st.tuples(some_messages, some_buffers), min_size=1, max_size=4),
    cuts=st.lists(st.floats(0, 1), max_size=8),
    into_scratch=st.booleans(),
)
def test_any_cut_of_the_bytes_gives_the_same_frames(
    frames: list[tuple[list[m.Message], list[bytes]]], cuts: list[float], into_scratch: bool
) -> None:
    data = b"".join(wire(messages, list(buffers)) for messages, buffers in frames)
    at = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    decoder = FrameDecoder(LIMIT_PEER, memoryview(bytearray(1000)))
    got: list[Frame] = []
    for start, end in itertools.pairwise(at):
        piece = data[start:end]
        if not into_scratch:
            got += decoder.feed(piece)
            continue
        while piece:
            space = decoder.space()
            count = min(len(space), len(piece))
            space[:count] = piece[:count]
            got += decoder.received(count)
            piece = piece[count:]
    assert plain(got) == frames


def test_one_byte_at_a_time() -> None:
    data = wire([m.Goodbye("x" * 50)], [b"abc", b""]) + wire([m.Heartbeat()])
    decoder = FrameDecoder()
    got = [frame for i in range(len(data)) for frame in decoder.feed(data[i : i + 1])]
    assert plain(got) == [([m.Goodbye("x" * 50)], [b"abc", b""]), ([m.Heartbeat()], [])]


def test_buffers_outlive_the_memory_that_they_were_received_into() -> None:
    scratch = memoryview(bytearray(4096))
    decoder = FrameDecoder(LIMIT_PEER, scratch)
    data = wire([m.Data(1, "k", 1)], [b"first"])
    scratch[: len(data)] = data
    (frame,) = decoder.received(len(data))
    scratch[:] = bytes(4096)
    assert bytes(frame.buffers[0]) == b"first"
    assert frame.messages == [m.Data(1, "k", 1)]


def test_a_large_buffer_arrives_writable_and_is_not_copied_again() -> None:
    data = wire([m.Data(1, "k", 1)], [bytes(1 << 20)])
    decoder = FrameDecoder(LIMIT_PEER)
    decoder.feed(data[:1000])
    target = decoder._target
    (frame,) = decoder.feed(data[1000:])
    assert not frame.buffers[0].readonly
    assert frame.buffers[0].obj is target.obj


# --- refusing


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(struct.pack("!II", LIMIT_STRANGER, 0), id="body too long"),
        pytest.param(struct.pack("!II", 0, 65537), id="too many buffers"),
        pytest.param(struct.pack("!II", 2**32 - 1, 2**32 - 1), id="all ones"),
        pytest.param(struct.pack("!IIQ", 10, 1, 2**63), id="buffer too long"),
        pytest.param(struct.pack("!IIQQ", 10, 2, 2**64 - 1, 2**64 - 1), id="sum beyond 64 bits"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="ssh"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls hello"),
    ],
)
def test_a_header_over_the_limit_is_refused_before_memory_is_taken(header: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match="limit is 65536 bytes"):
            FrameDecoder().feed(header)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_limit_counts_buffers_and_header_too() -> None:
    data = wire([m.Data(1, "k", 1)], [bytes(100)])
    assert FrameDecoder(len(data)).feed(data)
    with pytest.raises(FrameError):
        FrameDecoder(len(data) - 1).feed(data)


def test_a_known_peer_may_send_more() -> None:
    decoder = FrameDecoder()
    decoder.limit = LIMIT_PEER
    (frame,) = decoder.feed(wire([m.Goodbye("x" * 100_000)]))
    assert len(frame.messages) == 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(b"\x01", id="no list"),
        pytest.param(b"\x91\x01", id="no message"),
        pytest.param(b"\x91\x91\x63", id="unknown tag"),
        pytest.param(b"\x91\x92\x03\x01", id="wrong type"),
        pytest.param(b"\x91\x91\x03", id="a field too few"),
        pytest.param(b"\x91\x92\x03\xa2\xff\xfe", id="no text"),
        pytest.param(b"\x91\x93\x0d\xa1a\xa1b", id="text for a list"),
        pytest.param(b"\x91" * 30000, id="deep"),
        pytest.param(b"\x90\x90", id="more behind it"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="a list longer than the body"),
    ],
)
def test_a_body_that_is_no_message_of_ours_is_refused(body: bytes) -> None:
    decoder = FrameDecoder()
    with pytest.raises(FrameError, match="no message of ours"):
        decoder.feed(struct.pack("!II", len(body), 0) + body)
    with pytest.raises(FrameError):  # and whatever comes behind it
        decoder.feed(wire([m.Heartbeat()]))


@given(st.binary(max_size=400))
def test_garbage_gives_frames_or_an_error_of_ours(data: bytes) -> None:
    for piece in (data, struct.pack("!II", len(data), 0) + data):
        decoder = FrameDecoder()
        with contextlib.suppress(FrameError):
            for frame in decoder.feed(piece):
                assert isinstance(frame.messages, list)


@given(st.data())
def test_one_wrong_byte_gives_frames_or_an_error_of_ours(data: st.DataObject) -> None:
    good = bytearray(wire([m.Hello(1, "client", "name", "cluster"), m.SubmitTasks(b"f", ["k"], [b"a"])], [b"xyz"]))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FrameError):
        FrameDecoder().feed(bytes(good))


# --- what is too long for a frame


@pytest.fixture
def short_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "LIMIT_BODY", 200)


def frames_of(messages: list[m.Message]) -> list[m.Message]:
    decoder = FrameDecoder(LIMIT_PEER)
    return [message for frame in decoder.feed(wire(messages)) for message in frame.messages]


@pytest.mark.usefixtures("short_frames")
def test_many_messages_become_several_frames() -> None:
    messages: list[m.Message] = [m.Goodbye("x" * 50) for _ in range(20)]
    assert len(FrameDecoder(LIMIT_PEER).feed(wire(messages))) > 1
    assert frames_of(messages) == messages


@pytest.mark.usefixtures("short_frames")
def test_a_long_message_in_columns_is_cut_into_rows() -> None:
    whole = m.SubmitTasks(b"f", [f"k{i}" for i in range(9)], [bytes(90)] * 9, [[f"i{i}"] for i in range(9)], 2, 1)
    parts = frames_of([m.Heartbeat(), whole])[1:]
    assert len(parts) > 4
    assert [key for part in parts for key in part.keys] == whole.keys  # type: ignore[union-attr]
    assert [one for part in parts for one in part.inputs] == whole.inputs  # type: ignore[union-attr]
    assert {(part.function, part.retries, part.priority) for part in parts} == {(b"f", 2, 1)}  # type: ignore[union-attr]
    with_empty_columns = m.RunTasks(b"f", ["a", "b"], [bytes(120), bytes(120)])
    assert frames_of([with_empty_columns]) == [m.RunTasks(b"f", [k], [bytes(120)]) for k in "ab"]


@pytest.mark.usefixtures("short_frames")
def test_a_message_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(FrameError, match="a Goodbye of more than 200 bytes"):
        encode([m.Heartbeat(), m.Goodbye("x" * 300)])
    with pytest.raises(FrameError, match="a SubmitTasks"):
        encode([m.SubmitTasks(b"f", ["k"], [bytes(300)])])
