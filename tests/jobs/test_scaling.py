"""How many to submit, and which to retire."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hpclaunch.jobs.job import LIVE, Job, State
from hpclaunch.jobs.scaling import Decision, decide

Q, S, U, D, E, N = State.QUEUED, State.STARTING, State.UP, State.DRAINING, State.ENDED, State.SUBMITTING


def jobs(*states: State) -> list[Job]:
    made = []
    for number, state in enumerate(states, 1):
        job = Job(number, 1, 0.0, id="" if state is N else f"j{number}", state=state)
        job.workers = {"w"} if state is U else set()
        made.append(job)
    return made


@pytest.mark.parametrize(
    ("wish", "states", "submit"),
    [(3, (), 3), (3, (N, Q, U), 0), (3, (Q, D, E), 2), (0, (E, D), 0), (2, (S, N), 0)],
)
def test_missing_jobs_are_submitted(wish: int, states: tuple[State, ...], submit: int) -> None:
    assert decide(wish, jobs(*states), 0.0).submit == submit


@pytest.mark.parametrize(
    ("wish", "states", "cancel", "retire"),
    [
        (1, (Q, Q, Q), ("j3", "j2"), ()),  # the youngest queued first
        (1, (U, Q, S), ("j2", "j3"), ()),  # queued before started
        (1, (U, S, U), ("j2",), ("j3",)),  # started before up, then the youngest
        (0, (N, N), (), ()),  # they have no name yet
        (2, (N, N, Q), ("j3",), ()),
        (0, (D, E), (), ()),
    ],
)
def test_surplus_is_let_go(wish: int, states: tuple[State, ...], cancel: tuple[str], retire: tuple[str]) -> None:
    decision = decide(wish, jobs(*states), 0.0)
    assert (decision.submit, decision.cancel, decision.retire) == (0, cancel, retire)


def test_running_jobs_go_in_the_order_of_the_engine() -> None:
    decision = decide(1, jobs(U, U, U), 0.0, idle=["j2", "j1", "j3"])
    assert decision.retire == ("j2", "j1")


def test_a_job_whose_workers_are_all_gone_is_the_cheapest_of_the_running() -> None:
    some = jobs(U, U)
    some[0].workers.clear()
    assert decide(1, some, 0.0, idle=["j2"]).cancel == ("j1",)


def test_backoff_holds_a_submission_but_no_cancellation() -> None:
    assert decide(2, jobs(Q), 5.0, not_before=7.0) == Decision(
        wait_until=7.0, reason="1 jobs missing, back-off holds"
    )
    assert decide(0, jobs(Q), 5.0, not_before=7.0).cancel == ("j1",)


def test_nothing_is_submitted_once_stopped() -> None:
    assert decide(2, jobs(), 0.0, is_stopped=True) == Decision()


@given(st.integers(0, 6), st.lists(st.sampled_from(list(State)), max_size=8))
def test_the_answer_leads_to_the_wish(wish: int, states: list[State]) -> None:
    some = jobs(*states)
    decision = decide(wish, some, 0.0)
    gone = {*decision.cancel, *decision.retire}
    left = sum(job.state in LIVE and job.id not in gone for job in some) + decision.submit
    assert left == max(wish, states.count(N))
    assert not (decision.submit and gone)
