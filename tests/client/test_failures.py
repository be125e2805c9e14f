"""Workers, jobs and heads that die while there is work: what is run again, what is blamed, what a user reads."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.client.client import Client
from hpclaunch.client.futures.waiting import as_completed
from hpclaunch.errors import CommClosedError, KilledWorkerError
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import request
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]


def test_what_a_killed_worker_ran_and_had_is_run_again(own_cluster: Make, tmp_path: Path) -> None:
    _, client = own_cluster(jobs=2)
    notes = str(tmp_path / "notes")
    future = client.submit(work.die_once, notes, 7)
    others = client.map(work.inc, range(500))
    assert future.result(20) == 7
    assert work.times_called(notes) == 2
    assert client.gather(others) == list(range(1, 501))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "argument", "words"),
    [
        (
            work.die,
            signal.SIGKILL,
            "killed by signal 9 (SIGKILL); often that is the operating system or the batch",
        ),
        (work.die, signal.SIGSEGV, "killed by signal 11 (SIGSEGV)"),
        (work.leave, 0, "ended with exit code 0"),
    ],
    ids=["SIGKILL", "SIGSEGV", "exit 0"],
)
def test_a_task_that_kills_its_worker_again_and_again(
    own_cluster: Make, function: Callable[..., Any], argument: int, words: str
) -> None:
    cluster, client = own_cluster(jobs=1)
    innocent = client.map(work.inc, range(20))
    future = client.submit(function, argument, key="deadly")
    with pytest.raises(KilledWorkerError) as caught:
        future.result(20)
    text = str(caught.value)
    assert "4 workers died while they ran task deadly" in text
    assert text.count(words) == 4
    assert "while it ran deadly; its memory had peaked at " in text
    assert f"(worker 1.1-0, job 1.1, host {socket.gethostname()})" in text
    assert "worker 1.1-0.2, job 1.1" in text
    assert type(future.exception()) is KilledWorkerError
    assert client.gather(innocent) == list(range(1, 21))
    assert client.submit(work.inc, 1).result(20) == 2  # and the job lives
    assert cluster.jobs[0].poll() is None


@pytest.mark.slow
def test_workers_that_somebody_kills_are_hardly_held_against_their_tasks(
    own_cluster: Make, tmp_path: Path
) -> None:
    """More of them than a task may lose otherwise; those that use up their memory count as before."""
    _, client = own_cluster(jobs=1, memory_limit=4_000_000_000)
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    future = client.submit(work.note_and_wait, str(notes), str(gate), 5)
    for count in range(1, 7):
        until(lambda count=count: work.times_called(notes) == count)
        os.kill(int(notes.read_text().split()[-1]), signal.SIGKILL)
    until(lambda: work.times_called(notes) == 7)
    blames = request(client, "blame")
    assert [blame for blame, _ in blames] == ["others"] * 6
    assert "killed by signal 9 (SIGKILL) from outside: it had used little memory" in blames[0][1]
    gate.touch()
    assert future.result(20) == 5


@pytest.mark.slow
def test_a_lost_job_is_not_held_against_its_tasks_at_once(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=1)
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    future = client.submit(work.note_and_wait, str(notes), str(gate), 5)
    until(lambda: work.times_called(notes) == 1)
    os.killpg(cluster.jobs[0].pid, signal.SIGKILL)
    cluster.jobs[0].wait()
    cluster.start_job()
    until(lambda: work.times_called(notes) == 2)
    blames = request(client, "blame")
    assert [blame for blame, _ in blames] == ["job"]
    assert "was lost with its job" in blames[0][1]
    gate.touch()
    assert future.result(20) == 5


@pytest.mark.slow
def test_a_job_that_the_batch_system_ends_is_nobodys_fault(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=1, processes=2)
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    futures = client.map(work.note_and_wait, [str(notes)] * 4, [str(gate)] * 4, range(4))
    until(lambda: work.times_called(notes) == 2)
    cluster.jobs[0].terminate()
    assert cluster.jobs[0].wait(10) == 128 + signal.SIGTERM
    until(lambda: not client.scheduler_info()["workers"])
    assert request(client, "blame") == []
    left = client.scheduler_info()["left"]
    assert len(left) == 2
    assert all("the batch system or the user ended the job (SIGTERM)" in line for line in left)
    gate.touch()
    cluster.start_job()
    assert client.gather(futures) == list(range(4))


@pytest.mark.slow
def test_tasks_wait_for_the_first_worker(own_cluster: Make) -> None:
    cluster, client = own_cluster(jobs=0)
    futures = client.map(work.inc, range(100))
    with pytest.raises(TimeoutError):
        futures[0].result(0.05)
    cluster.start_job()
    assert client.gather(futures) == list(range(1, 101))


@pytest.mark.slow
def test_a_worker_that_is_retired_ends_its_tasks_first(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=2)
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    futures = client.map(work.note_and_wait, [str(notes)] * 6, [str(gate)] * 6, range(6))
    until(lambda: work.times_called(notes) == 2)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        retiring = pool.submit(request, client, "retire", job="1.1", drain=True)
        gate.touch()
        assert client.gather(futures) == list(range(6))
        assert retiring.result(20) == ["2.1-0"]
    assert cluster.jobs[0].wait(10) == 0
    assert request(client, "blame") == []
    assert work.times_called(notes) == 6  # none was run twice


@pytest.mark.slow
def test_work_goes_on_while_workers_die_and_come(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=2, processes=2)
    futures = client.map(work.inc, range(20_000))
    for _ in range(5):
        pid = client.submit(work.pid).result(20)
        os.kill(pid, signal.SIGKILL)
    assert client.gather(futures) == list(range(1, 20_001))


# --- the head


@pytest.mark.slow
def test_without_a_head_pending_futures_are_errors_and_the_rest_is_here(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=1, death_timeout=0.3)
    ended = client.submit(work.inc, 1)
    assert ended.result(10) == 2
    gate = tmp_path / "gate"
    pending = client.map(work.wait_for, [str(gate)] * 5)
    called: list[Any] = []
    pending[0].add_done_callback(called.append)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = [
            pool.submit(pending[0].result),
            pool.submit(client.gather, pending),
            pool.submit(list, as_completed(pending, with_results=True)),
        ]
        cluster.head.kill()
        for one in waiting:
            with pytest.raises(CommClosedError, match="the connection to the head ended"):
                one.result(10)
    until(lambda: called == [pending[0]])
    assert {f.status for f in pending} == {"lost"}
    with pytest.raises(CommClosedError, match=f"task {pending[1].key} has no result"):
        pending[1].result()
    with pytest.raises(CommClosedError, match="the connection to the head ended"):
        client.submit(work.inc, 1)
    assert ended.result() == 2
    assert "closed" in repr(client)
    gate.touch()


@pytest.mark.slow
def test_the_heads_last_words_reach_the_user(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=1)
    pending = client.submit(work.wait_for, str(tmp_path / "gate"))
    assert cluster.head.stdin is not None
    cluster.head.stdin.close()
    with pytest.raises(CommClosedError, match="the test is over"):
        pending.result(10)
    assert cluster.jobs[0].wait(10) == 0
    assert "ends: the test is over" in cluster.logs()
