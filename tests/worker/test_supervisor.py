"""The supervisor with real processes: how they start, what happens when they end, and when the head does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import trusted
from hpclaunch.client.client import Client
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import core_of, request, request_soon
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Make]:
    started: list[tuple[MiniCluster, Client]] = []

    def make(*, jobs: int = 1, processes: int = 1, **options: Any) -> tuple[MiniCluster, Client]:
        cluster = MiniCluster(tmp_path / f"cluster{len(started)}", jobs=jobs, processes=processes, **options)
        client = Client(cluster.directory)
        started.append((cluster, client))
        client.wait_for_workers(jobs * processes, 10)
        return cluster, client

    yield make
    for cluster, client in started:
        client.close()
        cluster.close()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers_of(client: Client) -> list[str]:
    return sorted(client.scheduler_info()["workers"])


def test_processes_and_threads(start: Make, tmp_path: Path) -> None:
    cluster, client = start(processes=2, threads=2)
    assert workers_of(client) == ["1.1-0", "1.1-1"]
    assert client.scheduler_info()["threads"] == [2, 2]
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    futures = client.map(work.note_and_wait, [str(notes)] * 4, [str(gate)] * 4)
    until(lambda: work.times_called(notes) == 4)  # all at once
    assert len(set(notes.read_text().split())) == 2
    assert sorted(set(map(int, notes.read_text().split()))) == sorted(children(cluster.jobs[0].pid))
    gate.touch()
    client.gather(futures)


@pytest.mark.slow
def test_heartbeats_tell_of_workers_also_while_a_task_holds_the_gil(start: Make) -> None:
    _, client = start()
    until(lambda: all(rss > 1e6 for rss in client.scheduler_info()["rss"]))


@pytest.mark.slow
def test_a_killed_worker_is_replaced(start: Make) -> None:
    cluster, client = start(processes=2)
    first, second = children(cluster.jobs[0].pid)
    os.kill(first, signal.SIGKILL)
    until(lambda: workers_of(client) == ["1.1-0.2", "1.1-1"])
    assert second in children(cluster.jobs[0].pid)
    assert "worker 1.1-0: its process was killed by signal 9 (SIGKILL)" in cluster.logs()
    (left,) = client.scheduler_info()["left"]
    assert "killed by signal 9 (SIGKILL)" in left
    assert "its memory had peaked at" in left
    assert "while it ran" not in left


@pytest.mark.slow
def test_workers_that_die_again_and_again_without_a_task_end_the_job(start: Make) -> None:
    cluster, client = start()
    for i in range(2, 5):
        os.kill(children(cluster.jobs[0].pid)[0], signal.SIGKILL)
        until(lambda i=i: workers_of(client) == [f"1.1-0.{i}"])
    os.kill(children(cluster.jobs[0].pid)[0], signal.SIGKILL)
    assert cluster.jobs[0].wait(10) == 1
    reason = (cluster.directory / "jobs" / "1.1.fail").read_text()
    assert reason.startswith(
        "4 workers in a row ended right after their start; its process was killed by signal 9"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_job_with_a_goodbye(start: Make, number: signal.Signals, tmp_path: Path) -> None:
    cluster, client = start(processes=2)
    notes = tmp_path / "notes"
    futures = client.map(work.note_and_wait, [str(notes)] * 2, [str(tmp_path / "gate")] * 2)
    until(lambda: work.times_called(notes) == 2)
    job = cluster.jobs[0]
    pids = children(job.pid)
    job.send_signal(number)
    assert job.wait(10) == 128 + number
    until(lambda: not any(map(is_alive, pids)))
    until(lambda: not workers_of(client))
    assert f"ended the job ({number.name})" in str(client.scheduler_info()["left"])
    assert not (cluster.directory / "jobs" / "1.1.fail").exists()
    del futures


@pytest.mark.slow
def test_workers_do_not_outlive_their_supervisor(start: Make) -> None:
    cluster, client = start(processes=2)
    pids = children(cluster.jobs[0].pid)
    assert len(pids) == 2
    cluster.jobs[0].kill()
    until(lambda: not any(map(is_alive, pids)))
    until(lambda: not workers_of(client))


@pytest.mark.slow
def test_the_head_can_end_a_job_at_once(start: Make, tmp_path: Path) -> None:
    cluster, client = start(processes=2)
    notes = tmp_path / "notes"
    futures = client.map(work.note_and_wait, [str(notes)] * 2, [str(tmp_path / "gate")] * 2)
    until(lambda: work.times_called(notes) == 2)
    request(client, "retire", job="1.1", drain=False)
    assert cluster.jobs[0].wait(10) == 0
    assert "ends: the test says so" in cluster.logs()
    until(lambda: not workers_of(client))
    del futures


@pytest.mark.slow
def test_draining_ends_a_job_when_all_its_workers_are_done(start: Make, tmp_path: Path) -> None:
    cluster, client = start(processes=2, threads=2)
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    futures = client.map(work.note_and_wait, [str(notes)] * 3, [str(gate)] * 3, range(3))
    until(lambda: work.times_called(notes) == 3)
    request_soon(client, "retire", job="1.1", drain=True)
    gate.touch()
    assert client.gather(futures) == [0, 1, 2]
    assert cluster.jobs[0].wait(10) == 0
    assert "ends: the test says so" in cluster.logs()


@pytest.mark.slow
def test_a_draining_job_still_ends_by_a_signal(start: Make, tmp_path: Path) -> None:
    cluster, client = start()
    notes = tmp_path / "notes"
    future = client.submit(work.note_and_wait, str(notes), str(tmp_path / "gate"))
    until(lambda: work.times_called(notes))
    request_soon(client, "retire", job="1.1", drain=True)
    until(lambda: client.scheduler_info())  # the head has heard it, and has told the job before it answers this
    cluster.jobs[0].terminate()
    assert cluster.jobs[0].wait(10) == 128 + signal.SIGTERM
    assert future.status == "pending"


# --- without a head


def fail_file(cluster: MiniCluster, job: str = "1.1") -> str:
    return (cluster.directory / "jobs" / f"{job}.fail").read_text()


@pytest.mark.slow
def test_a_lost_head_is_looked_for_until_the_death_timeout(start: Make, tmp_path: Path) -> None:
    cluster, client = start(processes=2, death_timeout=0.3)
    pids = children(cluster.jobs[0].pid)
    address = core_of(client).link.session.address
    cluster.head.kill()
    assert cluster.jobs[0].wait(10) == 1
    assert not any(map(is_alive, pids))
    assert "trying to reach the head again" in cluster.logs()
    assert fail_file(cluster).startswith("the worker could not reach the head from ")
    assert f"within 0.3 s (tried {address}: no connection to {address}: " in fail_file(cluster)


@pytest.mark.slow
def test_a_head_that_was_never_there(start: Make) -> None:
    cluster, _ = start(jobs=0, death_timeout=0.3)
    cluster.head.kill()
    cluster.head.wait()
    job = cluster.start_job()
    assert job.wait(10) == 1
    assert "could not reach the head" in fail_file(cluster)
    assert "could not reach the head" in cluster.logs()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["at first", "later"])
def test_a_signal_ends_the_search_for_the_head(start: Make, when: str) -> None:
    cluster, client = start(jobs=1 if when == "later" else 0, death_timeout=600)
    cluster.head.kill()
    cluster.head.wait()
    job = cluster.jobs[0] if when == "later" else cluster.start_job()
    if when == "later":
        until(lambda: "trying to reach the head again" in cluster.logs())
        until(lambda: not children(job.pid))
    else:
        until(lambda: _handles_sigterm(job.pid))
    job.terminate()
    assert job.wait(10) == 128 + signal.SIGTERM
    client.close()


def _handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
def test_a_head_that_is_silent_is_taken_as_gone(start: Make) -> None:
    """Its host may have died, which closes no connection."""
    cluster, _ = start(jobs=0, death_timeout=0.5)
    code = (
        "import sys; from hpclaunch.worker import __main__, supervisor; supervisor.SILENCE_SECONDS = 0.1;"
        "supervisor._DIAL_SECONDS = 0.2;"
        "supervisor.Supervisor._on_connected_really = supervisor.Supervisor._on_connected;"
        "supervisor.Supervisor._on_connected = lambda s, a, w: "
        "(s._on_connected_really(a, w), setattr(s, '_heartbeat_seconds', 0.05))[0];"
        "sys.exit(__main__.main(sys.argv[1:]))"
    )
    argv = ["--directory", str(cluster.directory), "--job", "9.1", "--death-timeout", "0.3"]
    with (cluster.directory / "9.log").open("wb") as log:
        job = subprocess.Popen([sys.executable, "-c", code, *argv], stdout=log, stderr=log)
    try:
        until(lambda: "reached the head" in cluster.logs())
        cluster.head.send_signal(signal.SIGSTOP)
        assert job.wait(20) == 1
        assert "nothing was heard of the head for" in cluster.logs()
        assert "could not reach the head" in fail_file(cluster, "9.1")
    finally:
        cluster.head.send_signal(signal.SIGCONT)
        job.kill()
        job.wait()


@pytest.mark.slow
def test_a_job_that_is_not_wanted_any_more_ends_at_once(start: Make) -> None:
    cluster, client = start()
    request(client, "retire", job="2.1", drain=False)
    job = cluster.start_job()  # it is number 2
    assert job.wait(10) == 1
    assert "sent us away: job 2.1 is to end: the test says so" in fail_file(cluster, "2.1")


def test_a_run_directory_that_the_node_does_not_see(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "hpclaunch.worker", "--directory", str(tmp_path / "gone"), "--job", "1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "must be on a file system that login and compute nodes share" in done.stderr
    assert "Traceback" not in done.stderr


def run_worker(directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a job's program to its end, with little patience for a head that does not answer."""
    argv = [sys.executable, "-m", "hpclaunch.worker", "--directory", str(directory), "--job", "1"]
    return subprocess.run([*argv, "--death-timeout", "0.1", *more], capture_output=True, text=True, timeout=30)


