"""``hpclaunch config`` as a person uses it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hpclaunch import __version__
from hpclaunch.cli.main import COMMANDS
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


def test_show_of_a_profile_has_what_it_is_based_on(run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "site.yaml"
    path.write_text("jobqueue:\n  sge:\n    queue: all.q\n  mine:\n    batch-system: sge\n    cores: 3\n")
    done = run("config", "show", "--origin", "mine", HPCLAUNCH_CONFIG=str(path))
    shown = yaml.safe_load(done.stdout)
    assert (shown["jobqueue"]["mine"]["queue"], shown["jobqueue"]["mine"]["cores"]) == ("all.q", 3)
    assert re.search(rf"cores: 3 +# {re.escape(str(path))}:6$", done.stdout, re.M)
    path.write_text(done.stdout)
    assert check_file(path) == []  # what is shown is itself a configuration


def test_show_of_everything_is_a_configuration(run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = run("config", "show")
    assert done.returncode == 0
    path = tmp_path / "all.yaml"
    path.write_text(done.stdout)
    assert check_file(path) == []


def test_show_of_files_with_mistakes_is_one_message(run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = run("config", "show", HPCLAUNCH_CONFIG=str(DATA / "ten-mistakes.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    done = run("config", "show", HPCLAUNCH_CONFIG="/nowhere")
    assert (done.returncode, done.stderr) == (2, "hpclaunch: $HPCLAUNCH_CONFIG: there is no /nowhere\n")


def test_init_says_that_a_file_of_dask_can_be_taken(run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    old = tmp_path / ".config" / "dask" / "jobqueue.yaml"
    old.parent.mkdir(parents=True)
    old.write_text((DATA / "jobqueue-arc4.yaml").read_text())
    assert "cores: null" in run("config", "show", "sge").stdout  # not read without being asked
    assert f"You also have {old}" in run("config", "init").stdout


def test_init_where_no_file_can_be_made(run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / ".config").write_text("a file where a directory should be")
    done = run("config", "init")
    assert done.returncode == 1
    assert "can't be written" in done.stderr
    assert "exists and was left" not in done.stderr
    assert run("config", "init", "pbs").returncode == 2


def test_every_command_has_help(run) -> None:  # type: ignore[no-untyped-def]
    done = run("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", done.stdout, re.M), name


def test_a_command_that_is_not_there(run) -> None:  # type: ignore[no-untyped-def]
    done = run("confg")
    assert done.returncode == 2
    assert "No such command 'confg'; did you mean 'config'?" in done.stderr


def test_version(run) -> None:  # type: ignore[no-untyped-def]
    assert run("--version").stdout == f"hpclaunch, version {__version__}\n"


def test_what_should_not_happen_is_one_message_too(tmp_path: Path) -> None:
    program = (
        "import hpclaunch.cli.config as config; from hpclaunch.cli.main import main\n"
        "config.find_files = lambda env: 1 / 0\n"
        "main()"
    )
    for debug, traceback in (("", False), ("0", False), ("1", True)):
        done = subprocess.run(
            [sys.executable, "-c", program, "config", "show"],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HPCLAUNCH_DEBUG": debug},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) is traceback
        assert "ZeroDivisionError: division by zero" in done.stderr
    assert "hpclaunch: " not in done.stderr
