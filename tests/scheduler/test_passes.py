"""Who speaks for a job: the one that has the pass of its present run."""

from __future__ import annotations

import msgspec
import pytest

from hpclaunch.comm import messages as m
from hpclaunch.errors import CommClosedError, HandshakeError
from hpclaunch.scheduler.passes import Passes

OWN, OTHER, THIRD = (bytes([number]) * m.PASS_BYTES for number in (1, 2, 3))
FIRST_START, SECOND_START = (7, 1000), (7, 2000)


def hello(
    role: str = "supervisor", job: str = "1", secret: bytes = OWN, name: str = "", host: str = "a"
) -> m.Hello:
    name = name or {"supervisor": f"supervisor-{job}", "worker": f"{job}-0", "task": "a client"}[role]
    return m.Hello(m.PROTOCOL_VERSION, role, name, "c", job_id=job, secret=secret, host=host)


@pytest.fixture
def passes() -> Passes:
    """Two jobs have started, and their supervisors are there."""
    passes = Passes()
    passes.check(hello(), FIRST_START)
    passes.check(hello(job="2", secret=OTHER), FIRST_START)
    return passes


@pytest.mark.parametrize("role", ["worker", "task"])
def test_those_of_a_job_come_in(passes: Passes, role: str) -> None:
    passes.check(hello(role), None)
    passes.check(hello(role, "2", OTHER), None)


@pytest.mark.parametrize("role", ["worker", "task"])
@pytest.mark.parametrize("secret", [OTHER, THIRD, OWN[:-1], OWN + OWN, b""])
def test_those_of_another_job_or_of_none_do_not(passes: Passes, role: str, secret: bytes) -> None:
    with pytest.raises(HandshakeError, match="pass of job 1"):
        passes.check(hello(role, secret=secret), FIRST_START)


@pytest.mark.parametrize("role", ["worker", "task"])
def test_a_job_has_nobody_before_its_supervisor(role: str) -> None:
    with pytest.raises(HandshakeError, match="does not have the pass of job 1"):
        Passes().check(hello(role), FIRST_START)


def test_a_worker_has_a_name_of_its_job(passes: Passes) -> None:
    with pytest.raises(HandshakeError, match="'2-0' is no name of a worker of job 1"):
        passes.check(hello("worker", name="2-0"), None)


def test_a_supervisor_comes_back_with_its_pass(passes: Passes) -> None:
    passes.check(hello(), FIRST_START)
    passes.check(hello(), None)  # the ticket may not be seen for a moment


def test_another_supervisor_waits_for_another_start(passes: Passes) -> None:
    """It may be of a new run, whose ticket is not seen here yet; so it is not sent away for good."""
    for start in (FIRST_START, None):
        with pytest.raises(CommClosedError):
            passes.check(hello(secret=OTHER, host="b"), start)
    passes.check(hello("worker"), None)


def test_a_job_that_has_not_started_has_no_supervisor() -> None:
    passes = Passes()
    with pytest.raises(CommClosedError, match="no start ticket of job 1"):
        passes.check(hello(), None)
    passes.check(hello(), FIRST_START)


def test_a_new_run_takes_the_place_of_the_old_one(passes: Passes) -> None:
    passes.check(hello(secret=THIRD, host="b"), SECOND_START)
    passes.check(hello("worker", secret=THIRD), None)
    for role in ("supervisor", "worker", "task"):
        with pytest.raises(HandshakeError, match="was put back, and runs again on b"):
            passes.check(hello(role), SECOND_START)
    with pytest.raises(CommClosedError):
        passes.check(hello(secret=OTHER), SECOND_START)


def test_a_rank_starts_once() -> None:
    passes = Passes()
    passes.check(hello(job="rank3"), "")
    with pytest.raises(CommClosedError):
        passes.check(hello(job="rank3", secret=OTHER), "")
    passes.check(hello(job="rank3"), "")


def test_no_pass_is_kept_as_it_is(passes: Passes) -> None:
    kept = repr([vars(run) for run in passes._runs.values()])
    assert repr(OWN)[2:-1] not in kept


def test_a_pass_fits_the_greeting() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(hello()), type=m.Hello).secret == OWN
