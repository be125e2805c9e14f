"""Keys as users write them and as the cluster knows them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from hpclaunch.comm.keys import key_of_text, text_of_key

parts = st.recursive(
    st.text(max_size=5) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.binary(max_size=5),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(tuple),
    max_leaves=6,
)
tuples = st.lists(parts, min_size=1, max_size=4).map(tuple).filter(lambda key: len(repr(key).encode()) <= 400)


@given(tuples, tuples)
def test_a_tuple_comes_back_and_has_a_text_of_its_own(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert key_of_text(text_of_key(one)) == one
    assert (text_of_key(one) == text_of_key(other)) == (repr(one) == repr(other))


@given(st.text(min_size=1, max_size=50))
def test_a_text_is_itself(text: str) -> None:
    assert text_of_key(text) == text
    assert text_of_key(key_of_text(text)) == text


@pytest.mark.parametrize("text", ["(", "()", "(x)", "(1 + 2)", "(1,2)", "('x', 0", "(" * 200 + ")" * 200])
def test_texts_that_only_look_like_tuples(text: str) -> None:
    assert key_of_text(text) == text


def test_a_text_that_reads_like_a_tuple_is_that_tuple() -> None:
    assert key_of_text("('x', 0)") == ("x", 0)


def test_numbers_of_numpy_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    key = ("x", numpy.int64(3), numpy.float64(0.5), numpy.str_("y"), True, None)
    assert text_of_key(key) == "('x', 3, 0.5, 'y', True, None)"


@pytest.mark.parametrize(
    "key", ["", (), None, 7, b"x", "x" * 401, ("x" * 400,), ["x"], ("x", [1]), ("x", object())]
)
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(ValueError, match="a key is a text"):
        text_of_key(key)
