"""Texts and numbers that messages can't hold: refused by the argument's name, or told in other words."""

from __future__ import annotations

import enum
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from hpclaunch.comm import messages as m
from hpclaunch.comm.framing import FrameDecoder, encode
from hpclaunch.comm.texts import (
    MAX_INT,
    MIN_INT,
    checked_int,
    checked_text,
    clipped,
    escaped,
    pack,
    pack_arguments,
    sendable,
)

#: Texts with surrogates, as in names of files that are not UTF-8; the default alphabet leaves them out.
any_text = st.text(st.characters(exclude_categories=()), max_size=20)
any_number = st.one_of(st.integers(), st.integers(-(10**40), 10**40), st.floats())


class Text(str):
    __slots__ = ()


class Word(enum.StrEnum):
    ONE = "one"


anything = st.recursive(
    st.one_of(any_text, any_number, st.binary(max_size=5), st.none(), st.booleans(), any_text.map(Text)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(any_text, inner, max_size=3)
    ),
    max_leaves=10,
)


@given(any_text)
def test_escaped_texts_can_be_encoded_and_others_stay(text: str) -> None:
    told = escaped(text)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told)) == told
    if not any("\ud800" <= one <= "\udfff" for one in text):
        assert told == text


def test_what_is_escaped_can_be_read() -> None:
    assert escaped("caf\udce9.nc") == "caf\\udce9.nc"
    assert type(escaped(Text("a"))) is str
    assert clipped("a" * 60 + "b" * 60, 100) == "a" * 50 + "[... 20 characters are left out ...]" + "b" * 50


@given(any_text)
def test_a_checked_text_can_be_encoded_or_is_refused_by_name(text: str) -> None:
    if escaped(text) == text:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(checked_text("key=", Text(text)))) == text
    else:
        with pytest.raises(ValueError, match=r"^key= can't be sent: "):
            checked_text("key=", text)


def test_what_is_no_text_is_refused_by_name() -> None:
    assert checked_text("name=", Word.ONE) == "one"
    with pytest.raises(TypeError, match=r"^name= is a text, not 5"):
        checked_text("name=", 5)


@given(st.integers(-(10**40), 10**40))
def test_a_checked_number_can_be_encoded_or_is_refused_by_name(number: int) -> None:
    if MIN_INT <= number <= MAX_INT:
        assert checked_int("priority=", number) == number
    else:
        with pytest.raises(ValueError, match=r"^priority= is a whole number from "):
            checked_int("priority=", number)


def test_a_number_too_long_to_be_written_out_is_refused_too() -> None:
    with pytest.raises(ValueError, match="not one of 16610 bits"):
        checked_int("priority=", 10**5000)


@given(anything)
def test_any_answer_can_be_packed(value: Any) -> None:
    msgspec.msgpack.decode(pack(value))
    msgspec.msgpack.decode(pack({"object": object(), "value": value}))


@given(st.dictionaries(st.sampled_from(["workers", "name", "n"]), anything))
def test_arguments_are_packed_or_refused(arguments: dict[str, Any]) -> None:
    try:
        packed = pack_arguments("ask", arguments)
    except (ValueError, TypeError) as error:
        refused = str(error)
        assert refused.startswith("ask: ")
    else:
        assert list(msgspec.msgpack.decode(packed)) == list(arguments)


def test_the_argument_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(ValueError, match=r"^ask: batch= can't be sent: a number of 100 bits"):
        pack_arguments("ask", {"kind": "queue", "how": {"maxsize": 1, "batch": 10**30}})
    with pytest.raises(ValueError, match=r"^ask: workers= can't be sent: \['a\\udce9'\]"):
        pack_arguments("ask", {"name": "a", "workers": ["a\udce9"]})
    with pytest.raises(TypeError, match=r"^ask: n= can't be sent: .*a builtins.object is no plain value"):
        pack_arguments("ask", {"name": "a", "n": object()})


@given(any_text, any_text, any_text, st.integers())
def test_any_message_can_be_mended(key: str, text: str, trace: str, number: int) -> None:
    messages: list[m.Message] = [
        m.TasksFailed([key, "ok"], [m.Failure("", text, trace), m.Failure("TaskError", "fine")], [0.5]),
        m.ActorCall(number, key, text, b"args"),
        m.SubmitTasks(b"f", [key], [b""], [], number, number, m.Terms({text: 1.0}, [text], timeout=2.0)),
    ]
    mended = [sendable(message) for message in messages]
    (frame,) = FrameDecoder(1 << 20).feed(b"".join(map(bytes, encode(mended))))
    assert frame.messages == mended
    assert frame.messages[0].failures[1] == m.Failure("TaskError", "fine")  # type: ignore[union-attr]
