"""Which rank does what, as a table, and what holds for every shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from hpclaunch.mpi.roles import Role, TooFewRanksError, assign, rank_of

LETTERS = {"h": "head", "c": "client", "w": "worker"}


def shape(text: str) -> tuple[Role, ...]:
    """Read ``hc w w``: the parts of each rank."""
    return tuple(Role(**{LETTERS[letter]: True for letter in word}) for word in text.split())


@pytest.mark.parametrize(
    ("size", "wishes", "expected"),
    [
        (1, {}, "hcw"),
        (2, {}, "hc w"),
        (3, {}, "h c w"),
        (8, {}, "h c w w w w w w"),
        (1, {"inclusive": True}, "hcw"),
        (2, {"inclusive": True}, "hcw w"),
        (4, {"inclusive": True}, "hw cw w w"),
        (4, {"head_rank": 2}, "w c h w"),
        (4, {"head_rank": 1}, "c h w w"),
        (4, {"client_rank": 3}, "h w w c"),
        (4, {"head_rank": 1, "client_rank": 1}, "w hc w w"),
        (2, {"head_rank": 1}, "w hc"),
        (2, {"client_rank": 1, "inclusive": True}, "hw cw"),
        (3, {"has_client": False}, "h w w"),
        (1, {"has_client": False}, "hw"),
        (3, {"has_head": False, "has_client": False}, "w w w"),
        (3, {"has_head": False}, "c w w"),
        (1, {"has_head": False}, "cw"),
    ],
)
def test_who_does_what(size: int, wishes: dict[str, Any], expected: str) -> None:
    assert assign(size, **wishes) == shape(expected)


@pytest.mark.parametrize(
    ("size", "wishes", "ask_for"),
    [
        (2, {"client_rank": 1}, "-np 3"),
        (2, {"head_rank": 0, "client_rank": 1}, "-np 3"),
        (4, {"client_rank": 5}, "-np 6"),
        (4, {"head_rank": 4}, "-np 5"),
        (4, {"head_rank": -1}, "-np 1"),
        (1, {"client_rank": 1}, "-np 2"),
    ],
)
def test_too_few_ranks_say_what_to_ask_for(size: int, wishes: dict[str, Any], ask_for: str) -> None:
    with pytest.raises(TooFewRanksError, match=ask_for):
        assign(size, **wishes)


@given(
    size=st.integers(1, 40),
    head_rank=st.none() | st.integers(0, 45),
    client_rank=st.none() | st.integers(0, 45),
    has_head=st.booleans(),
    has_client=st.booleans(),
    inclusive=st.booleans(),
)
def test_every_shape_can_work(size: int, **wishes: Any) -> None:
    try:
        roles = assign(size, **wishes)
    except TooFewRanksError:
        return
    assert len(roles) == size
    assert sum(role.head for role in roles) == wishes["has_head"]
    assert sum(role.client for role in roles) == wishes["has_client"]
    assert any(role.worker for role in roles)
    for part in ("head", "client"):
        if wishes[f"has_{part}"] and wishes[f"{part}_rank"] is not None:
            assert rank_of(roles, part) == wishes[f"{part}_rank"]
    if wishes["inclusive"]:
        assert all(role.worker for role in roles)
    elif size > 1:
        assert not any(role.worker and (role.head or role.client) for role in roles)
    assert all(role != Role() for role in roles)


def test_a_role_in_words() -> None:
    assert str(Role(head=True, worker=True)) == "head and worker"
    assert str(Role()) == "nothing"
