"""Clocks of hosts that disagree, in words."""

from __future__ import annotations

import pytest

from hpclaunch import clocks


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(61, "61 s"), (119, "119 s"), (120, "2.0 minutes"), (7200, "2.0 hours"), (3 * 86400, "3.0 days")],
)
def test_a_difference_is_told_in_a_unit_of_its_size(seconds: float, text: str) -> None:
    assert clocks.apart(seconds) == text


@pytest.mark.parametrize("ahead", [0.0, 59.0, -59.0])
def test_clocks_that_agree_are_not_spoken_of(ahead: float) -> None:
    assert clocks.note_of("node7", ahead) == ""


@pytest.mark.parametrize(("ahead", "side"), [(90000.0, "25.0 hours ahead of"), (-90000.0, "25.0 hours behind")])
def test_a_clock_that_is_off_is_told_with_its_host(ahead: float, side: str) -> None:
    assert clocks.note_of("node7", ahead).startswith(f"the clock of node7 is {side} the head's")
