"""``hpclaunch config`` as a person uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hpclaunch.config.layers import check_file

DATA = Path(__file__).parents[1] / "data" / "config"


@pytest.fixture
def run(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Run the command line with an empty HOME."""

    def command(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from hpclaunch.cli.main import main; main()", *argv],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return command


def test_show_says_where_values_come_from(run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = run("config", "show", "--origin", "sge", HPCLAUNCH_JOBQUEUE__SGE__CORES="4")
    assert done.returncode == 0
    assert "cores: 4" in done.stdout
    assert "# $HPCLAUNCH_JOBQUEUE__SGE__CORES" in done.stdout
    assert "defaults.yaml:" in done.stdout


def test_init_writes_a_right_file_once(run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    first = run("config", "init", "slurm")
    path = tmp_path / ".config" / "hpclaunch" / "jobqueue.yaml"
    assert first.returncode == 0
    assert str(path) in first.stdout
    assert check_file(path) == []
    text = path.read_text()
    again = run("config", "init", "slurm")
    assert again.returncode == 2
    assert "left as it is" in again.stderr
    assert path.read_text() == text
    assert "cores: 1" in run("config", "show", "slurm").stdout


def test_check_tells_all_mistakes_and_fails(run) -> None:  # type: ignore[no-untyped-def]
    done = run("config", "check", str(DATA / "ten-mistakes.yaml"))
    assert done.returncode == 1
    assert "13 mistakes" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_of_a_right_file(run) -> None:  # type: ignore[no-untyped-def]
    done = run("config", "check", str(DATA / "jobqueue-arc4.yaml"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "no mistakes" in done.stdout


def test_a_file_that_is_not_there(run) -> None:  # type: ignore[no-untyped-def]
    done = run("config", "check", "/nowhere.yaml")
    assert done.returncode == 1
    assert "can't be read: No such file" in done.stderr


def test_an_unknown_section(run) -> None:  # type: ignore[no-untyped-def]
    done = run("config", "show", "pbs")
    assert done.returncode == 2
    assert "no section 'pbs'" in done.stderr
