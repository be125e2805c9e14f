"""A ledger that follows decisions keeps no wish of its own, and its back-off has the last word."""

from __future__ import annotations

from random import Random

import pytest

from hpclaunch.jobs import commands as c
from hpclaunch.jobs.following import FollowingLedger
from tests.jobs.world import TERMS, World


class Following(World):
    """A world whose ledger follows."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger: FollowingLedger = FollowingLedger(TERMS, Random(1))

    def adapt(self, submit: int = 0, release: tuple[str, ...] = ()) -> None:
        self.do(self.ledger.on_adapted(submit, release, "so it was decided", self.now))
        self.run()


@pytest.fixture
def world() -> Following:
    return Following()


def test_what_is_decided_is_submitted_once(world: Following) -> None:
    world.adapt(submit=3)
    assert world.batch.submissions == [["1.1", "1.2", "1.3"]]
    world.pass_time(100.0)
    assert len(world.batch.submissions) == 1
    assert world.ledger.wish == 3
    world.adapt()
    assert len(world.batch.submissions) == 1


def test_a_job_that_ends_is_not_replaced_unless_it_is_decided(world: Following) -> None:
    world.adapt(submit=2)
    world.start_all()
    world.pass_time(20.0)
    world.batch.end("1.1", reason="walltime reached")
    world.leave("1.1")
    world.pass_time(5.0)
    assert world.live_ids() == ["1.2"]
    assert world.ledger.wish == 1
    world.adapt(submit=1)
    assert world.live_ids() == ["1.2", "2.1"]


def test_what_is_let_go_is_what_was_named(world: Following) -> None:
    world.adapt(submit=3)
    world.batch.start("1.2")
    world.join("1.2")
    world.adapt(release=("1.1", "1.2", "9.9"))
    world.pass_time(5.0)
    assert world.live_ids() == ["1.3"]
    assert world.reason("1.1") == "not wanted any more (so it was decided)"
    assert [one.id for one in world.log if isinstance(one, c.RetireWorkers)] == ["1.2"]
    world.adapt(release=("1.1",))
    assert world.live_ids() == ["1.3"], "again is no error"


def test_a_refused_submission_is_not_repeated_behind_the_policy(world: Following) -> None:
    world.batch.submit_error = "over quota"
    world.adapt(submit=2)
    world.batch.submit_error = ""
    world.pass_time(100.0)
    assert not world.batch.submissions
    assert world.ledger.wish == 0
    assert world.ledger.refusal_text.endswith("over quota")
    world.adapt(submit=2)
    assert len(world.batch.submissions) == 1
    assert not world.ledger.refusal_text


def test_back_off_holds_a_decision_and_lets_it_go_when_its_time_has_come(world: Following) -> None:
    world.adapt(submit=1)
    world.batch.start("1.1")
    world.batch.end("1.1", 1)
    world.pass_time(0.5)
    assert world.states() == {"1.1": "ended"}
    world.adapt(submit=1)
    assert len(world.batch.submissions) == 1, "it is too early"
    world.pass_time(3.0)
    assert world.batch.submissions == [["1.1"], ["2.1"]]


def test_a_held_decision_is_replaced_by_the_next(world: Following) -> None:
    world.adapt(submit=1)
    world.batch.start("1.1")
    world.batch.end("1.1", 1)
    world.pass_time(0.5)
    world.adapt(submit=5)
    world.adapt(submit=0)
    world.pass_time(30.0)
    assert len(world.batch.submissions) == 1, "the work has gone meanwhile"


def test_nothing_is_submitted_while_a_failure_stands(world: Following) -> None:
    for _ in range(200):
        world.adapt(submit=1 if not world.batch.queued() else 0)
        for job_id in world.batch.queued():
            world.batch.start(job_id)
            world.batch.end(job_id, 1)
        world.pass_time(1.0)
    assert len(world.batch.submissions) == 3
    assert len(world.failures) == 1


def test_scale_goes_back_to_a_wish_that_is_kept(world: Following) -> None:
    world.adapt(submit=3)
    world.scale(2)
    world.run()
    assert len(world.live_ids()) == 2
    world.batch.end(world.live_ids()[0], reason="cancelled by qdel")
    world.pass_time(10.0)
    assert len(world.live_ids()) == 2


def test_all_runs_are_added_up(world: Following) -> None:
    """Also that before a job was put back: it is paid for twice."""
    world.adapt(submit=1)
    world.batch.start("1.1")
    world.join("1.1")
    world.pass_time(100.0)
    world.drop_workers("1.1")
    world.batch.put_back("1.1")
    world.pass_time(15.0)
    assert world.states() == {"1.1": "queued"}
    used = world.ledger.jobs["1.1"].used_seconds(world.now)
    assert 100.0 <= used < 120.0
    assert world.ledger.lifecycle.ended_seconds == 0.0
    world.batch.start("1.1")
    world.join("1.1")
    world.pass_time(50.0)
    world.batch.end("1.1", reason="walltime reached")
    world.leave("1.1")
    world.pass_time(5.0)
    assert used + 50.0 <= world.ledger.lifecycle.ended_seconds < used + 60.0
