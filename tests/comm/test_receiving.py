"""Receiving into memory that connections share gives the same frames as being handed bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hpclaunch.comm import messages as m
from hpclaunch.comm.framing import LIMIT_PEER, Frame, FrameDecoder, encode
from hpclaunch.errors import FrameError

SCRATCH = 1000

frames = st.lists(
    st.tuples(
        st.lists(st.builds(m.Goodbye, st.text(max_size=300)), max_size=3),
        st.lists(
            st.sampled_from([0, 1, 900, 5_000, 65_519, 70_000]).map(lambda n: bytes([n % 251]) * n), max_size=3
        ),
    ),
    max_size=6,
)


def receive(decoder: FrameDecoder, scratch: memoryview, data: bytes, sizes: list[int]) -> list[Frame]:
    """Receive ``data`` in pieces of at most these sizes, over and over; wipe the scratch memory after each."""
    found: list[Frame] = []
    at = turn = 0
    while at < len(data):
        space = decoder.space()
        assert len(space) > 0
        count = min(len(space), sizes[turn % len(sizes)], len(data) - at)
        space[:count] = data[at : at + count]
        found += decoder.received(count)
        scratch[:] = b"\xff" * SCRATCH
        at += count
        turn += 1
    return found


@given(frames, st.lists(st.integers(1, SCRATCH), max_size=5))
def test_any_cut_gives_the_frames_that_were_sent(sent: list[tuple[list[m.Message], list[bytes]]], cuts: list[int]):
    scratch = memoryview(bytearray(SCRATCH))
    decoder = FrameDecoder(LIMIT_PEER, scratch)
    data = b"".join(bytes(piece) for messages, buffers in sent for piece in encode(messages, buffers))
    found = receive(decoder, scratch, data, [*cuts, 1 << 20])
    assert [(f.messages, [bytes(b) for b in f.buffers]) for f in found] == sent


def test_two_connections_take_turns_with_one_memory():
    scratch = memoryview(bytearray(SCRATCH))
    one, two = FrameDecoder(LIMIT_PEER, scratch), FrameDecoder(LIMIT_PEER, scratch)
    first = b"".join(bytes(p) for p in encode([m.Goodbye("first")], [b"a" * 50]))
    second = b"".join(bytes(p) for p in encode([m.Goodbye("second")], [b"b" * 50]))
    assert receive(one, scratch, first[:30], [SCRATCH]) == []
    assert receive(two, scratch, second[:40], [SCRATCH]) == []
    (frame_one,) = receive(one, scratch, first[30:], [SCRATCH])
    (frame_two,) = receive(two, scratch, second[40:], [SCRATCH])
    assert frame_one.messages == [m.Goodbye("first")]
    assert bytes(frame_one.buffers[0]) == b"a" * 50
    assert frame_two.messages == [m.Goodbye("second")]
    assert bytes(frame_two.buffers[0]) == b"b" * 50


def test_the_limit_holds():
    scratch = memoryview(bytearray(SCRATCH))
    decoder = FrameDecoder(100, scratch)
    with pytest.raises(FrameError, match="limit is 100 bytes"):
        receive(decoder, scratch, b"".join(bytes(p) for p in encode([m.Goodbye("x" * 200)])), [SCRATCH])
