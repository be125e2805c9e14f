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

from .conftest import Typed

DATA = Path(__file__).parents[1] / "data" / "config"


def test_show_says_where_values_come_from(at_home: Typed, tmp_path: Path) -> None:
    done = at_home("config", "show", "--origin", "sge", HPCLAUNCH_JOBQUEUE__SGE__CORES="4")
    assert done.returncode == 0
    assert "cores: 4" in done.stdout
    assert "# $HPCLAUNCH_JOBQUEUE__SGE__CORES" in done.stdout
    assert "defaults.yaml:" in done.stdout


def test_init_writes_a_right_file_once(at_home: Typed, tmp_path: Path) -> None:
    first = at_home("config", "init", "slurm")
    path = tmp_path / ".config" / "hpclaunch" / "jobqueue.yaml"
    assert first.returncode == 0
    assert str(path) in first.stdout
    assert check_file(path) == []
    text = path.read_text()
    again = at_home("config", "init", "slurm")
    assert again.returncode == 2
    assert "left as it is" in again.stderr
    assert path.read_text() == text
    assert "cores: 1" in at_home("config", "show", "slurm").stdout


def test_check_tells_all_mistakes_and_fails(at_home: Typed) -> None:
    done = at_home("config", "check", str(DATA / "ten-mistakes.yaml"))
    assert done.returncode == 1
    assert "13 mistakes" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_of_a_right_file(at_home: Typed) -> None:
    done = at_home("config", "check", str(DATA / "jobqueue-arc4.yaml"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "no mistakes" in done.stdout


def test_a_file_that_is_not_there(at_home: Typed) -> None:
    done = at_home("config", "check", "/nowhere.yaml")
    assert done.returncode == 1
    assert "can't be read: No such file" in done.stderr


def test_an_unknown_section(at_home: Typed) -> None:
    done = at_home("config", "show", "pbs")
    assert done.returncode == 2
    assert "no section 'pbs'" in done.stderr


def test_show_of_a_profile_has_what_it_is_based_on(at_home: Typed, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("jobqueue:\n  sge:\n    queue: all.q\n  mine:\n    batch-system: sge\n    cores: 3\n")
    done = at_home("config", "show", "--origin", "mine", HPCLAUNCH_CONFIG=str(path))
    shown = yaml.safe_load(done.stdout)
    assert (shown["jobqueue"]["mine"]["queue"], shown["jobqueue"]["mine"]["cores"]) == ("all.q", 3)
    assert re.search(rf"cores: 3 +# {re.escape(str(path))}:6$", done.stdout, re.M)
    path.write_text(done.stdout)
    assert check_file(path) == []  # what is shown is itself a configuration


def test_show_of_everything_is_a_configuration(at_home: Typed, tmp_path: Path) -> None:
    done = at_home("config", "show")
    assert done.returncode == 0
    path = tmp_path / "all.yaml"
    path.write_text(done.stdout)
    assert check_file(path) == []


def test_show_of_files_with_mistakes_is_one_message(at_home: Typed, tmp_path: Path) -> None:
    done = at_home("config", "show", HPCLAUNCH_CONFIG=str(DATA / "ten-mistakes.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    done = at_home("config", "show", HPCLAUNCH_CONFIG="/nowhere")
    assert (done.returncode, done.stderr) == (2, "hpclaunch: $HPCLAUNCH_CONFIG: there is no /nowhere\n")


def test_init_says_that_a_file_of_dask_can_be_taken(at_home: Typed, tmp_path: Path) -> None:
    old = tmp_path / ".config" / "dask" / "jobqueue.yaml"
    old.parent.mkdir(parents=True)
    old.write_text((DATA / "jobqueue-arc4.yaml").read_text())
    assert "cores: null" in at_home("config", "show", "sge").stdout  # not read without being asked
    assert f"You also have {old}" in at_home("config", "init").stdout


def test_init_where_no_file_can_be_made(at_home: Typed, tmp_path: Path) -> None:
    (tmp_path / ".config").write_text("a file where a directory should be")
    done = at_home("config", "init")
    assert done.returncode == 1
    assert "can't be written" in done.stderr
    assert "exists and was left" not in done.stderr
    assert at_home("config", "init", "pbs").returncode == 2


def test_every_command_has_help(at_home: Typed) -> None:
    done = at_home("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", done.stdout, re.M), name


def test_a_command_that_is_not_there(at_home: Typed) -> None:
    done = at_home("confg")
    assert done.returncode == 2
    assert "No such command 'confg'; did you mean 'config'?" in done.stderr


def test_version() -> None:
    command = [sys.executable, "-m", "hpclaunch", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        == f"hpclaunch, version {__version__}\n"
    )


def test_what_should_not_happen_is_one_message_too(at_home: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpclaunch.cli.config.find_files", lambda env: 1 // 0)
    for debug in ("", "0"):
        done = at_home("config", "show", HPCLAUNCH_DEBUG=debug)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("hpclaunch: ZeroDivisionError: ")
        assert "Traceback" not in done.stderr
    with pytest.raises(ZeroDivisionError):
        at_home("config", "show", HPCLAUNCH_DEBUG="1")


@pytest.mark.parametrize(
    "line",
    [
        'extra: ""',
        "extra: '--lifetime 55m'",
        "extra: ['--liftime 55m']",
        "job-extra: {}",
        "job-extra: {request_disk: 1}",
        "job-extra: ['mem=4G']",
        "job-extra: [null]",
        "job-extra: ['']",
        "header-skip: ['mem']",
        "header-skip: ['mem', '--nodes=']",
        "header-skip: ['4G']",
        "header-skip: null",
        "env-extra: null",
        "python: 'apptainer exec image python'",
        "python: 'python; id'",
        "log-directory: /logs/$NOWHERE",
        "log-directory: /logs/$HOME/x",
        "shared-temp-directory: '${NOWHERE}/x'",
        "template-directory: $NOWHERE",
        "shebang: '#!/bin/csh'",
        'queue: "a\'b"',
        "walltime: soon",
        "local-directory: $TMPDIR/x",
    ],
)
@pytest.mark.parametrize("system", ["sge", "slurm"])
def test_check_and_script_agree(system: str, line: str, at_home: Typed, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(f"jobqueue:\n  {system}:\n    cores: 1\n    memory: 1 GB\n    {line}\n")
    checked = at_home("config", "check", str(path))
    printed = at_home("script", system, HPCLAUNCH_CONFIG=str(path))
    assert (checked.returncode == 0) == (printed.returncode == 0), (checked, printed)
    if checked.returncode:
        assert f"{path}:5" in checked.stderr
    assert "Traceback" not in checked.stderr + printed.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["file.yaml"]
