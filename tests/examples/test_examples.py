"""Every example runs: on this machine, and on a real Slurm and a real Grid Engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.testbed.beds import Bed

EXAMPLES = Path(__file__).parents[2] / "examples"
# Sizes for test beds, and what only a right result prints.
ARGUMENTS = {
    "01_simulation.py": ["--batches", "4", "--walks", "50", "--steps", "100"],
    "02_word_count.py": ["--partitions", "3"],
    "03_array.py": ["--size", "500"],
    "04_graph.py": [],
    "05_model_search.py": ["--draws", "12"],
    "demo.py": ["--jobs", "3", "--tasks", "30", "--darts", "20000"],
}
NUMBERED = sorted(name for name in ARGUMENTS if name[0].isdigit())


def check_simulation(text: str) -> None:
    rows = re.findall(r"^ *0\.\d\d +([\d.]+) \+- +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    assert len(rows) == 6
    # Six standard errors: the seeds are fixed, so this does not fail by chance once it has passed.
    assert all(abs(float(found) - float(exact)) < 6 * float(error) for found, error, exact in rows)


def check_word_count(text: str) -> None:
    assert "a plain loop counts the same" in text
    assert re.search(r"^ +\d+  the$", text, re.MULTILINE)


def check_array(text: str) -> None:
    mean = re.search(r"arccos\(y\) = ([\d.]+), pi/2 = 1\.57080", text)
    assert mean is not None
    # 2.5 million values with a standard deviation of about 0.6.
    assert abs(float(mean[1]) - 1.570796) < 0.004


def check_graph(text: str) -> None:
    assert "14 tasks: 4149 of 4320 rows of 6 stations are good" in text
    assert re.search(r"warmest at 1[3-7] h: 1[3-7]\.\d+ degrees", text)


def check_model_search(text: str) -> None:
    assert "60 fits on 600 images took" in text
    scores = re.findall(
        r"^(?:best score in cross-validation|score on the other images): ([\d.]+)", text, re.MULTILINE
    )
    assert len(scores) == 2
    assert all(0.9 < float(score) <= 1 for score in scores)  # the draws are fixed by a seed


def check_demo(text: str) -> None:
    estimate = re.search(r"pi is about ([\d.]+), after 600,000 darts", text)
    assert estimate is not None
    assert abs(float(estimate[1]) - 3.14159) < 0.02
    assert "#!/usr/bin/env bash" in text
    assert "-m hpclaunch.worker" in text
    assert text.count(" up ") >= 3
    assert re.search(r"tasks +30 in [\d.]+ s", text)
    assert "All jobs have ended." in text


CHECKS: dict[str, Callable[[str], None]] = {
    "01_simulation.py": check_simulation,
    "02_word_count.py": check_word_count,
    "03_array.py": check_array,
    "04_graph.py": check_graph,
    "05_model_search.py": check_model_search,
    "demo.py": check_demo,
}


def test_every_example_is_run_here():
    present = {path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith("_")}
    assert present == set(ARGUMENTS) == set(CHECKS)


def run_here(name: str, arguments: Sequence[str], cwd: Path) -> str:
    """Run an example as a user would, with its output in a pipe; return what it printed."""
    argv = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


EVERYDAY = "demo.py"


@pytest.mark.parametrize(
    "name",
    [EVERYDAY, *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(ARGUMENTS) if name != EVERYDAY)],
)
def test_runs_on_this_machine(name: str, tmp_path: Path):
    text = run_here(name, ARGUMENTS[name], tmp_path)
    CHECKS[name](text)
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text) is None, "control characters in a pipe"
    assert list(tmp_path.iterdir()) == [], "files are left"


@pytest.mark.slow
def test_the_parallel_one_runs_as_one_process(tmp_path: Path):
    text = run_here("mpi/array_sum.py", ["--size", "500"], tmp_path)
    assert "500 sums in" in text
    assert "on 1 worker\n" in text
    check_array(text)


@pytest.mark.slow
def test_word_count_takes_files(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one two two\n")
    (tmp_path / "b.txt").write_text("Three two three three\n")
    text = run_here("02_word_count.py", ["--top", "2", "a.txt", "b.txt"], tmp_path)
    assert text.splitlines()[0] == "7 words, 3 different ones, in 2 files"
    assert [line.split() for line in text.splitlines()[1:3]] == [["3", "three"], ["3", "two"]]


def run_on(bed: Bed, name: str, *options: str) -> str:
    """Run an example as the bed's user, from a directory of that user's on the shared file system."""
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, bed.directory / path.name)
    argv = [bed.python, name, "--cluster", bed.name, *options, *ARGUMENTS[name]]
    done = bed.run(argv, cwd=bed.directory, timeout=200)
    assert done.exit_code == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slurm
@pytest.mark.parametrize("name", NUMBERED)
def test_runs_on_slurm(name: str, slurm: Bed):
    CHECKS[name](run_on(slurm, name, "--interface", "lo", "--jobs", "4"))


@pytest.mark.sge
@pytest.mark.parametrize("name", NUMBERED)
def test_runs_on_grid_engine(name: str, sge: Bed):
    CHECKS[name](run_on(sge, name, "--jobs", "4"))
