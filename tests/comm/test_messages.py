"""Every message passes through the real encoder and comes out as it was."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given, strategies as st

from hpclaunch.comm import messages as m
from hpclaunch.comm.framing import LIMIT_PEER, FrameDecoder, encode

ALL = typing.get_args(m.Message)

_simple: dict[object, st.SearchStrategy[object]] = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=50),
    bool: st.booleans(),
    type(None): st.none(),
}


def a_value(kind: object) -> st.SearchStrategy[object]:
    """Return a strategy for a field of this type."""
    if kind in _simple:
        return _simple[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return a_message(kind)
    if typing.get_origin(kind) is list:
        return st.lists(a_value(typing.get_args(kind)[0]), max_size=3)
    if typing.get_origin(kind) is dict:
        keys, values = typing.get_args(kind)
        return st.dictionaries(a_value(keys), a_value(values), max_size=3)
    return st.one_of([a_value(one) for one in typing.get_args(kind)])  # a union


def a_message(kind: type[msgspec.Struct]) -> st.SearchStrategy[object]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: a_value(hints[name]) for name in kind.__struct_fields__})


def test_all_messages_are_known_and_differ_by_tag() -> None:
    defined = {
        cls
        for cls in vars(m).values()
        if isinstance(cls, type) and issubclass(cls, m._Message) and cls.__struct_config__.tag is not None
    }
    assert defined == set(ALL)
    assert len({cls.__struct_config__.tag for cls in ALL}) == len(ALL)


@pytest.mark.parametrize("kind", ALL, ids=lambda cls: cls.__name__)
def test_a_message_comes_out_as_it_went_in(kind: type[msgspec.Struct]) -> None:
    @given(a_message(kind))
    def check(message: m.Message) -> None:
        data = b"".join(bytes(piece) for piece in encode([message]))
        (frame,) = FrameDecoder(LIMIT_PEER).feed(data)
        assert frame.messages == [message]
        assert type(frame.messages[0]) is kind

    check()


def test_an_older_peers_message_lacks_only_what_has_a_default() -> None:
    """Fields are only ever added at the end, with a default: the order is the format."""
    for kind in ALL:
        fields = msgspec.structs.fields(kind)
        required = [field.required for field in fields]
        assert required == sorted(required, reverse=True), kind.__name__
