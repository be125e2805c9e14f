"""``hpclaunch doctor`` on this machine: a real job each time, and nothing of it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.beds import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home, which is empty again after the test."""
    yield tmp_path
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.name != "site.yaml"] == []


def environment(home: Path, **env: str) -> dict[str, str]:
    return {**os.environ, "HOME": str(home), **env}


def doctor(home: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hpclaunch", "doctor", *words]
    return subprocess.run(command, env=environment(home, **env), capture_output=True, text=True, timeout=120)


def test_all_is_well(home: Path) -> None:
    done = doctor(home, "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Jobs work here." in done.stdout
    assert "BAD" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout


def test_without_python(home: Path) -> None:
    done = doctor(home, "local", "--python", "/nowhere/python")
    assert done.returncode == 1
    assert "BAD  Python in the job" in done.stdout
    assert "python: /path/to/env/bin/python" in done.stdout


def test_a_prologue_that_fails(home: Path) -> None:
    done = doctor(home, "local", "--job-script-prologue", "module load gcc")
    assert done.returncode == 1
    assert "BAD  prologue" in done.stdout
    assert "exit code 127 from: module load gcc" in " ".join(done.stdout.split())


def test_variables_that_interfere(home: Path) -> None:
    done = doctor(home, "local", PYTHONPATH="/old/modules", LC_ALL="xx_XX.UTF-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PYTHONPATH=/old/modules is set in the job" in done.stdout
    assert "- unset PYTHONPATH" in done.stdout
    assert "- export LC_ALL=C.UTF-8" in done.stdout


def test_a_directory_that_cannot_be_written(home: Path) -> None:
    done = doctor(home, "local", "--shared-temp-directory", "/proc/x")
    assert done.returncode == 1
    assert "BAD  disk and quota" in done.stdout


def test_mistakes_in_the_configuration_are_on_the_page(home: Path) -> None:
    path = home / "site.yaml"
    path.write_text("jobqueue:\n  local:\n    core: 1\n    walltime: soon\n")
    done = doctor(home, "local", HPCLAUNCH_CONFIG=str(path))
    assert done.returncode == 1
    assert done.stdout.count("BAD  configuration") == 2
    assert "'core'" in done.stdout
    assert "Traceback" not in done.stderr


def test_without_the_batch_systems_commands(home: Path) -> None:
    done = doctor(home, "slurm", "--cores", "1", "--memory", "1 GB", PATH=os.path.dirname(sys.executable))
    assert done.returncode == 1
    assert "sbatch, squeue, scancel not found on this host" in " ".join(done.stdout.split())
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_has_it_clean_up(home: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "hpclaunch", "doctor", "local", "--job-script-prologue", "sleep 600"]
    process = subprocess.Popen(command, env=environment(home), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(home.rglob("*.start")), "the job to start")
    process.send_signal(number)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "its job and files are gone" in said
