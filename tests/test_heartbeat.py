"""Whether a head lives, by its beats, its process and its addresses: not gone while one of them speaks for it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import heartbeat, rundir

from .testbed.beds import wait_until

BEAT = 0.1
LONG = 3 * BEAT


@pytest.fixture
def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def listener() -> Iterator[str]:
    """An address that accepts connections and never answers: a head that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def facts(free_port: str) -> dict[str, Any]:
    """What a head has said that ran on another host and is gone."""
    return {"host": "another-host", "pid": 1, "process_start": "0", "addresses": [free_port], "beat_seconds": BEAT}


def test_a_head_that_is_gone(facts: dict[str, Any]) -> None:
    assert heartbeat.has_died(facts, LONG)


def test_a_head_that_has_beaten_lately_lives_though_no_address_answers(facts: dict[str, Any]) -> None:
    assert not heartbeat.has_died(facts, LONG - BEAT / 10)  # the network may be split


def test_a_head_that_is_stopped_lives(facts: dict[str, Any], listener: str) -> None:
    facts["addresses"].append(listener)
    assert not heartbeat.has_died(facts, 1000)


def test_a_head_lives_whose_process_is_there(facts: dict[str, Any]) -> None:
    process = {"pid": os.getpid(), "process_start": rundir.process_start(os.getpid())}
    assert not heartbeat.has_died(facts | process | {"host": socket.gethostname()}, 1000)
    assert heartbeat.has_died(facts | process, 1000)  # on another host, the number is another process's
    later = {"pid": os.getpid(), "process_start": "17", "host": socket.gethostname()}
    assert heartbeat.has_died(facts | later, 1000)


def test_a_head_that_does_not_say_how_often_it_beats_is_never_taken_as_gone(facts: dict[str, Any]) -> None:
    del facts["beat_seconds"]
    assert not heartbeat.has_died(facts, 1000)


@pytest.mark.parametrize("timeout", [0.5, 5, 60, 3600])
def test_enough_beats_fit_into_the_time_that_workers_wait(timeout: float) -> None:
    assert 0 < heartbeat.STILL_BEATS * heartbeat.beat_seconds(timeout) <= max(timeout, 1)


def test_beats_are_seen_until_they_stop(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text("{}")
    os.utime(path, (1, 1))
    observer = heartbeat.Observer(tmp_path)
    assert observer.look() == 0
    heart = heartbeat.Heart(path, 0.01)
    wait_until(lambda: path.stat().st_mtime > 1, "a beat")
    assert observer.look() == 0
    heart.stop()
    wait_until(lambda: observer.look() > 0.05, "the beats to stop")


def test_a_file_that_is_gone_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{}")
    observer = heartbeat.Observer(tmp_path)
    observer.look()
    (tmp_path / "cluster.json").unlink()
    assert observer.look() == 0


@pytest.fixture
def cluster(tmp_path: Path, facts: dict[str, Any]) -> Callable[[str], rundir.ClusterFacts]:
    def make(name: str) -> rundir.ClusterFacts:
        path = tmp_path / name / "cluster.json"
        path.parent.mkdir()
        path.write_text("{}")
        os.utime(path, (1, 1))
        return rundir.ClusterFacts(path.parent, facts, None)

    return make


def test_dead_heads_of_other_hosts_are_told_from_live_ones(cluster: Callable[[str], rundir.ClusterFacts]) -> None:
    dead, slow_clock, young = cluster("dead"), cluster("slow-clock"), cluster("young")
    os.utime(young.directory / "cluster.json")
    slow_file = slow_clock.directory / "cluster.json"
    beats = f"for i in $(seq 100); do touch -d @$i {slow_file}; sleep 0.02; done"  # its clock is decades behind
    with subprocess.Popen(["bash", "-c", beats]) as process:
        try:
            assert heartbeat.find_dead([dead, slow_clock, young]) == [dead]
        finally:
            process.kill()