@pytest.fixture
def foreign_head() -> Iterator[tuple[str, list[bytes]]]:
    """A port that takes any peer's word, and what was sent to it."""
    heard: list[bytes] = []

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = server.accept()
                sock.settimeout(1)
                with sock, contextlib.suppress(OSError):
                    heard.append(sock.recv(100))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", heard
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.mark.parametrize("how", ["owner", "mode", "security"])
def test_a_run_directory_that_another_has_put_there_is_not_believed(
    tmp_path: Path, foreign_head: tuple[str, list[bytes]], how: str
) -> None:
    """The worker would dial another user's head in plain TCP, and run what that sends it."""
    address, heard = foreign_head
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    facts = {"id": "c-1", "name": "c", "addresses": [address], "security": False}
    trusted.write_file(directory / "cluster.json", json.dumps(facts).encode())
    if how == "owner":
        if os.geteuid():
            pytest.skip("only root can give a directory to another user")
        os.chown(directory, 54321, -1)
    elif how == "mode":
        directory.chmod(0o777)
    more = ["--no-security"] if how != "security" else []
    done = run_worker(directory, *more)
    words = {"owner": "belongs to user 54321", "mode": "chmod go-rwx", "security": "contradicts the job script"}
    assert (done.returncode, words[how] in done.stderr, "Traceback" in done.stderr) == (1, True, False), (
        done.stderr
    )
    assert heard == []
    if how == "security":  # what the job script says is done
        run_worker(directory, "--no-security")
        assert b"supervisor" in b"".join(heard)


@pytest.mark.slow
def test_a_local_directory_that_cannot_be_made(start: Make, tmp_path: Path) -> None:
    cluster, _ = start(jobs=0)
    (tmp_path / "file").touch()
    argv = [sys.executable, "-m", "hpclaunch.worker", "--directory", str(cluster.directory), "--job", "1"]
    done = subprocess.run(
        [*argv, "--local-directory", str(tmp_path / "file" / "x")], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert f"local-directory can't be made: not a directory: {tmp_path}/file/x" in done.stderr


@pytest.mark.slow
def test_a_worker_imports_only_what_it_needs(start: Make) -> None:
    _, client = start()
    modules = client.submit(eval, "sorted(__import__('sys').modules)").result(10)
    for heavy in (
        "numpy",
        "dask",
        "rich",
        "jinja2",
        "yaml",
        "cryptography",
        "aiohttp",
        "click",
        "hpclaunch.client",
    ):
        assert heavy not in modules
