"""A batch with messages that can't be encoded: the others go out in their order, and nothing is lost silently."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hpclaunch.comm import messages as m
from hpclaunch.comm.framing import Frame, FrameDecoder
from hpclaunch.comm.memory import memory_pair
from hpclaunch.comm.mending import encode_all, mend

BAD: list[m.Message] = [
    m.TasksFailed(["bad"], [m.Failure("", "bad file name \udce9", "at \ud800")]),
    m.SubmitTasks(b"f", ["bad"], [b""], priority=10**30),
    m.ActorCall(1, "bad", "\udce9", None),
    m.Goodbye(object()),  # type: ignore[arg-type]
    m.Heartbeat([m.WorkerVitals("w\udce9", 1, 2**70, math.nan)]),
]
batches = st.lists(st.one_of(st.integers(0, 99), st.sampled_from(BAD)), min_size=1, max_size=12)


def messages_of(batch: list[Any]) -> list[m.Message]:
    return [m.TaskBegun(str(one)) if isinstance(one, int) else one for one in batch]


def decoded(pieces: list[Any]) -> list[m.Message]:
    frames = FrameDecoder(1 << 20).feed(b"".join(map(bytes, pieces)))
    return [message for frame in frames for message in frame.messages]


@given(batches)
def test_each_message_of_a_batch_goes_out_in_its_order(batch: list[Any]) -> None:
    sent = messages_of(batch)
    heard = decoded(encode_all(sent, ()))
    assert list(map(type, heard)) == list(map(type, sent))
    assert [a for a in heard if type(a) is m.TaskBegun] == [a for a in sent if type(a) is m.TaskBegun]


@given(batches)
def test_the_sender_may_leave_them_out(batch: list[Any]) -> None:
    refused: list[m.Message] = []

    def refuse(message: m.Message, error: Exception) -> None:
        refused.append(message)

    sent = messages_of(batch)
    heard = decoded(encode_all(sent, (), refuse))
    assert heard == [a for a in sent if type(a) is m.TaskBegun]
    assert refused == [a for a in sent if type(a) is not m.TaskBegun]


def test_a_replacement_that_fails_too_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    heard = decoded(encode_all([BAD[0], m.TaskBegun("a")], (), lambda message, error: message))
    assert heard == [m.TaskBegun("a")]
    assert "a TasksFailed can't be sent" in caplog.text


def test_a_failure_is_told_in_other_words(caplog: pytest.LogCaptureFixture) -> None:
    mended = mend(BAD[0], ValueError("no"))
    assert mended == m.TasksFailed(["bad"], [m.Failure("", "bad file name \\udce9", "at \\ud800")])
    assert "a TasksFailed can't be encoded" in caplog.text


def test_a_connection_asks_its_owner_and_sends_the_rest() -> None:
    async def scene() -> None:
        left, right = memory_pair("a", "b")
        heard: list[m.Message] = []
        is_there = asyncio.Event()

        def on_frames(_: Any, frames: list[Frame]) -> None:
            for frame in frames:
                heard.extend(frame.messages)
            if len(heard) == 4:
                is_there.set()

        right.on_frames = on_frames
        left.on_unsendable = lambda message, error: m.Goodbye(f"instead of a {type(message).__name__}")
        for message in (m.TaskBegun("1"), BAD[1], m.TaskBegun("2")):
            left.send(message)
        left.send_buffers(BAD[0], [b"buffer"])
        await is_there.wait()
        assert heard == [
            m.TaskBegun("1"),
            m.Goodbye("instead of a SubmitTasks"),
            m.TaskBegun("2"),
            m.Goodbye("instead of a TasksFailed"),
        ]

    asyncio.run(asyncio.wait_for(scene(), 10))
