"""When dead workers are replaced, and when not."""

from __future__ import annotations

import pytest

from hpclaunch.worker.restarts import MOST_OF_JOB, MOST_OF_RANK, is_hopeless, pause


def test_pauses_grow_from_the_second_death_on() -> None:
    pauses = [pause(deaths) for deaths in range(50)]
    assert pauses[:6] == [0.0, 0.0, 0.5, 1.0, 2.0, 4.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30.0


@pytest.mark.parametrize("own", [0, 9])
def test_a_job_gives_up_for_the_head_to_submit_another(own: int) -> None:
    given_up = [is_hopeless(deaths, own, is_rank=False) for deaths in range(1, 10)]
    assert given_up == [deaths >= MOST_OF_JOB for deaths in range(1, 10)]


def test_a_rank_gives_up_only_where_its_workers_end_by_themselves() -> None:
    assert [is_hopeless(n, n, is_rank=True) for n in (MOST_OF_RANK - 1, MOST_OF_RANK)] == [False, True]
    assert not any(is_hopeless(n, 0, is_rank=True) for n in range(1, 1000))
