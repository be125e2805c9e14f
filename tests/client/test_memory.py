"""Workers with little memory: results go to disk and back, workers pause, and processes are ended."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hpclaunch.client.client import Client
from hpclaunch.errors import KilledWorkerError
from tests.client import work
from tests.client.conftest import until
from tests.comm.minihead import MiniCluster
from tests.worker.test_supervisor import children

Make = Callable[..., tuple[MiniCluster, Client]]
MB = 1_000_000


def spilled(tmp: Path) -> list[Path]:
    return [path for path in tmp.glob("hpclaunch-spill-*/*") if path.name.isdigit()]


@pytest.mark.slow
def test_results_beyond_target_go_to_disk_and_come_back(own_cluster: Make, tmp_path: Path) -> None:
    tmp = tmp_path / "scratch"
    cluster, client = own_cluster(jobs=2, memory={"target": 0.1}, memory_limit=100 * MB, tmp=tmp)
    made = client.map(work.big, [4 * MB] * 10, range(10))
    until(lambda: len(spilled(tmp)) >= 4, "writing")
    assert client.gather(client.map(work.length, made)) == [4 * MB] * 10  # local tasks, and peers
    assert [value[0] for value in client.gather(made)] == list(range(10))  # clients
    del made
    until(lambda: not spilled(tmp), "deleting")
    pid = client.submit(work.pid).result(10)
    kept = client.map(work.big, [4 * MB] * 10, range(10))
    until(lambda: spilled(tmp), "writing again")
    os.kill(pid, signal.SIGKILL)  # what it had on disk is made again
    assert [value[0] for value in client.gather(kept)] == list(range(10))
    client.close()
    cluster.close()
    assert list(tmp.glob("*")) == []


def test_a_file_that_somebody_removed_is_made_again(own_cluster: Make, tmp_path: Path) -> None:
    tmp = tmp_path / "scratch"
    _, client = own_cluster(jobs=1, memory={"target": 0.01}, memory_limit=100 * MB, tmp=tmp)
    made = client.map(work.big, [2 * MB] * 3, range(3))
    until(lambda: len(spilled(tmp)) >= 2, "writing")
    for path in spilled(tmp):
        path.unlink()
    assert client.gather(client.map(work.length, made)) == [2 * MB] * 3
    for path in spilled(tmp):
        path.unlink()
    assert [value[0] for value in client.gather(made)] == [0, 1, 2]


@pytest.mark.slow
def test_a_paused_worker_gets_no_tasks_until_there_is_room(own_cluster: Make, tmp_path: Path) -> None:
    limits = {"pause": 0.5}
    cluster, client = own_cluster(jobs=1, memory=limits, memory_limit=200 * MB, tmp=tmp_path / "scratch")
    large = client.submit(work.big, 120 * MB)
    until(lambda: "pauses: the process has" in cluster.head_log(), "the pause")
    others = client.map(work.inc, range(100))
    with pytest.raises(TimeoutError):
        others[0].result(0.3)
    del large
    assert client.gather(others) == list(range(1, 101))
    assert "takes tasks again" in cluster.head_log()


@pytest.mark.slow
def test_a_full_disk_keeps_results_in_memory(own_cluster: Make, tmp_path: Path) -> None:
    tmp = tmp_path / "scratch"
    memory = {"target": 0.05, "spill": 0.9, "max_spill": 5 * MB}
    cluster, client = own_cluster(jobs=1, memory=memory, memory_limit=200 * MB, tmp=tmp)
    made = client.map(work.big, [4 * MB] * 5, range(5))
    until(lambda: "they can't be written to disk: max-spill allows 5 MB" in cluster.logs(), "saying so")
    assert len(spilled(tmp)) == 1
    assert [value[0] for value in client.gather(made)] == list(range(5))


@pytest.mark.slow
def test_a_large_process_writes_its_results(own_cluster: Make, tmp_path: Path) -> None:
    tmp = tmp_path / "scratch"
    _, client = own_cluster(jobs=1, memory={"spill": 0.5}, memory_limit=200 * MB, tmp=tmp)
    made = client.map(work.big, [2 * MB] * 3, range(3))
    assert [value[0] for value in client.gather(made)] == [0, 1, 2]
    assert spilled(tmp) == []  # the results alone are no reason
    client.submit(work.take_ballast, 120 * MB).result(10)
    until(lambda: len(spilled(tmp)) == 3, "writing")
    assert [value[0] for value in client.gather(made)] == [0, 1, 2]


@pytest.mark.slow
def test_a_large_process_pauses_until_it_is_smaller(own_cluster: Make) -> None:
    cluster, client = own_cluster(jobs=1, memory={"pause": 0.5}, memory_limit=200 * MB)
    client.submit(work.take_ballast, 120 * MB).result(10)
    until(lambda: "pauses: the process has" in cluster.head_log(), "the pause")
    waiting = client.submit(work.inc, 1)
    with pytest.raises(TimeoutError):
        waiting.result(0.3)
    client.run(work.drop_ballast)
    assert waiting.result(20) == 2


@pytest.mark.slow
def test_levels_that_are_off_do_nothing(own_cluster: Make, tmp_path: Path) -> None:
    tmp = tmp_path / "scratch"
    levels = dict.fromkeys(("target", "spill", "pause", "terminate"), False)
    cluster, client = own_cluster(jobs=1, memory=levels, memory_limit=100 * MB, tmp=tmp)
    pid = client.submit(work.pid, pure=False).result(10)
    made = client.map(work.big, [4 * MB] * 30)
    client.submit(work.take_ballast, 200 * MB).result(10)
    before = client.scheduler_info()["rss"]
    until(lambda: client.scheduler_info()["rss"] != before, "another look at it")
    assert client.gather(client.map(work.length, made)) == [4 * MB] * 30
    assert client.submit(work.pid, pure=False).result(10) == pid
    assert spilled(tmp) == []
    assert "pauses" not in cluster.head_log()


@pytest.mark.slow
def test_a_task_that_takes_too_much_again_and_again_is_named(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=1, memory={"terminate": 0.9}, memory_limit=200 * MB)
    future = client.submit(work.swell, 400 * MB, key="greedy")
    with pytest.raises(KilledWorkerError) as caught:
        future.result(60)
    text = str(caught.value)
    assert "4 workers died while they ran task greedy" in text
    assert text.count("more than 90% (terminate) of its 200 MB while it ran greedy; its memory had peaked at") == 4
    assert f"{cluster.directory}/1.log ends with:" in text
    assert "| greedy is about to swell" in text
    assert "Give each job more memory: memory= (200 MB now), or split the task into smaller ones." in text
    assert client.submit(work.inc, 1).result(20) == 2


def limit_address_space(cluster: MiniCluster, more: int) -> None:
    """Let a job's processes have so many bytes more than its worker has now, as Grid Engine's h_vmem would."""
    supervisor = cluster.jobs[0].pid
    (worker,) = children(supervisor)
    has = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    for pid in (supervisor, worker):
        resource.prlimit(pid, resource.RLIMIT_AS, (has + more, has + more))


@pytest.mark.slow
@pytest.mark.parametrize("piece", [100 * MB, 1_000_000, 1000])
def test_a_task_that_gets_no_more_memory_is_told_the_limit(own_cluster: Make, piece: int) -> None:
    cluster, client = own_cluster(jobs=1)
    client.submit(work.inc, 1).result(10)  # its thread is there, with all that it needs
    limit_address_space(cluster, 100 * MB)
    for _ in range(2):
        error = client.submit(work.fill, piece, pure=False).exception(60)
        assert type(error) is MemoryError
        assert "worker 1.1-0 (job 1.1, host " in str(error)
        assert "MB of virtual memory, which the batch system has set (RLIMIT_AS; h_vmem on Grid Engine)" in str(
            error
        )
        assert "Ask for more per job: memory=" in str(error)
    assert client.gather(client.map(work.inc, range(100))) == list(range(1, 101))


@pytest.mark.slow
def test_a_worker_that_has_no_memory_left_for_itself_ends(own_cluster: Make) -> None:
    cluster, client = own_cluster(jobs=1)
    limit_address_space(cluster, 400 * MB)
    error = client.submit(work.drop_a_hog, key="hog").exception(60)
    assert type(error) is KilledWorkerError
    text = str(error)
    assert text.count("its process ended because a task had taken all the memory that it may have (") == 4
    assert text.count("MB of virtual memory) while it ran hog; its memory had peaked at") == 4
    assert "| about to drop it" in text
    assert "Give each job more memory: memory=, and resource_spec= if that names h_vmem" in text
    assert client.submit(work.inc, 1).result(20) == 2


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_said_and_tried_again(own_cluster: Make, tmp_path: Path) -> None:
    tmp = tmp_path / "scratch"
    memory = {"target": 0.05, "spill": 0.9}
    cluster, client = own_cluster(jobs=1, memory=memory, memory_limit=200 * MB, tmp=tmp)
    (worker,) = children(cluster.jobs[0].pid)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (3 * MB, resource.RLIM_INFINITY))
    made = client.map(work.big, [4 * MB] * 5, range(5))
    until(lambda: "they can't be written to disk: file too large" in cluster.logs(), "saying so")
    assert spilled(tmp) == []
    assert [value[0] for value in client.gather(made)] == list(range(5))
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    until(lambda: len(spilled(tmp)) >= 3, "writing after all", seconds=30)
    assert [value[0] for value in client.gather(made)] == list(range(5))
    assert client.gather(client.map(work.length, made)) == [4 * MB] * 5
