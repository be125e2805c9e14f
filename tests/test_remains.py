"""What the last worker of a dead head removes, and when it leaves that to others."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import remains, rundir

DEAD = {"host": "another-host", "pid": 1, "process_start": "0", "owner_pid": 1, "owner_start": "0"}


class Run:
    """A run directory whose head is gone."""

    def __init__(self, base: Path, **facts: Any) -> None:
        self.facts = {"id": "x", "name": "x", "addresses": []} | DEAD | facts
        self.directory = rundir.create(rundir.choose(base, "x"), is_listed=False)
        for name in ("ca.pem", "head.pem", "client.pem", "worker.pem", "job.sh"):
            rundir.write_file(self.directory / name, b"")
        rundir.write_file(self.directory / "cluster.json", json.dumps(self.facts).encode())

    def journal(self, *lines: dict[str, list[str]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.directory / "jobs" / "ledger.jsonl").write_text(text)

    def ticket(self, job: str, kind: str, group: str = "", at: int = 100) -> None:
        path = rundir.tickets_path(self.directory, group) / f"{job}.{kind}"
        path.write_text("x")
        os.utime(path, (at, at))

    def leave(self, job: str) -> None:
        remains.on_head_gone(self.directory, self.facts, job)

    @property
    def keys(self) -> list[str]:
        return [path.name for path in self.directory.glob("*.pem")]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_the_only_worker_removes_the_directory(run: Run) -> None:
    run.journal({"submitted": ["1.1"]})
    run.ticket("1.1", "start")
    run.leave("1.1")
    assert not run.directory.exists()


def test_the_first_removes_the_keys_and_the_last_the_directory(run: Run) -> None:
    run.journal({"submitted": ["1.1", "1.2"]})
    run.ticket("1.1", "start")
    run.ticket("1.2", "start")
    run.leave("1.1")
    assert run.directory.exists()
    assert run.keys == []
    run.ticket("1.1", "fail")
    run.leave("1.2")
    assert not run.directory.exists()


def test_two_that_leave_at_once_both_find_that_they_are_the_last(run: Run) -> None:
    run.journal({"submitted": ["1.1", "1.2"]})
    for job in ("1.1", "1.2"):
        run.ticket(job, "start")
        run.ticket(job, "fail")
    run.leave("1.1")
    run.leave("1.2")
    assert not run.directory.exists()


def test_jobs_that_may_still_wait_keep_what_cancels_them(run: Run) -> None:
    run.journal({"submitted": ["1.1", "1.2"]})
    run.ticket("1.1", "start")
    run.leave("1.1")
    assert run.keys == []
    assert (run.directory / "job.sh").exists()
    assert remains.unended_jobs(run.directory) == {"1.1", "1.2"}


def test_jobs_of_all_groups_count(run: Run) -> None:
    rundir.write_file(run.directory / "job-gpu.sh", b"")
    (run.directory / "jobs-gpu").mkdir()
    run.journal({"submitted": ["1.1"]})
    run.ticket("2.1", "start", "gpu")
    run.leave("1.1")
    assert run.directory.exists()
    run.ticket("2.1", "exit", "gpu")
    run.leave("1.1")
    assert not run.directory.exists()


def test_a_job_that_was_put_back_and_has_started_again_is_there(run: Run) -> None:
    run.ticket("1.2", "exit", at=100)
    run.ticket("1.2", "start", at=200)
    run.leave("1.1")
    assert run.directory.exists()


def test_the_files_of_a_cluster_that_was_to_stay_are_kept_without_its_keys(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", owner_pid=0)
    run.leave("1.1")
    assert run.keys == []
    assert (run.directory / "cluster.json").exists()


def test_an_owner_who_lives_sees_to_the_files_himself(tmp_path: Path) -> None:
    own = {
        "owner_pid": os.getpid(),
        "owner_start": rundir.process_start(os.getpid()),
        "host": socket.gethostname(),
    }
    run = Run(tmp_path / "run", **own)
    run.leave("1.1")
    assert run.keys == []
    assert run.directory.exists()


def test_every_host_believes_that_a_head_is_gone(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", owner_pid=0)
    (one,) = rundir.all_clusters(tmp_path / "run")
    assert one.is_alive is None
    run.leave("1.1")
    (one,) = rundir.all_clusters(tmp_path / "run")
    assert one.is_alive is False
