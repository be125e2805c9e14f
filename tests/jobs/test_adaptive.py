"""What adaptive scaling decides, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hpclaunch.jobs.adaptive import OVERTIME_SECONDS, Adaptive, Decision, Facts, JobFact, Policy, Shape
from hpclaunch.jobs.job import State

Q, S, U, D, N = State.QUEUED, State.STARTING, State.UP, State.DRAINING, State.SUBMITTING
SHAPE = Shape(threads=2, cores=2, walltime=3600.0)


def job(number: int, state: State, **known: Any) -> JobFact:
    return JobFact("" if state is N else f"j{number}", state, known.pop("age", 1000.0 - number), **known)


def jobs(*states: State, **known: Any) -> list[JobFact]:
    return [job(number, state, **known) for number, state in enumerate(states, 1)]


def adaptive(**policy: Any) -> Adaptive:
    return Adaptive(Policy(**policy), SHAPE)


def facts(some: Sequence[JobFact] = (), *, tasks: int = 0, seconds: float = 0.0, **rest: Any) -> Facts:
    return Facts(some, seconds, tasks, **rest)


def after(one: Adaptive, what: Facts, seconds: float, start: float = 0.0) -> Decision:
    """Return what is decided when things have been as they are for so long."""
    for second in range(int(seconds)):
        one.step(what, start + second)
    return one.step(what, start + seconds)


@pytest.mark.parametrize(
    ("tasks", "seconds", "policy", "submit"),
    [
        (0, 0.0, {}, 0),
        (1, 0.001, {}, 1),  # any work is worth a job
        (100, 50.0, {}, 5),  # 10 threads with 5 s each
        (3, 900.0, {}, 2),  # no more threads than tasks
        (100, 50.0, {"target_duration": 25.0}, 1),
        (100, 50.0, {"maximum": 2}, 2),
        (0, 0.0, {"minimum": 3}, 3),
        (100, 50.0, {"minimum": 8, "maximum": 9}, 8),
    ],
)
def test_the_work_says_how_many(tasks: int, seconds: float, policy: dict[str, Any], submit: int) -> None:
    assert adaptive(**policy).step(facts(tasks=tasks, seconds=seconds), 0.0).submit == submit


def test_every_job_counts_from_its_submission_on() -> None:
    decision = adaptive().step(facts(jobs(N, Q, S, U, D, age=5.0), tasks=100, seconds=60.0), 0.0)
    assert decision.wish == 6
    assert decision.submit == 2  # what drains is not there any more


def test_nothing_is_submitted_for_work_that_will_be_done_sooner() -> None:
    one = adaptive()
    waited = jobs(U, U, age=300.0, tasks=1)
    one.step(facts(waited, tasks=4, seconds=20.0), 0.0)
    assert one.queue_wait == 300.0
    decision = one.step(facts(waited, tasks=8, seconds=400.0), 1.0)
    assert not decision.submit
    assert "done in 100 s, and the queue takes 300 s" in decision.reason
    assert one.step(facts(waited, tasks=8, seconds=4000.0), 2.0).submit == 2


def test_queued_jobs_go_only_after_a_while_and_the_youngest_first() -> None:
    one = adaptive(pending_grace=60.0)
    too_many = facts(jobs(Q, Q, Q), tasks=2, seconds=100.0)
    assert not after(one, too_many, 59).cancel
    decision = one.step(too_many, 60.0)
    assert decision.cancel == ("j3", "j2")
    assert "2 jobs fewer in the queue" in decision.reason


def test_a_moment_of_need_saves_a_place_in_the_queue() -> None:
    one = adaptive(pending_grace=60.0)
    too_many = facts(jobs(Q, Q, Q))
    after(one, too_many, 59)
    one.step(facts(jobs(Q, Q, Q), tasks=100, seconds=100.0), 59.5)
    assert not after(one, too_many, 59, start=60.0).cancel
    assert after(one, too_many, 1, start=120.0).cancel


def test_idle_jobs_go_and_those_with_tasks_or_data_stay() -> None:
    one = adaptive(idle_timeout=10.0)
    there = [job(1, U, tasks=1), job(2, U), job(3, U, held_bytes=5), job(4, U)]
    what = facts(there, tasks=1, seconds=5.0)
    assert not after(one, what, 9).retire
    decision = one.step(what, 10.0)
    assert decision.retire == ("j2", "j4")
    assert "idle for 10 s" in decision.reason


def test_idle_jobs_are_kept_for_tasks_that_wait_for_inputs() -> None:
    one = adaptive(idle_timeout=10.0)
    what = facts([job(1, U, tasks=1), job(2, U), job(3, U)], tasks=1, seconds=5.0, waiting=2)
    assert after(one, what, 10).retire == ("j3",) or one.step(what, 11.0).retire == ("j2",)
    assert len(after(one, what, 20, start=12.0).retire) == 2


def test_a_minimum_is_kept() -> None:
    one = adaptive(minimum=2, idle_timeout=1.0)
    assert len(after(one, facts(jobs(U, U, U)), 100).retire) == 1


def test_a_smaller_maximum_holds_at_once() -> None:
    there = [job(1, U, tasks=5), job(2, U), job(3, Q), job(4, U, tasks=1)]
    decision = adaptive(maximum=1).step(facts(there, tasks=100, seconds=1e4), 0.0)
    assert decision.cancel == ("j3",)
    assert decision.retire == ("j2", "j4")


def test_the_budget_sets_whole_walltimes_aside() -> None:
    each = (3600.0 + OVERTIME_SECONDS) * 2 / 3600
    one = adaptive(core_hours=5 * each)
    much = {"tasks": 1000, "seconds": 1e6}
    assert one.step(facts(**much), 0.0).submit == 5
    assert one.step(facts(jobs(Q, U, D), **much), 1.0).submit == 2
    # one job has ended and given back nearly all
    assert one.step(facts(jobs(Q, U), ended_seconds=36.0, **much), 2.0).submit == 2
    decision = one.step(facts(jobs(Q, U, U, U, U), **much), 3.0)
    assert not decision.submit
    assert "room for 0 more" in decision.reason


def test_queued_jobs_go_when_the_batch_system_has_run_others_twice() -> None:
    each = (3600.0 + OVERTIME_SECONDS) * 2 / 3600
    one = adaptive(core_hours=2 * each)
    decision = one.step(facts([job(1, Q), job(2, U, used_seconds=5000.0)], tasks=100, seconds=1e5), 0.0)
    assert decision.cancel == ("j1",)


def test_running_jobs_go_when_there_are_no_queued_ones_to_pay_for_what_ran_twice() -> None:
    each = (3600.0 + OVERTIME_SECONDS) * 2 / 3600
    one = adaptive(core_hours=2 * each)
    again = job(1, U, tasks=1, used_seconds=500.0, ends_in=3600.0)  # put back after 500 s, and started again
    decision = one.step(facts([again, job(2, U, used_seconds=100.0, ends_in=3500.0)], tasks=9, seconds=1e5), 0.0)
    assert decision.retire == ("j2",)
    assert decision.reason == "the budget is used up"
    leaving = job(2, D, used_seconds=101.0, ends_in=3499.0)
    assert not one.step(facts([again, leaving], tasks=9, seconds=1e5), 1.0).retire


def test_submissions_are_few_and_trouble_is_told() -> None:
    one = adaptive(max_submit_rate=2)
    assert [one.step(facts(tasks=9, seconds=90.0), float(t)).submit for t in range(4)] == [5, 5, 0, 0]
    assert "2 submissions a minute" in one.log[-1].reason
    assert one.step(facts(tasks=9, seconds=90.0), 61.0).submit == 5
    assert "but it rains" in one.step(facts(tasks=9, seconds=90.0, trouble="it rains"), 200.0).reason


def test_the_log_is_short_and_survives_a_new_policy() -> None:
    one = adaptive(max_submit_rate=1)
    what = facts(tasks=9, seconds=90.0)
    for second in range(50):
        one.step(what, float(second))
    assert [row.submit for row in one.log] == [5, 0]
    other = adaptive()
    other.take_over(one)
    assert [row.submit for row in other.log] == [5, 0]


FACT = st.builds(
    JobFact,
    id=st.uuids().map(str),
    state=st.sampled_from([Q, S, U, D]),
    age=st.floats(0, 1e5),
    tasks=st.integers(0, 3),
    held_bytes=st.integers(0, 1),
    used_seconds=st.floats(0, 4000),
)
FACTS = st.builds(
    Facts,
    jobs=st.lists(FACT, max_size=8),
    seconds=st.floats(0, 1e6),
    tasks=st.integers(0, 1000),
    waiting=st.integers(0, 10),
    trouble=st.sampled_from(["", "trouble"]),
    ended_seconds=st.floats(0, 4000),
)


@given(st.lists(FACTS, min_size=1, max_size=6), st.integers(0, 3), st.integers(3, 6), st.floats(1, 20))
def test_no_step_breaks_a_limit(steps: list[Facts], minimum: int, maximum: int, core_hours: float) -> None:
    one = adaptive(minimum=minimum, maximum=maximum, core_hours=core_hours, idle_timeout=1.0, pending_grace=2.0)
    for number, what in enumerate(steps):
        decision = one.step(what, number * 10.0)
        live = {job.id: job for job in what.jobs if job.state is not D}
        released = {*decision.cancel, *decision.retire}
        assert not (decision.submit and released)
        assert minimum <= decision.wish <= maximum or "done in" in decision.reason
        assert decision.submit == 0 or len(live) + decision.submit <= maximum
        assert released <= live.keys()
        assert all(live[job_id].state is Q for job_id in decision.cancel)
        if len(live) <= maximum and "budget" not in decision.reason:
            assert all(not live[job_id].tasks and not live[job_id].held_bytes for job_id in decision.retire)
            assert len(live) - len(released) >= min(len(live), decision.wish)
        each = 3600.0 + OVERTIME_SECONDS
        total = what.ended_seconds + decision.submit * each
        assert not decision.submit or total * 2 / 3600 <= core_hours + 1e-6
        assert decision.reason
        assert decision.submit < math.inf
