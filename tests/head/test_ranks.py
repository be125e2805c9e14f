"""Ranks as a head's jobs."""

from __future__ import annotations

import asyncio

import pytest

from hpclaunch.cluster.job import State
from hpclaunch.errors import UserError
from hpclaunch.head.ranks import Ranks, is_rank, job_id


def make() -> Ranks:
    times = iter(range(100))
    return Ranks([(2, "node1"), (3, "node2")], processes=1, clock=lambda: float(next(times)))


def test_ranks_come_and_go() -> None:
    ranks = make()
    assert [(row.id, row.state, row.host) for row in ranks.table()] == [
        ("rank2", State.STARTING, "node1"),
        ("rank3", State.STARTING, "node2"),
    ]
    ranks.worker_joined("rank2", "rank2-0", "node1", "10.0.0.1:4000")
    assert [row.state for row in ranks.table()] == [State.UP, State.STARTING]
    ranks.worker_left("rank2", "rank2-0", "its process was killed")
    ranks.worker_left("rank9", "rank9-0", "never seen")
    row = ranks.table()[0]
    assert row.state is State.ENDED
    assert row.story == [
        "+1.0 s  worker rank2-0 connected to 10.0.0.1:4000",
        "+2.0 s  worker rank2-0 left: its process was killed",
    ]


def test_their_number_is_fixed() -> None:
    ranks = make()
    assert ranks.wish == 2
    asyncio.run(ranks.scale(2))
    with pytest.raises(UserError, match="2 worker ranks of this job can't become 5"):
        asyncio.run(ranks.scale(5))


def test_more_memory_may_come_until_all_have_joined() -> None:
    ranks = make()
    ranks.worker_joined("rank2", "rank2-0", "node1", "10.0.0.1:4000")
    assert ranks.coming() == [0]
    ranks.worker_joined("rank3", "rank3-0", "node2", "10.0.0.1:4000")
    ranks.worker_left("rank2", "rank2-0", "its process was killed")
    assert ranks.coming() == []


def test_logs_say_where_the_output_is() -> None:
    assert make().logs().keys() == {"rank2", "rank3"}
    with pytest.raises(UserError, match="rank7"):
        make().logs("rank7")


def test_ids_of_ranks_are_known_from_those_of_jobs() -> None:
    assert is_rank(job_id(3))
    assert is_rank(job_id(3, "a1b2c3"))
    assert not is_rank("4711.1")
    assert not is_rank("53_1")
