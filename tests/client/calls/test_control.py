"""What a client can ask of a cluster and its workers, beside tasks."""

from __future__ import annotations

import functools
import os
import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import LocalCluster, get_client
from hpclaunch.client.client import Client
from hpclaunch.client.futures.future import Future
from hpclaunch.errors import CancelledError, LostResultError, UserError
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import request
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Where tasks note that they have begun, and the file for which they wait then."""
    notes, path = tmp_path / "notes", tmp_path / "gate"
    yield str(notes), str(path)
    path.touch()


# --- cancelling by force, and retrying


def test_a_running_task_is_ended_by_force(own_cluster: Make, gate: tuple[str, str], tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=1, threads=2)
    innocent_notes = str(tmp_path / "innocent")
    stubborn = client.submit(work.note_and_wait, gate[0], str(tmp_path / "never"))
    until(lambda: work.times_called(gate[0]) == 1)
    innocent = client.submit(work.note_and_wait, innocent_notes, gate[1], 7)
    until(lambda: work.times_called(innocent_notes) == 1)
    stubborn.cancel(force=True)
    with pytest.raises(CancelledError):
        stubborn.result(10)
    until(lambda: work.times_called(innocent_notes) == 2)  # again, in another process
    assert request(client, "blame") == []
    Path(gate[1]).touch()
    assert innocent.result(10) == 7
    assert work.times_called(gate[0]) == 1
    assert "cancelled by force" in cluster.logs()


@pytest.mark.slow
def test_force_is_for_what_runs(own_cluster: Make, gate: tuple[str, str]) -> None:
    cluster, client = own_cluster(jobs=1)
    running = client.submit(work.note_and_wait, *gate, 5)
    until(lambda: work.times_called(gate[0]) == 1)
    queued = client.submit(work.inc, 1)
    client.cancel([queued], force=True)
    until(lambda: client.scheduler_info()["ready"] == 0)
    Path(gate[1]).touch()
    assert running.result(10) == 5
    assert client.submit(work.inc, 1).result(10) == 2
    assert "cancelled by force" not in cluster.logs()


def test_retry(client: Client, tmp_path: Path) -> None:
    first = client.submit(work.Flaky(str(tmp_path / "a"), 1))
    last = client.submit(work.add, client.submit(work.add, first, 1), client.submit(work.inc, 1))
    with pytest.raises(OSError, match="not yet"):
        last.result(10)
    first.retry()
    assert first.result(10) == 2
    again = client.submit(work.Flaky(str(tmp_path / "b"), 2))
    sums = [client.submit(work.add, again, n) for n in range(2)]
    assert all(one.exception(10) for one in sums)
    client.retry(sums)  # and what they need
    assert all(one.exception(10) for one in sums)
    client.retry([*sums, again])
    assert client.gather(sums) == [3, 4]
    client.retry(sums)
    assert client.gather(sums) == [3, 4]


def test_retry_when_nobody_has_the_inputs_any_more(client: Client, tmp_path: Path) -> None:
    large = client.submit(work.big, 100_000)
    future = client.submit(work.Flaky(str(tmp_path / "a"), 1), client.submit(len, large), large)
    middle = client.submit(work.add, future, 1)
    last = client.submit(work.add, middle, 1)
    with pytest.raises(OSError, match="not yet"):
        last.result(10)
    del large, future
    until(lambda: not client.scheduler_info()["held"], "freeing of the large input")
    last.retry()
    assert last.result(10) == 4
    assert middle.result(10) == 3  # it was run once more too, and its future knows


# --- questions


def test_workers_and_what_they_do(client: Client, gate: tuple[str, str]) -> None:
    assert list(client.nthreads().values()) == [1, 1]
    assert client.ncores() == client.nthreads()
    (first, _) = client.nthreads()
    assert client.nthreads(workers=[first]) == {first: 1}
    future = client.submit(work.note_and_wait, *gate)
    until(lambda: work.times_called(gate[0]) == 1)
    assert [future.key] in client.processing().values()
    assert any("in wait_for" in line for line in client.call_stack(future)[future.key])
    assert client.call_stack([]) == {}
    Path(gate[1]).touch()
    future.result(10)
    until(lambda: client.call_stack() == {})
    assert client.has_what() == {name: [] for name in client.nthreads()}


# --- run


def test_run(client: Client, gate: tuple[str, str]) -> None:
    busy = client.map(work.note_and_wait, [gate[0]] * 2, [gate[1]] * 2)
    until(lambda: work.times_called(gate[0]) == 2)
    pids = client.run(os.getpid)  # although all threads are busy
    assert pids is not None
    assert pids.keys() == client.nthreads().keys()
    assert len(set(pids.values())) == 2
    (first, _) = pids
    assert client.run(os.getpid, workers=[first]) == {first: pids[first]}
    assert client.run(lambda x, *, y: x + y, 1, y=2) == dict.fromkeys(pids, 3)
    assert client.run(lambda dask_worker: dask_worker.name) == {name: name for name in pids}
    assert client.run(os.getpid, wait=False) is None
    Path(gate[1]).touch()
    client.gather(busy)


def test_run_what_raises(client: Client) -> None:
    with pytest.raises(ValueError, match="so it goes"):
        client.run(work.fail, "so it goes")
    errors = client.run(work.fail, on_error="return")
    assert errors is not None
    assert [type(error) for error in errors.values()] == [ValueError, ValueError]
    assert client.run(work.fail, on_error="ignore") == {}
    with pytest.raises(ValueError, match="on_error"):
        client.run(work.fail, on_error="panic")
    with pytest.raises(TypeError, match="run takes no futures"):
        client.run(work.inc, client.submit(work.inc, 1))


@pytest.mark.slow
def test_run_on_a_worker_that_dies_of_it(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1)
    with pytest.raises(Exception, match="has gone before it answered"):
        client.run(work.leave, 3)


def test_nothing_runs_in_the_head(client: Client) -> None:
    with pytest.raises(UserError, match="the head never unpickles or runs"):
        client.run_on_scheduler(os.getpid)


# --- restart


@pytest.mark.slow
def test_restart(own_cluster: Make, gate: tuple[str, str]) -> None:
    cluster, client = own_cluster(jobs=2)
    with Client(cluster.directory) as other:
        done = client.submit(work.big, 100_000)
        done.result(10)
        busy = client.map(work.note_and_wait, [gate[0]] * 4, [gate[1]] * 4)
        theirs = other.submit(work.note_and_wait, *gate)
        until(lambda: work.times_called(gate[0]) == 2)
        before = client.run(os.getpid)
        assert client.restart() is client
        after = client.run(os.getpid)
        assert before is not None
        assert after is not None
        assert not set(before.values()) & set(after.values())
        assert len(after) == 2
        for future in (*busy, theirs):
            with pytest.raises(CancelledError):
                future.result(10)
        with pytest.raises(LostResultError):
            done.result(10)
        assert client.submit(work.inc, 1).result(10) == 2
        assert client.scheduler_info()["tasks"] == 0


def test_a_task_may_not_restart(client: Client) -> None:
    with pytest.raises(UserError, match="owner only"):
        client.submit(lambda: get_client().restart() and None).result(10)


def test_threads_of_this_process_cannot_be_restarted() -> None:
    with LocalCluster(n_workers=1, processes=False) as cluster, Client(cluster) as client:
        with pytest.raises(UserError, match="can't be restarted"):
            client.restart()
        assert client.submit(work.inc, 1).result(10) == 2


# --- upload_file


def use(module: str) -> Any:
    return __import__(module).VALUE


@pytest.mark.slow
def test_upload_file(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=1)
    path = tmp_path / "uploaded_module.py"
    path.write_text("VALUE = 1\n")
    client.upload_file(path)
    assert client.submit(use, "uploaded_module").result(10) == 1
    path.write_text("VALUE = 23\n")
    client.upload_file(str(path))
    assert client.submit(use, "uploaded_module").result(10) == 23
    cluster.start_job()
    client.wait_for_workers(2, 10)
    assert client.run(use, "uploaded_module") == dict.fromkeys(client.nthreads(), 23)


def test_upload_a_zip_file(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("zipped_package/__init__.py", "VALUE = 5\n")
    client.upload_file(path)
    assert client.submit(use, "zipped_package").result(10) == 5


def test_upload_what_cannot_be_imported(client: Client, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"upload_file takes \.py"):
        client.upload_file(tmp_path / "data.csv")
    bad = tmp_path / "bad_module.py"
    bad.write_text("VALUE = 1\n")
    client.upload_file(bad)
    client.run(use, "bad_module")
    bad.write_text("1 / 0\n")
    with pytest.raises(UserError, match=r"can't be loaded on 2 workers.*ZeroDivisionError"):
        client.upload_file(bad)


def test_questions_from_many_threads(client: Client) -> None:
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(client.run(os.getpid))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(answers) == 8
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_cancelled_key_can_be_used_again_at_once(client: Client, tmp_path: Path, is_kept: bool) -> None:
    for i in range(10):
        gate = str(tmp_path / f"gate{i}")
        first = client.submit(work.wait_for, gate, "first", key=f"again{i}")
        kept = [first] if is_kept else []
        if i % 2:
            until(functools.partial(client.call_stack, keys=[f"again{i}"]), "the start")
        first.cancel()
        assert first.cancelled()
        del first
        second = client.submit(work.inc, i, key=f"again{i}")
        Path(gate).touch()
        assert second.result(20) == i + 1
        assert all(future.cancelled() for future in kept)
        del kept, second


@pytest.mark.slow
def test_a_key_that_was_cancelled_by_force_can_be_used_again_at_once(own_cluster: Make, tmp_path: Path) -> None:
    _, client = own_cluster(jobs=1)
    first = client.submit(work.wait_for, str(tmp_path / "gate"), "first", key="again")
    until(functools.partial(client.call_stack, keys=["again"]), "the start")
    first.cancel(force=True)
    second = client.submit(work.inc, 1, key="again")
    assert second.result(20) == 2
    assert first.cancelled()


def test_few_keys_used_again_and_again_each_time_for_another_value(client: Client) -> None:
    rng = random.Random(1)
    held: dict[str, tuple[int, Future]] = {}
    for i in range(3000):
        key = f"stress{rng.randrange(20)}"
        if key in held:
            number, future = held.pop(key)
            if rng.random() < 0.5:
                future.cancel()
            elif rng.random() < 0.3:
                assert future.result(20) == number
            del future
        size = 100_000 if rng.random() < 0.02 else 0
        held[key] = i, client.submit(work.sized, i, size, key=key)
    for number, future in held.values():
        assert future.result(20) == number
