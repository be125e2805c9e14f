"""What users' type checkers make of hpclaunch: mypy and pyright, on a program and on its mistakes.

They see the package as installed, with its py.typed, from a directory of the test's own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAMS = ("program.py", "mistakes.py")

pytestmark = pytest.mark.slow  # a type checker reads the whole package


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in PROGRAMS:
        shutil.copy(HERE / name, tmp_path)
    return tmp_path


def wrong_lines(name: str) -> set[tuple[str, int]]:
    """Return the lines of a program that are marked as errors."""
    lines = (HERE / name).read_text().splitlines()
    return {(name, number) for number, line in enumerate(lines, 1) if line.endswith("# error")}


WRONG = set().union(*map(wrong_lines, PROGRAMS))


def test_mypy_takes_the_program_and_refuses_its_mistakes(directory: Path) -> None:
    argv = ["-m", "mypy", "--strict", "--config-file=", "--cache-dir=cache", *PROGRAMS]
    done = subprocess.run([sys.executable, *argv], cwd=directory, capture_output=True, text=True, check=False)
    found = re.findall(r"^(\w+\.py):(\d+): error: ", done.stdout, flags=re.M)
    assert {(name, int(line)) for name, line in found} == WRONG, done.stdout + done.stderr


def test_pyright_takes_the_program_and_refuses_its_mistakes(directory: Path) -> None:
    settings = {"typeCheckingMode": "standard", "include": list(PROGRAMS)}
    (directory / "pyrightconfig.json").write_text(json.dumps(settings))
    argv = ["-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([sys.executable, *argv], cwd=directory, capture_output=True, text=True, check=False)
    said = json.loads(done.stdout)["generalDiagnostics"]
    errors = [one for one in said if one["severity"] == "error"]
    found = {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in errors}
    assert found == WRONG, done.stdout


def test_the_program_runs(directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=directory, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
