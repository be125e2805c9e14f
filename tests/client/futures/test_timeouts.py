"""Tasks that may not run for longer than their users say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hpclaunch.client.client import Client
from hpclaunch.errors import TaskTimeoutError
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import request
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]


def test_a_task_that_looks_ends_by_itself_and_its_worker_lives_on(client: Client, tmp_path: Path) -> None:
    before = client.run(work.pid)
    notes = str(tmp_path / "notes")
    future = client.submit(work.check_forever, notes, timeout="300 ms")
    told = rf"task {future.key} ran for longer than its timeout of 0.3 s on worker \S+ \(job .*\) and was ended"
    with pytest.raises(TaskTimeoutError, match=told):
        future.result(20)
    assert isinstance(future.exception(), TimeoutError)
    until(lambda: work.times_called(notes) == 1, "the task's own end")
    assert client.run(work.pid) == before


def test_what_is_in_time_is_not_touched(client: Client) -> None:
    assert client.gather(client.map(work.inc, range(50), timeout=60)) == list(range(1, 51))


@pytest.mark.slow
def test_who_holds_the_interpreter_is_ended_by_force_and_the_others_run_again(
    own_cluster: Make, tmp_path: Path
) -> None:
    cluster, client = own_cluster(jobs=1, threads=2)
    notes, gate = str(tmp_path / "notes"), tmp_path / "gate"
    innocent = client.submit(work.note_and_wait, notes, str(gate), 7)
    until(lambda: work.times_called(notes) == 1)
    stubborn = client.submit(work.hold_the_gil, 600.0, timeout=0.2)
    with pytest.raises(TaskTimeoutError):
        stubborn.result(20)
    until(lambda: work.times_called(notes) == 2, "a second process")
    gate.touch()
    assert innocent.result(10) == 7
    assert request(client, "blame") == []
    assert "did not end when its timeout was over" in cluster.logs()


@pytest.mark.slow
def test_retries_are_for_this_too(own_cluster: Make, tmp_path: Path) -> None:
    _, client = own_cluster(jobs=1)
    notes = str(tmp_path / "notes")
    future = client.submit(work.hang_once, notes, 5, timeout=1.0, retries=1)
    assert future.result(30) == 5
    assert work.times_called(notes) == 2
