"""When results are written to disk and when a worker pauses."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hpclaunch.worker.memory import RETRY_SECONDS, Ledger, Limits, limits_of, room_of

LIMITS = Limits(memory=1000, target=600, spill=700, pause=800)


def test_limits_are_parts_of_a_workers_memory() -> None:
    fractions = {"target": 0.6, "spill": None, "pause": 0.8, "terminate": 0.95, "max_spill": 5}
    assert limits_of(1000, fractions) == Limits(1000, 600, 0, 800, 950, 5)
    assert limits_of(0, fractions) == Limits(disk=5)
    assert limits_of(1000, {}) == Limits(1000)


def test_what_was_not_used_for_longest_is_written_first() -> None:
    ledger = Ledger(LIMITS)
    for key in "abc":
        ledger.add(key, 200)
    assert ledger.choose(0.0) == []
    ledger.use("a")
    ledger.add("d", 150)
    assert ledger.choose(0.0) == ["b"]
    assert ledger.choose(0.0) == []  # it is being written
    ledger.written("b")
    ledger.check()
    assert (ledger.managed, ledger.disk.sizes) == (550, {"b": 200})
    ledger.remove("b")
    assert ledger.disk.total == 0


def test_a_large_process_writes_results_until_it_would_be_below_target() -> None:
    ledger = Ledger(LIMITS)
    for key in "abc":
        ledger.add(key, 100)
    ledger.process = 701
    assert ledger.choose(0.0) == ["a", "b"]
    assert ledger.choose(0.0) == []
    ledger.written("a")
    assert ledger.choose(0.0) == ["c"]  # the process has not become smaller


@pytest.mark.parametrize(
    ("limits", "process", "paused"),
    [
        (LIMITS, 800, False),
        (LIMITS, 801, True),
        (LIMITS._replace(pause=0), 999, False),
        (LIMITS._replace(spill=0), 801, True),
    ],
)
def test_pause_is_about_the_process(limits: Limits, process: int, paused: bool) -> None:
    ledger = Ledger(limits)
    ledger.process = process
    assert ledger.judge() is paused


def test_pause_is_about_results_too_and_ends_a_little_below() -> None:
    ledger = Ledger(LIMITS._replace(target=0, spill=0))
    ledger.add("a", 801)
    assert ledger.judge()
    ledger.add("a", 790)
    assert ledger.judge()
    ledger.add("a", 776)
    assert not ledger.judge()
    ledger.add("a", 790)
    assert not ledger.judge()


def test_a_full_disk_pauses_earlier_and_is_tried_again() -> None:
    ledger = Ledger(LIMITS)
    ledger.add("a", 650)
    ledger.process = 720
    assert not ledger.judge()
    assert ledger.choose(5.0) == ["a"]
    ledger.not_written("a", "no space left on device", 5.0)
    ledger.check()
    assert ledger.judge()
    assert ledger.choose(5.0 + RETRY_SECONDS / 2) == []
    assert ledger.disk_trouble == "no space left on device"
    assert ledger.choose(5.0 + RETRY_SECONDS) == ["a"]
    ledger.written("a")
    ledger.process = 300
    assert not ledger.judge()
    assert ledger.disk_trouble == ""


def test_there_may_be_a_limit_to_what_is_on_disk() -> None:
    ledger = Ledger(LIMITS._replace(disk=500))
    for key in "abcd":
        ledger.add(key, 300)
    assert ledger.choose(0.0) == ["a"]
    assert "max-spill" in ledger.disk_trouble
    ledger.written("a")
    ledger.remove("a")
    assert ledger.choose(RETRY_SECONDS) == ["b"]


@given(st.lists(st.tuples(st.sampled_from("aurwnc"), st.sampled_from("xyz"), st.integers(0, 900))))
def test_sums_are_right_whatever_happens(steps: list[tuple[str, str, int]]) -> None:
    ledger = Ledger(LIMITS)
    for what, key, number in steps:
        if what == "a":
            ledger.add(key, number)
        elif what == "u":
            ledger.use(key)
        elif what == "r":
            ledger.remove(key)
        elif what == "w" and key in ledger.writing.sizes:
            ledger.written(key)
        elif what == "n" and key in ledger.writing.sizes:
            ledger.not_written(key, "why", number)
        elif what == "c":
            ledger.process = number
            ledger.choose(float(number))
            assert ledger.managed <= LIMITS.target or ledger.disk_trouble
        ledger.check()


def test_results_leave_memory_for_those_to_come() -> None:
    ledger = Ledger(Limits(memory=100, target=60, spill=70, pause=80, terminate=95))
    ledger.add("a", 20)
    ledger.add("b", 20)
    ledger.process = 60
    assert ledger.choose(0.0) == []
    ledger.wanted = 50
    assert ledger.choose(0.0) == ["a"]
    ledger.check()


@pytest.mark.parametrize(
    ("limits", "process", "room"),
    [
        (Limits(), 50, 0),
        (Limits(memory=100), 30, 70),
        (Limits(memory=100, terminate=95), 30, 65),
        (Limits(memory=100, terminate=95), 200, 1),  # and not 0, which is no limit
    ],
)
def test_the_room_of_a_process(limits: Limits, process: int, room: int) -> None:
    assert room_of(limits, process) == room
