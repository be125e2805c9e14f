"""The head process at its beginning and its early ends: what it says, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.config.layers import load
from hpclaunch.head.launch import HeadProcess, Prepared, prepare


def prepared(owner_pid: int, **arguments: Any) -> Prepared:
    """Everything that a head needs."""
    config = load("local", {"memory": "1 GB", "cores": 1, **arguments}).job
    return prepare(config, "early", python_path=[], owner_pid=owner_pid)


def ended_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def run_unheard(command: list[str], *, is_pipe_open: bool = False) -> int:
    """Run a head whose owner has died: no process reads what it says. A fork of his may hold his pipe."""
    (hearing, saying), (holding, held) = os.pipe(), os.pipe()
    os.close(hearing)
    if not is_pipe_open:
        os.close(held)
    try:
        return subprocess.run(
            command, stdin=holding, stdout=saying, stderr=subprocess.DEVNULL, timeout=60, check=False
        ).returncode
    finally:
        for fd in (saying, holding, *([held] if is_pipe_open else ())):
            os.close(fd)


def test_without_options_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hpclaunch.head", "--directory", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.startswith(f"failed: {tmp_path / 'head.json'} can't be used")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("is_ended", [True, False], ids=["its process is gone", "its pipe is closed"])
def test_an_owner_that_dies_before_the_head_is_ready_leaves_nothing(is_ended: bool) -> None:
    ready = prepared(ended_pid() if is_ended else os.getpid())
    assert run_unheard(ready.command, is_pipe_open=is_ended) == 0
    assert not ready.directory.exists()


@pytest.mark.slow
def test_a_head_that_fails_unheard_leaves_no_keys() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ready = prepared(os.getpid(), scheduler_options={"port": taken.getsockname()[1]})
        assert run_unheard(ready.command) == 1
    assert not ready.directory.exists()


def test_it_ends_in_order_when_it_is_told_to() -> None:
    ready = prepared(os.getpid())
    head = HeadProcess(ready.command, ready.directory, attached=True)
    assert (ready.directory / "cluster.json").exists()
    os.kill(head.pid, signal.SIGTERM)
    assert head.wait(30)
    assert head.exit_code() == 0
    assert not ready.directory.exists()
