"""What the cluster classes refuse and how, and that every start that fails and every end leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import JobQueueCluster, LocalCluster, SGECluster, rundir
from hpclaunch.errors import ConfigError, HeadError
from hpclaunch.link import session
from tests.testbed.beds import wait_until


def start(**arguments: Any) -> None:
    LocalCluster(n_workers=0, **arguments).close()


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"port": "\u00b2"}, "port must be a whole number, 0 to 65535, not '\u00b2'"),
        ({"port": 65536}, "port must be a whole number, 0 to 65535, not 65536"),
        ({"port": -1}, "port must be a whole number"),
        ({"port": True}, "port must be a whole number"),
        ({"scheduler_options": {"allowed_failures": "x"}}, "allowed_failures must be a whole number"),
        ({"scheduler_options": {"allowed_failures": -1}}, "allowed_failures must be a whole number"),
        ({"host": 5}, "host must be a text, not 5"),
        ({"host": "a..b"}, "host 'a..b' can't be resolved"),
        ({"host": "192.0.2.1"}, "host '192.0.2.1' is no address of this machine"),
        ({"name": "two\nlines"}, "name must be a text in one line"),
        ({"name": 3}, "name must be a text in one line, not 3"),
        ({"processes": 4}, "say n_workers"),
        ({"threads_per_worker": "many"}, "cores"),
        ({"memory_limit": "some"}, "memory"),
        ({"engine": "steam"}, "engine: must be one of embedded"),
    ],
)
def test_what_cannot_be_is_a_config_error_at_once(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        start(**arguments)
    assert words in str(caught.value)
    assert rundir.all_clusters() == []


def test_a_section_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"JobQueueCluster\(config_name=...\)"):
        JobQueueCluster()


def test_an_attribute_of_other_classes_has_a_hint() -> None:
    with pytest.raises(ConfigError, match="memory"):
        SGECluster(cores=1)
    with LocalCluster(n_workers=0, processes=False) as cluster:
        with pytest.raises(AttributeError, match=r"it is logs\(\) here"):
            cluster.get_logs()
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = cluster.nothing


@pytest.mark.parametrize("size", [{}, {"n": 1, "jobs": 1}, {"n": -1}, {"jobs": 1.5}, {"n": True}, {"cores": "x"}])
def test_a_size_is_one_whole_number(size: dict[str, Any]) -> None:
    with LocalCluster(n_workers=0, processes=False) as cluster, pytest.raises(ValueError, match="scale"):
        cluster.scale(**size)


# --- starts that fail


def fail(body: str, tmp_path: Path, **environment: str) -> str:
    """Run a program that tries to make a cluster; return the one line that it prints."""
    program = f"""
        import os, resource, sys
        from hpclaunch import LocalCluster
        from hpclaunch.errors import ConfigError
        try:
            {body}
            LocalCluster(n_workers=0).close()
        except ConfigError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    return line


@pytest.mark.slow
def test_without_a_current_directory(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    line = fail("os.chdir('gone'); os.rmdir(os.getcwd())", tmp_path)
    assert line.startswith("the current directory, from which jobs are submitted, is not there any more")


def test_without_a_home_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = fail("pass", tmp_path, HOME=str(tmp_path / "file"))
    assert "the cluster's files can't be put into" in line
    assert "shared-temp-directory" in line


@pytest.mark.slow
def test_without_room_for_the_files(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    line = fail("resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))", tmp_path, HPCLAUNCH_RUN_DIRECTORY=str(runs))
    assert f"the cluster's files can't be written into {runs}: file too large" in line
    assert list(runs.iterdir()) == []


# --- ends


@pytest.mark.slow
def test_a_frozen_head_is_told_of_killed_and_swept_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = LocalCluster(n_workers=1)
    cluster.wait_for_workers(1, timeout=60)
    monkeypatch.setattr(session, "SILENCE_SECONDS", 0.3)
    os.kill(cluster._head.pid, signal.SIGSTOP)
    with pytest.raises(HeadError, match=r"process \d+ here\) does not answer: it has said nothing for 0\.6 s"):
        cluster.jobs()
    with pytest.warns(UserWarning, match="it is killed, its jobs are cancelled"):
        cluster.close()
    assert not cluster.directory.exists()
    wait_until(lambda: cluster._head.exit_code() == -signal.SIGKILL, "the head to be gone")


@pytest.mark.slow
def test_of_two_threads_that_close_both_wait_for_the_end() -> None:
    cluster = LocalCluster(n_workers=1)
    left: list[bool] = []

    def close() -> None:
        cluster.close()
        left.append(cluster.directory.exists())

    threads = [threading.Thread(target=close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert left == [False, False]


# --- in this process


def test_several_threads_may_change_the_size_at_once() -> None:
    with LocalCluster(n_workers=0, processes=False) as cluster:
        sizes = [3, 1, 4, 2] * 3
        threads = [threading.Thread(target=cluster.scale, args=(n,)) for n in sizes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        cluster.scale(3)
        assert len(cluster.jobs()) == 3
        wait_until(lambda: len(cluster.workers()) == 3, "three workers")
    with pytest.raises(HeadError, match="is closed"), warnings.catch_warnings():
        cluster.scale(1)
