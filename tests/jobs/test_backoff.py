"""Rounds, waits and the point of giving up."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, strategies as st

from hpclaunch.jobs.backoff import Backoff, Bucket, Pace


def test_deaths_of_one_submission_are_one_round() -> None:
    backoff = Backoff(Random(0), jitter=0)
    assert backoff.on_failure(1, 1, 10.0)
    assert not any(backoff.on_failure(1, 1, 10.0 + n) for n in range(7))
    assert backoff.rounds == 1
    assert backoff.not_before == 11.0


def test_waits_double_up_to_the_cap() -> None:
    backoff = Backoff(Random(0), jitter=0, cap_seconds=5.0)
    waits = []
    for generation in range(1, 6):
        backoff.on_failure(generation, generation, 0.0)
        waits.append(backoff.not_before)
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_late_death_of_an_old_submission_opens_no_round() -> None:
    backoff = Backoff(Random(0))
    backoff.on_failure(1, 4, 0.0)
    assert not backoff.on_failure(3, 5, 1.0)
    assert backoff.on_failure(5, 6, 2.0)


def test_success_ends_the_row_unless_it_is_older_than_the_last_round() -> None:
    backoff = Backoff(Random(0))
    backoff.on_failure(1, 1, 0.0)
    backoff.on_failure(2, 2, 0.0)
    backoff.on_success(1)
    assert backoff.rounds == 2
    backoff.on_success(2)
    assert backoff.rounds == 0
    assert backoff.not_before == 0.0


def test_it_gives_up_later_while_others_are_up() -> None:
    backoff = Backoff(Random(0), limit=3, patient_limit=5)
    for generation in range(1, 4):
        backoff.on_failure(generation, generation, 0.0)
    assert backoff.is_exhausted(others_up=False)
    assert not backoff.is_exhausted(others_up=True)
    backoff.reset()
    assert not backoff.is_exhausted(others_up=False)
    assert backoff.on_failure(1, 1, 0.0)  # also an old generation counts again


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_jitter_only_lengthens_a_wait_and_little(seed: int, rounds: int) -> None:
    backoff = Backoff(Random(seed), jitter=0.1)
    for generation in range(rounds):
        backoff.on_failure(generation, generation, 0.0)
    wait = min(60.0, 2.0 ** (rounds - 1))
    assert wait <= backoff.not_before <= wait * 1.1


def test_pace_grows_to_its_cap_and_back() -> None:
    pace = Pace(0.2, 0.5, growth=1.5)
    assert [pace.slacken() for _ in range(3)] == pytest.approx([0.3, 0.45, 0.5])
    assert pace.quicken() == 0.2


def test_some_permits_at_once_and_then_so_many_in_a_minute() -> None:
    bucket = Bucket(60.0)
    for _ in range(9):
        bucket.take(100.0)
        assert bucket.not_before <= 100.0
    bucket.take(100.0)
    assert bucket.not_before == 101.0
    bucket.take(101.0)
    assert bucket.not_before == 102.0
    bucket.take(1000.0)
    assert bucket.not_before <= 1000.0, "rest fills it again"
