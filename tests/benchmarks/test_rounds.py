"""The benchmarks' bookkeeping: medians, ratios, tables. No test here asserts a time."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.__main__ import NAMES
from benchmarks.report import document, table
from benchmarks.rounds import ROOT, Benchmark, Contestant, Metric, NoGroundError, Result, run

RATE = Metric("rate", "tasks/s", is_more_better=True, digits=0)
SECONDS = Metric("seconds", "s")


def nothing() -> dict[str, float]:
    raise AssertionError("contestants run in processes of their own")


def a_benchmark(**options: object) -> Benchmark:
    contestants = [Contestant("hpclaunch", nothing, "ours"), Contestant("other", nothing, "theirs")]
    return Benchmark("a", "A title", [RATE, SECONDS], contestants, **options)  # type: ignore[arg-type]


def a_result() -> Result:
    result = Result(a_benchmark(), rounds=3)
    result.measured["hpclaunch"] = [{"rate": 3000.0, "seconds": s} for s in (1.0, 2.0, 3.0)]
    result.measured["other"] = [{"rate": 1000.0, "seconds": s} for s in (4.0, 10.0, 9.0)]
    return result


def test_medians_and_ratios_of_rounds():
    result = a_result()
    assert result.middle("other", "seconds") == 9.0
    assert result.ratio("other", RATE) == 3.0  # ours over theirs: more is better
    assert result.ratio("other", SECONDS) == 4.0  # the median of 4, 5 and 3: theirs over ours
    assert result.ratio("missing", RATE) is None


def test_a_table_has_a_row_for_each_contestant():
    lines = table(a_result()).splitlines()
    assert lines[0] == "## A title"
    assert [cell.strip() for cell in lines[4].split("|")[1:-1]] == ["hpclaunch", "3,000", "", "2.00", "", "ours"]
    assert [cell.strip() for cell in lines[5].split("|")[1:-1]] == ["other", "1,000", "3", "9.00", "4", "theirs"]
    assert len({len(line) for line in lines[2:6]}) == 1


def test_a_target_stands_beside_the_ratio_or_the_number_without_one():
    result = a_result()
    ours, other = result.benchmark.contestants
    ours.targets["rate"] = other.targets["rate"] = "≥ 2"
    lines = table(result).splitlines()
    assert [cell.strip() for cell in lines[4].split("|")[2:4]] == ["3,000 (≥ 2)", ""]
    assert [cell.strip() for cell in lines[5].split("|")[2:4]] == ["1,000", "3 (≥ 2)"]


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_of_metrics_that_there_are(name: str):
    benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    metrics = {metric.name for metric in benchmark.metrics}
    assert all(contestant.targets.keys() <= metrics for contestant in benchmark.contestants)


def test_a_contestant_that_failed_is_named():
    result = a_result()
    result.measured.pop("other")
    result.failures["other"] = "exit code 1: no module named other"
    assert "other failed: exit code 1: no module named other" in table(result)


def test_a_benchmark_that_cannot_run_here_says_why():
    @contextlib.contextmanager
    def no_ground() -> Iterator[list[str]]:
        raise NoGroundError("there is no Slurm here")
        yield []

    result = run(a_benchmark(ground=no_ground), 3, lambda line: None)
    assert "Not run: there is no Slurm here" in table(result)


def test_the_document_says_how_to_repeat_it():
    text = document([a_result()], "python -m benchmarks --rounds 3 --write", (0.5, 1.5))
    for part in (
        "python -m benchmarks --rounds 3 --write",
        "Machine:",
        "uvloop",
        "Load average 0.5",
        "## A title",
    ):
        assert part in text


def test_contestants_take_turns_and_a_failed_one_is_left_out(tmp_path: Path):
    program = tmp_path / "contestant.py"
    program.write_text(
        "import sys\n"
        "if sys.argv[2] == 'other': sys.exit('it broke')\n"
        'print(\'{"measured": {"rate": 5.0, "seconds": 1.0}}\')\n'
    )
    said: list[str] = []
    ground = contextlib.nullcontext([sys.executable, str(program)])
    result = run(a_benchmark(ground=lambda: ground), 2, said.append)
    assert [line.rpartition(": ")[2] for line in said] == ["hpclaunch", "other", "hpclaunch"]
    assert result.measured == {"hpclaunch": [{"rate": 5.0, "seconds": 1.0}] * 2}
    assert result.failures == {"other": "exit code 1: it broke"}


def test_what_a_contestant_leaves_behind_is_ended(tmp_path: Path):
    left = tmp_path / "left"
    program = tmp_path / "contestant.py"
    program.write_text(
        "import pathlib, subprocess, sys\n"
        "quiet = subprocess.DEVNULL\n"
        "argv = ['sleep', '600']\n"
        "child = subprocess.Popen(argv, start_new_session=True, stdout=quiet, stderr=quiet)\n"
        f"pathlib.Path({str(left)!r}).write_text(str(child.pid))\n"
        'print(\'{"measured": {"rate": 5.0, "seconds": 1.0}}\')\n'
    )
    run(a_benchmark(ground=lambda: contextlib.nullcontext([sys.executable, str(program)])), 1, lambda line: None)
    pid = int(left.read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        assert not psutil.wait_procs([process], timeout=10)[1] or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_is_what_its_name_says(name: str):
    benchmark: Benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    assert benchmark.name == name
    assert benchmark.contestants[0].name.startswith("hpclaunch")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noop", "roundtrip", "start", "imports"])
def test_ours_can_be_measured(name: str):
    argv = [sys.executable, "-m", "benchmarks.contestant", name, "hpclaunch"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith('{"measured":'), done.stdout + done.stderr


def test_an_unknown_benchmark_is_a_clear_error():
    argv = [sys.executable, "-m", "benchmarks", "nop"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no benchmark named nop; there are noop, roundtrip" in done.stderr
