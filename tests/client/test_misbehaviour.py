"""Tasks and workers that misbehave: each has a clear outcome, and nothing hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hpclaunch.client.client import Client
from hpclaunch.errors import ActorError, KilledWorkerError
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import request
from tests.comm.minihead import MiniCluster
from tests.worker.test_supervisor import children

Make = Callable[..., tuple[MiniCluster, Client]]


def test_a_crash_in_native_code_shows_the_python_lines_that_led_to_it(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1)
    with pytest.raises(KilledWorkerError) as caught:
        client.submit(work.read_nowhere).result(20)
    text = str(caught.value)
    assert text.count("killed by signal 11 (SIGSEGV)") == 4
    assert "1.log ends with:" in text
    assert "in read_nowhere" in text


@pytest.mark.slow
def test_a_crash_in_an_actor_shows_its_lines_and_what_to_do(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1)
    actor = client.submit(work.Crashing, actor=True, key="mine").result(20)
    with pytest.raises(ActorError) as caught:
        actor.read_nowhere().result(20)
    first, *printed = str(caught.value).splitlines()
    assert first.startswith(
        "actor mine (Crashing) was lost with its worker 1.1-0: its process was killed by signal 11"
    )
    assert first.endswith("submit(..., actor=True, restarts=N) re-creates it, from its arguments")
    assert "1.log ends with:" in printed[0]
    assert "in read_nowhere" in str(printed)


@pytest.mark.slow
def test_one_of_hundreds_that_ends_its_process_fails_alone(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1, processes=2)
    futures = client.map(work.leave_if, range(400), which=77, retries=1)
    error = futures[77].exception(60)
    assert type(error) is KilledWorkerError
    assert "4 workers died while they ran task" in str(error)
    assert str(error).count("job 1.1, host") == 4
    del futures[77]
    assert client.gather(futures) == [x for x in range(400) if x != 77]


@pytest.mark.slow
def test_a_task_of_a_task_that_ends_its_process_is_the_outer_ones_error(own_cluster: Make) -> None:
    """Also where both run on one worker, so that the outer one begins again each time."""
    _, client = own_cluster(jobs=1)
    with pytest.raises(KilledWorkerError) as caught:
        client.submit(work.leave_in_a_task, 3, key="outer").result(300)
    assert "21 workers died while they ran task outer" in str(caught.value)
    assert ", where it waited for other tasks" in str(caught.value)
    assert client.submit(work.inc, 1).result(20) == 2


@pytest.mark.slow
def test_only_what_ran_is_blamed_for_the_loss_of_its_worker(own_cluster: Make, tmp_path: Path) -> None:
    _, client = own_cluster(jobs=1)
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    running = client.submit(work.note_and_wait, str(notes), str(gate), "done")
    queued = client.map(work.wait_for, [str(gate)] * 3)
    until(lambda: work.times_called(notes) == 1)
    os.kill(int(notes.read_text().split()[0]), signal.SIGKILL)
    until(lambda: work.times_called(notes) == 2)
    blames = request(client, "blame")
    assert [blame for blame, _ in blames] == ["worker"]
    gate.touch()
    assert running.result(20) == "done"
    client.gather(queued)


@pytest.mark.slow
def test_a_task_that_holds_the_interpreters_lock_is_no_dead_worker(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1, heartbeat=0.05, silence=0.5)
    assert client.submit(work.hold_the_gil, 1.0).result(20) == "held"
    assert client.scheduler_info()["left"] == []


@pytest.mark.slow
@pytest.mark.parametrize("what", ["the worker", "the whole job"])
def test_what_a_frozen_worker_ran_runs_elsewhere_and_its_late_answer_does_no_harm(
    own_cluster: Make, tmp_path: Path, what: str
) -> None:
    cluster, client = own_cluster(jobs=2, heartbeat=0.05, silence=0.4)
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    future = client.submit(work.note_and_wait, str(notes), str(gate), "done")
    until(lambda: work.times_called(notes) == 1)
    pid = int(notes.read_text().split()[0])
    job = next(job for job in cluster.jobs if pid in children(job.pid))
    frozen = [pid, job.pid] if what == "the whole job" else [pid]
    for one in frozen:
        os.kill(one, signal.SIGSTOP)
    try:
        until(lambda: work.times_called(notes) == 2, "running elsewhere")
        left = str(client.scheduler_info()["left"])
        assert ("stopped (SIGSTOP?)" if what == "the worker" else "nothing was heard of it") in left
        gate.touch()
        assert future.result(20) == "done"
        assert client.gather(client.map(work.inc, range(100))) == list(range(1, 101))
    finally:
        for one in reversed(frozen):
            os.kill(one, signal.SIGCONT)
    client.wait_for_workers(2, 20)  # it makes way for a new process
    assert future.result(20) == "done"
    assert client.gather(client.map(work.inc, range(100))) == list(range(1, 101))
    request(client, "check")


@pytest.mark.slow
def test_a_frozen_worker_is_said_to_be_silent(own_cluster: Make, tmp_path: Path) -> None:
    _, client = own_cluster(jobs=1, heartbeat=0.05)
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    running = client.submit(work.note_and_wait, str(notes), str(gate), "done")
    until(lambda: work.times_called(notes) == 1)
    pid = int(notes.read_text().split()[0])
    waiting = client.submit(work.inc, 1, workers="1.1-0")
    assert "silent" not in client.why(running)
    os.kill(pid, signal.SIGSTOP)
    try:
        said = until(lambda: "is silent" in client.why(running) and client.why(running), "saying so")
        assert "worker 1.1-0 is silent: its process has been stopped (SIGSTOP, or a debugger) for " in said
        assert "is silent" in client.why(waiting)
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: "silent" not in client.why(running), "its waking up")
    gate.touch()
    assert client.gather([running, waiting]) == ["done", 2]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1000, 1_000_000], ids=["of Python", "of the C stack"])
def test_an_endless_recursion(own_cluster: Make, limit: int) -> None:
    _, client = own_cluster(jobs=1)
    future = client.submit(work.recurse, limit)
    error = future.exception(30)
    assert isinstance(error, RecursionError | KilledWorkerError)
    assert client.submit(work.inc, 1).result(20) == 2


@pytest.mark.slow
def test_a_result_of_two_gigabytes(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=2)
    size = 2_200_000_000
    future = client.submit(work.big_array, size)
    other = client.submit(work.array_size, future)
    assert other.result(120) == size
    value = future.result(120)
    assert len(value) == size
    assert value[-1] == 1
