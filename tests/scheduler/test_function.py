"""What is known of a function."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.function import AHEAD_SECONDS, UNKNOWN_SECONDS, Function

MIB = 1 << 20


def known(calls: int, seconds: float, size: int = 0) -> Function:
    function = Function(m.DefineFunction(b"f", "f", b"bytes"))
    for _ in range(calls):
        function.learn(seconds, size)
    return function


def test_nothing_is_known_at_first() -> None:
    function = known(0, 0.0)
    assert function.seconds is None
    assert function.cost == function.load == UNKNOWN_SECONDS


@pytest.mark.parametrize("calls", [1, 7, 1000, 100_000])
@pytest.mark.parametrize(("seconds", "size"), [(1e-6, 0), (0.001, 0), (3.0, 0), (0.002, 100_000), (0.1, 40 * MIB)])
def test_calls_that_are_all_alike_are_known(calls: int, seconds: float, size: int) -> None:
    function = known(calls, seconds, size)
    assert function.seconds == pytest.approx(seconds)
    assert function.load == pytest.approx(max(20e-6, seconds, min(size / (4 * MIB), 1) * AHEAD_SECONDS))


@pytest.mark.parametrize("before", [10, 1000, 100_000])
@pytest.mark.parametrize(("seconds", "size"), [(0.05, 0), (0.3, 0), (10.0, 0), (0.0003, MIB), (0.3, 40 * MIB)])
def test_however_many_were_quick_a_few_slow_ones_are_believed(before: int, seconds: float, size: int) -> None:
    function = known(before, 1e-5)
    for _ in range(25):
        function.learn(seconds, size)
    assert function.load > max(seconds, min(size / (4 * MIB), 1) * AHEAD_SECONDS) / 2


@pytest.mark.parametrize(("seconds", "size"), [(1.0, 0), (3600.0, 0), (1e-5, 1 << 30), (3600.0, 1 << 40)])
def test_a_single_one_is_not(seconds: float, size: int) -> None:
    function = known(100_000, 1e-5)
    function.learn(seconds, size)
    assert function.load < 100e-6  # still a thousand ahead


def test_the_mean_of_a_mixture_is_known() -> None:
    function, chance = known(0, 0.0), random.Random(0)
    loads = []
    for _ in range(20_000):
        function.learn(0.01 if chance.random() < 0.01 else 20e-6)
        loads.append(function.load)
    loads = sorted(loads[1000:])
    low, middle, high = (loads[int(len(loads) * part)] for part in (0.01, 0.5, 0.99))
    assert 40e-6 < low < 90e-6 < middle < 150e-6 < high < 300e-6


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 1 << 40)), min_size=1, max_size=200))
def test_what_is_known_lies_between_what_was_seen(calls: list[tuple[float, int]]) -> None:
    function = known(0, 0.0)
    for seconds, size in calls:
        function.learn(seconds, size)
    assert function.seconds is not None
    slack = 1 + 1e-9
    assert min(s for s, _ in calls) / slack <= function.seconds + 1e-12
    assert function.seconds <= max(s for s, _ in calls) * slack + 1e-12
    assert 0 <= function.stored / function.calls <= max(size for _, size in calls) * slack
    assert 0 < function.calls <= len(calls)
