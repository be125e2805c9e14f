"""Ranks as a head's jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hpclaunch.errors import JobsFailedError, UserError
from hpclaunch.head.ranks import Ranks, is_rank, job_id
from hpclaunch.jobs.job import State


def make(on_failure: Callable[[JobsFailedError], None] = lambda error: None) -> Ranks:
    times = iter(range(100))
    hosts = [(2, "node1"), (3, "node2")]
    return Ranks(hosts, processes=1, clock=lambda: float(next(times)), on_failure=on_failure)


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
    assert row.state is State.STARTING, "another worker comes in its stead"
    assert row.story == [
        "+1.0 s  worker rank2-0 connected to 10.0.0.1:4000",
        "+2.0 s  worker rank2-0 left: its process was killed",
    ]


def test_the_last_rank_without_workers_is_a_failure() -> None:
    told: list[JobsFailedError] = []
    ranks = make(told.append)
    for job in ("rank2", "rank3"):
        ranks.worker_joined(job, f"{job}-0", "node1", "10.0.0.1:4000")
        ranks.worker_left(job, f"{job}-0", "its process was killed")
    ranks.rank_left("rank2", "7 workers in a row ended")
    ranks.rank_left("rank2", "again")
    ranks.rank_left("rank9", "never seen")
    assert (told, ranks.failure) == ([], None)
    assert (ranks.table()[0].state, ranks.table()[0].reason) == (State.ENDED, "7 workers in a row ended")
    ranks.rank_left("rank3", "it was told to")
    assert told == [ranks.failure]
    assert "rank2 on node1: 7 workers in a row ended" in str(told[0])
    assert "rank3 on node1: it was told to" in str(told[0])
    ranks.worker_joined("rank2.abc", "rank2.abc-0", "node3", "10.0.0.1:4000")
    assert ranks.failure is None, "a guest has workers"


def test_a_rank_whose_connection_is_lost_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpclaunch.head.ranks._GRACE_SECONDS", 0.01)
    told: list[JobsFailedError] = []

    async def lose_all(*, comes_back: bool) -> None:
        told.clear()
        ranks = make(told.append)
        for job in ("rank2", "rank3"):
            ranks.rank_left(job, "")
        if comes_back:
            ranks.worker_joined("rank3", "rank3-0", "node2", "10.0.0.1:4000")
        await asyncio.sleep(0.05)

    asyncio.run(lose_all(comes_back=True))
    assert not told
    asyncio.run(lose_all(comes_back=False))
    assert "has not come back within" in str(told[0])


def test_a_cluster_that_ends_has_not_failed() -> None:
    told: list[JobsFailedError] = []
    ranks = make(told.append)
    asyncio.run(ranks.close())
    ranks.rank_left("rank2", "the cluster was closed")
    ranks.rank_left("rank3", "the cluster was closed")
    assert not told


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
