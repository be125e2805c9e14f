"""Clusters that stay: up, ps, jobs, logs, scale, down, clean, as a person types them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpclaunch import Client
from tests.testbed.beds import wait_until

from .conftest import Typed

Run = Callable[..., subprocess.CompletedProcess[str]]


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    program = [sys.executable, "-c", "from hpclaunch.cli.main import main; main()", *argv]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=90)


@pytest.fixture
def mine() -> Iterator[str]:
    """A cluster that stays, by its name."""
    done = command("up", "local", "--name", "mine", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "Client('mine')" in done.stdout
    yield "mine"
    command("down", "mine")


@pytest.mark.slow
def test_a_cluster_stays_until_it_is_taken_down(mine: str) -> None:
    assert re.search(r"^mine +local +\S+:\d+ \(running\)", command("ps").stdout, re.M)
    with Client(mine) as client:
        client.wait_for_workers(2, timeout=30)
        assert client.submit(sum, [1, 2]).result(10) == 3
        future = client.submit(sum, [1], resources={"GPU": 1}, key="no-gpu")
        said = client.why(future)
        assert "workers 1.1-0, 1.2-0: the task asks for GPU 1; its resources: none" in said
        assert (
            client.why("nothing")
            == "task nothing is not known: its futures were released, or it was never submitted"
        )
        assert command("why", mine, "no-gpu").stdout == said + "\n"
    assert "2 up" in command("jobs", mine).stdout
    assert "submitting" in command("jobs", mine, "--story").stdout
    assert command("why", mine, "1.2").stdout.startswith("job 1.2 is up\n  +0.0 s submitting\n")
    assert "knows no task and no job 'x'" in command("why", mine, "x").stderr
    assert "==> job 1.2 <==" in command("logs", mine).stdout
    assert command("scale", mine, "1").returncode == 0
    wait_until(lambda: "1 up" in command("jobs", mine).stdout, "one job to go")
    down = command("down", mine)
    assert (down.returncode, down.stdout) == (0, "cluster 'mine' is down; no job of it is left\n")
    assert command("ps").stdout == "no clusters\n"


def test_names_are_taken_once(mine: str) -> None:
    again = command("up", "local", "--name", mine)
    assert again.returncode == 1
    assert "runs already" in again.stderr


@pytest.mark.slow
def test_clean_removes_what_a_dead_head_has_left(mine: str) -> None:
    from hpclaunch import rundir

    (cluster,) = rundir.all_clusters()
    os.kill(cluster.facts["pid"], signal.SIGKILL)
    wait_until(lambda: "(dead)" in command("ps").stdout, "the head to be seen dead")
    assert "hpclaunch clean" in command("ps").stdout
    done = command("clean")
    assert "2 jobs cancelled, files removed" in done.stdout
    assert not Path(cluster.directory).exists()
    assert command("clean").stdout == "nothing to clean up\n"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["down", "unknown"], 2, "no running cluster is named 'unknown'"),
        (["jobs", "unknown"], 2, "no running cluster is named 'unknown'"),
        (["up", "nosuch"], 2, "there is no section 'nosuch'"),
        (["up", "sge", "--cores", "2"], 2, "memory must be given"),
        (["up", "local", "--cores", "none"], 2, "cores: must be a whole number"),
        (["up", "local", "--log-directory", "/proc/x"], 2, "log-directory /proc/x can't be made"),
        (["frobnicate"], 2, "No such command"),
        (["scale", "unknown", "many"], 2, "many"),
    ],
)
def test_mistakes(argv: list[str], code: int, words: str, typed: Typed) -> None:
    done = typed(*argv)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_is_in_the_readme() -> None:
    from hpclaunch.cli.main import COMMANDS

    docs = "".join(p.read_text() for p in [Path("README.md"), *Path("docs").glob("*.md")])
    missing = [name for name in COMMANDS if f"hpclaunch {name}" not in docs]
    assert not missing
