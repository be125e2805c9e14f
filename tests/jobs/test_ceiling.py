"""A limit on the number of jobs: what fits is kept, more is tried later, and nothing ends for it."""

from __future__ import annotations

from random import Random

from hpclaunch.jobs import commands as c
from hpclaunch.jobs.adaptive import Adaptive, Facts, JobFact, Policy, Shape
from hpclaunch.jobs.ceiling import Ceiling
from hpclaunch.jobs.job import State
from tests.jobs.world import World


def limited(world: World, taken: int, *, wish: int | None = None) -> int:
    """Answer the one submission under way: so many were taken; return how many were asked for."""
    ((_, command),) = [each for each in world.pending if isinstance(each[1], c.Submit)]
    assert isinstance(command, c.Submit)
    world.pending[:] = [each for each in world.pending if each[1] is not command]
    ids = world.batch.submit(taken) if taken else []
    ledger = world.ledger
    world.do(ledger.on_limit_reached(command.ticket, ids, "MaxSubmitJobs", "no\n  | words", world.now, wish=wish))
    return command.jobs


def test_what_was_taken_is_kept_and_the_wish_stands() -> None:
    world = World()
    world.scale(8)
    assert limited(world, 2) == 8
    assert world.live_ids() == ["1.1", "1.2"]
    assert world.ledger.wish == 8
    (note,) = world.ledger.notes()
    assert note.startswith("6 more jobs are wanted: Grid Engine takes no more than 2 jobs now (MaxSubmitJobs is")
    assert not world.failures


def test_a_job_that_ends_makes_room_for_one() -> None:
    world = World()
    world.scale(8)
    limited(world, 2)
    world.batch.start("1.1")
    world.join("1.1")
    before = world.count(c.Submit)
    world.do(world.ledger.on_clock(world.now))
    assert world.count(c.Submit) == before
    assert world.ledger.ceiling.room(2, 6, world.now) == 0
    assert world.ledger.ceiling.room(1, 7, world.now) == 1


def test_the_rest_is_taken_when_the_limit_has_risen() -> None:
    world = World()
    world.scale(8)
    limited(world, 2)
    world.pass_time(6.0)
    assert len(world.live_ids()) == 8
    assert world.ledger.notes() == []


def test_no_refusal_ends_a_cluster_that_has_jobs() -> None:
    world = World()
    world.scale(2)
    limited(world, 1)
    world.batch.submit_error = "anything"
    world.pass_time(3600.0)
    assert not world.failures
    assert world.live_ids() == ["1.1"]
    assert world.count(c.Submit) < 40


def test_no_job_at_all_is_a_refusal() -> None:
    world = World()
    world.scale(2)
    limited(world, 0, wish=0)
    assert world.ledger.wish == 0
    assert world.ledger.ceiling.jobs is None


def test_pauses_grow_up_to_a_cap_and_a_success_forgets_them() -> None:
    ceiling = Ceiling(Random(1), jitter=0.0)
    waits = []
    for _ in range(9):
        ceiling.on_refused(2, "x", 100.0)
        waits.append(ceiling.try_at - 100.0)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    ceiling.on_taken(2)
    assert ceiling.jobs == 2
    ceiling.on_taken(3)
    assert ceiling.jobs is None


def test_adaptive_scaling_says_a_limit_once() -> None:
    adaptive = Adaptive(Policy(maximum=8, max_submit_rate=1000.0), Shape(1, 1, None))
    jobs = [JobFact(f"1.{i}", State.UP, 10.0, tasks=1, used_seconds=1.0) for i in (1, 2)]
    facts = Facts(jobs, seconds=1000.0, tasks=100, trouble="it takes no more than 2 jobs", is_retry=True)
    submitted = []
    for step in range(40):
        now = facts._replace(trouble="") if step % 10 == 9 else facts
        submitted.append(adaptive.step(now, float(step)).submit)
    assert len(adaptive.log) == 1
    assert "no more than 2 jobs" in adaptive.log[0].reason
    assert submitted.count(6) == 4
