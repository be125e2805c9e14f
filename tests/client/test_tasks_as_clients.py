"""Tasks that use their cluster themselves: they submit more tasks and wait for them, whatever the threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import as_completed, get_client, get_task, get_worker, rejoin, secede, worker_client
from hpclaunch.client.client import Client
from hpclaunch.errors import CancelledError, UserError
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import request
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]


def fib(n: int) -> int:
    if n < 2:
        return n
    client = get_client()
    a, b = client.submit(fib, n - 1), client.submit(fib, n - 2)
    return int(a.result()) + int(b.result())


def fib_of_worker_client(n: int) -> int:
    if n < 2:
        return n
    with worker_client() as client:
        return sum(client.gather(client.map(fib_of_worker_client, [n - 1, n - 2])))


def test_tasks_wait_for_tasks_that_wait_for_tasks(client: Client) -> None:
    assert client.submit(fib, 9).result(30) == 34  # 109 tasks, on two threads


def test_worker_client(client: Client) -> None:
    assert client.submit(fib_of_worker_client, 7).result(30) == 13


@pytest.mark.slow
def test_no_more_tasks_run_at_once_than_there_are_threads(own_cluster: Make, tmp_path: Path) -> None:
    _, client = own_cluster(jobs=1)
    log = tmp_path / "log"

    def child(i: int) -> int:
        with log.open("a") as file:
            file.write("+")
        threading.Event().wait(0.01)
        with log.open("a") as file:
            file.write("-")
        return i

    def parent(i: int) -> int:
        client = get_client()
        total = sum(client.gather([client.submit(child, i), client.submit(child, i)]))
        return total + child(0)

    assert client.gather(client.map(parent, range(8))) == [2 * i for i in range(8)]
    assert log.read_text() == "+-" * 24


@pytest.mark.slow
def test_all_tasks_of_a_worker_share_a_client(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1)
    names = client.gather(client.map(lambda _: get_client().name, range(5)))
    assert len(set(names)) == 1
    assert client.scheduler_info()["clients"] == 2


def test_a_task_uses_results_of_its_own_tasks(client: Client) -> None:
    def parent() -> int:
        client = get_client()
        return int(client.submit(work.length, client.submit(work.big, 1_000_000)).result())

    assert client.submit(parent).result(10) == 1_000_000


def test_a_task_takes_results_as_they_come(client: Client) -> None:
    def parent() -> int:
        return sum(future.result() for future in as_completed(get_client().map(work.inc, range(20))))

    assert client.gather(client.map(lambda _: parent(), range(4))) == [210] * 4


def test_an_error_of_a_task_of_a_task(client: Client) -> None:
    def parent() -> None:
        get_client().submit(work.fail, "deep down").result()

    with pytest.raises(ValueError, match="deep down"):
        client.submit(parent).result(10)


def test_a_task_may_not_rule_the_cluster(client: Client) -> None:
    def ask(method: str) -> Any:
        own = get_client()
        return request(own, method, job="1.1", drain=False)

    for method in ("retire", "close", "scale"):
        with pytest.raises(UserError, match="can be asked by the cluster's owner only"):
            client.submit(ask, method).result(10)
    assert client.submit(lambda: get_client().scheduler_info()["workers"]).result(10)


def test_the_client_of_another_place(cluster: MiniCluster, client: Client) -> None:
    assert get_client() is client
    with Client(cluster.directory, set_as_default=False) as other:
        assert get_client() is client
        with other.as_current() as current:
            assert get_client() is current is other
        assert get_client() is client
    client.close()
    with pytest.raises(ValueError, match="there is no client here"):
        get_client()


def test_who_a_task_is(client: Client) -> None:
    def who() -> tuple[str, bool, str, int]:
        worker = get_worker()
        worker.calls = getattr(worker, "calls", 0) + 1  # type: ignore[attr-defined]
        return get_task().key, get_task().is_cancelled, worker.name, worker.threads

    key, is_cancelled, name, threads = client.submit(who, key="me").result(10)
    assert (key, is_cancelled, threads) == ("me", False, 1)
    assert name in client.scheduler_info()["workers"]


@pytest.mark.parametrize("ask", [get_task, get_worker, secede, rejoin, worker_client().__enter__])
def test_outside_of_tasks(ask: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="inside a task only"):
        ask()


@pytest.mark.slow
def test_secede_and_rejoin(own_cluster: Make, tmp_path: Path) -> None:
    _, client = own_cluster(jobs=1)
    gate, notes = str(tmp_path / "gate"), str(tmp_path / "notes")

    def aside() -> int:
        secede()
        secede()  # twice is as good as once
        work.note_and_wait(notes, gate)
        rejoin()
        rejoin()
        return os.getpid()

    waiting = client.submit(aside)
    until(lambda: work.times_called(notes))
    assert client.gather(client.map(work.inc, range(50))) == list(range(1, 51))
    assert not waiting.done()
    Path(gate).touch()
    assert waiting.result(10) == client.submit(work.pid).result(10)


@pytest.mark.slow
def test_a_task_that_secedes_and_never_comes_back(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1)
    for _ in range(3):
        assert client.gather(client.map(lambda x: secede() or x, range(20))) == list(range(20))
    assert client.gather(client.map(work.inc, range(50))) == list(range(1, 51))


def test_a_task_sees_that_it_is_cancelled(client: Client, tmp_path: Path) -> None:
    started, ended = str(tmp_path / "started"), str(tmp_path / "ended")

    def loop() -> None:
        work.note(started)
        while not get_task().is_cancelled:
            threading.Event().wait(0.002)
        work.note(ended)
        get_task().check()

    future = client.submit(loop)
    until(lambda: work.times_called(started))
    future.cancel()
    until(lambda: work.times_called(ended))
    with pytest.raises(CancelledError):
        future.result(10)


def test_a_task_that_waits_sees_that_it_is_not_wanted(client: Client, tmp_path: Path) -> None:
    notes, gate, ended = str(tmp_path / "notes"), str(tmp_path / "gate"), str(tmp_path / "ended")

    def parent() -> None:
        try:
            get_client().submit(work.note_and_wait, notes, gate).result()
        except CancelledError:
            work.note(ended)

    future = client.submit(parent)
    until(lambda: work.times_called(notes))
    del future
    until(lambda: work.times_called(ended))
    Path(gate).touch()


def test_workers_in_this_process() -> None:
    from hpclaunch import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False) as cluster, Client(cluster) as client:
        assert client.submit(fib, 6).result(30) == 8
        assert client.submit(lambda: get_client().name).result(10) != client.name
        assert get_client() is client
