"""Jobs near the end of their walltime: replaced in time, drained, and blamed for nothing."""

from __future__ import annotations

import pytest

from hpclaunch.jobs import commands as c
from hpclaunch.jobs.expiry import margin_of
from hpclaunch.jobs.job import Limits, State
from hpclaunch.jobs.reasons import Kind
from tests.jobs.world import World


def a_world(life: float = 1000.0, wait: float = 0.0, **limits: float) -> World:
    """One job, up after ``wait`` seconds in the queue, with so many seconds to live."""
    world = World(Limits(**limits), walltime=None)
    world.scale(1)
    world.run()
    world.batch.now += wait
    world.batch.start("1.1")
    world.join("1.1")
    world.do(world.ledger.on_job_ends("1.1", life, "", world.now))
    return world


@pytest.mark.parametrize(
    ("life", "wanted", "expected"), [(3600, None, 60), (100, None, 10), (3600, 300.0, 300), (100, 300.0, 100)]
)
def test_margin(life: float, wanted: float | None, expected: float) -> None:
    assert margin_of(life, wanted) == expected


def test_a_job_is_drained_before_its_end_and_replaced() -> None:
    world = a_world()
    world.pass_time(930)
    assert world.states() == {"1.1": "up"}
    world.pass_time(20)
    job = world.ledger.jobs["1.1"]
    assert job.doom is not None
    assert job.doom.kind is Kind.WALLTIME
    assert "its walltime was to end in 60 s, so it was drained" in job.reason
    retire = next(one for one in world.log if isinstance(one, c.RetireWorkers))
    assert (retire.id, retire.seconds, retire.patience) == ("1.1", pytest.approx(60, abs=1), retire.seconds)
    assert world.states()["2.1"] == "queued"


def test_the_replacement_is_queued_as_early_as_the_queue_is_long() -> None:
    world = a_world(wait=200.0)
    world.pass_time(700)
    assert list(world.states()) == ["1.1"]
    world.pass_time(45)  # 1000 - 60 - 200
    assert world.states() == {"1.1": "up", "2.1": "queued"}
    world.batch.start("2.1")
    world.join("2.1")
    world.pass_time(100)
    assert world.states()["1.1"] == "up", "it works until it is drained"
    assert not any(isinstance(one, c.Cancel | c.RetireWorkers) for one in world.log)


def test_no_job_is_replaced_before_half_of_its_life() -> None:
    world = a_world(wait=5000.0)
    world.pass_time(490)
    assert list(world.states()) == ["1.1"]
    world.pass_time(20)
    assert list(world.states()) == ["1.1", "2.1"]


def test_a_smaller_wish_lets_expiring_jobs_go_too() -> None:
    world = a_world(wait=200.0)
    world.pass_time(760)
    world.scale(0)
    world.pass_time(30)
    assert set(world.states().values()) == {"ended"}


def test_a_job_that_ends_by_its_walltime_is_no_failure() -> None:
    """Jobs that live a second less than it takes to prove them: still none is blamed."""
    world = World(Limits(), walltime=None)
    world.scale(2)
    world.run()
    for _ in range(20):
        for job_id in world.batch.queued():
            world.batch.start(job_id)
            world.join(job_id)
            world.do(world.ledger.on_job_ends(job_id, 9.0, "", world.now))
        world.pass_time(12)
    assert not world.failures
    assert world.ledger.book.live_count() == 2


def test_a_signal_near_the_end_is_about_the_end() -> None:
    world = a_world()
    world.pass_time(900)
    world.do(world.ledger.on_job_ends("1.1", 0.0, "SIGUSR1", world.now))
    assert world.ledger.jobs["1.1"].doom.kind is Kind.WALLTIME  # type: ignore[union-attr]


def test_a_signal_out_of_the_blue_is_somebody_elses_wish() -> None:
    world = a_world()
    world.pass_time(100)
    world.do(world.ledger.on_job_ends("1.1", 0.0, "SIGUSR2", world.now))
    job = world.ledger.jobs["1.1"]
    assert job.state is State.DRAINING
    assert job.doom is not None
    assert job.doom.kind is Kind.OUTSIDE
    world.pass_time(30)
    assert "told it to end (SIGUSR2)" in job.reason
    assert world.ledger.book.live_count() == 1


def test_a_job_that_is_put_back_has_a_new_life() -> None:
    world = a_world(wait=200.0)
    world.pass_time(760)
    job = world.ledger.jobs["1.1"]
    assert job.is_expiring
    world.drop_workers("1.1")
    world.batch.jobs["1.1"].state, world.batch.jobs["1.1"].started = world.batch.jobs["2.1"].state, None
    world.pass_time(30)
    assert not job.is_expiring
    assert world.ledger.book.live_count() == 1, "one of the two was retired"
