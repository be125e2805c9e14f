"""Runs the contestants of a benchmark in turn, each in a fresh process, and sums up what they measured."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

ROOT = Path(__file__).resolve().parents[1]
#: Seconds that one contestant may take in one round.
PATIENCE_SECONDS = 300
#: In the environment of a contestant and of all that it starts, daemons too.
_MARK = "HPCLAUNCH_BENCHMARK_CONTESTANT"

Measured = dict[str, float]


class NoGroundError(Exception):
    """A benchmark can't run here; the text says why."""


@dataclass(frozen=True)
class Metric:
    """One number of a benchmark."""

    name: str
    unit: str
    is_more_better: bool = False
    digits: int = 2


@dataclass(frozen=True)
class Contestant:
    """One way to do the work: a function that measures it once, and what to say about it.

    :param targets: what the design promises, by metric: of our number, or of the ratio with another's.
    :param most_rounds: how many rounds suffice, however many are asked for: of who is slow.
    """

    name: str
    measure: Callable[[], Measured]
    note: str = ""
    targets: dict[str, str] = field(default_factory=dict)
    most_rounds: int = 100

    @property
    def is_ours(self) -> bool:
        """True if it needs no ratio: it is what others are compared with."""
        return "hpclaunch" in self.name


@dataclass(frozen=True)
class Benchmark:
    """One question, and those who answer it. The first contestant is ours.

    :param ground: a context that has what the benchmark needs and gives the start of the command line that runs
        one contestant; the benchmark's and the contestant's names are added. It raises :class:`NoGroundError`
        where the benchmark can't run.
    :param most_rounds: how many rounds suffice, however many are asked for: of what is long, or hardly varies.
    """

    name: str
    title: str
    metrics: list[Metric]
    contestants: list[Contestant]
    text: str = ""
    most_rounds: int = 100
    ground: Callable[[], AbstractContextManager[list[str]]] = lambda: nullcontext(
        [sys.executable, "-m", "benchmarks.contestant"]
    )


@dataclass
class Result:
    """What a benchmark gave: for each contestant, its measurements by round."""

    benchmark: Benchmark
    rounds: int
    measured: dict[str, list[Measured]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    skipped: str = ""

    def middle(self, contestant: str, metric: str) -> float | None:
        """Return the median over the rounds."""
        values = [one[metric] for one in self.measured.get(contestant, []) if metric in one]
        return median(values) if values else None

    def ratio(self, contestant: str, metric: Metric) -> float | None:
        """Return how many times better ours is than ``contestant``: the median of the ratios of each round."""
        ours = self.measured.get(self.benchmark.contestants[0].name, [])
        theirs = self.measured.get(contestant, [])
        pairs = [
            (one[metric.name], other[metric.name])
            for one, other in zip(ours, theirs, strict=False)
            if metric.name in one and metric.name in other
        ]
        if not pairs:
            return None
        return median(a / b if metric.is_more_better else b / a for a, b in pairs)


def run(benchmark: Benchmark, rounds: int, say: Callable[[str], None]) -> Result:
    """Run a benchmark; contestants that fail are left out of the remaining rounds and named in the result."""
    rounds = min(rounds, benchmark.most_rounds)
    result = Result(benchmark, rounds)
    try:
        with benchmark.ground() as command:
            for number in range(rounds):
                _round(result, number, command, say)
    except NoGroundError as error:
        result.skipped = str(error)
    return result


def _round(result: Result, number: int, command: list[str], say: Callable[[str], None]) -> None:
    benchmark = result.benchmark
    for contestant in benchmark.contestants if number % 2 == 0 else benchmark.contestants[::-1]:
        if contestant.name in result.failures or number >= contestant.most_rounds:
            continue
        say(f"{benchmark.name}, round {number + 1} of {result.rounds}: {contestant.name}")
        try:
            measured = _measure([*command, benchmark.name, contestant.name])
        except (subprocess.SubprocessError, ValueError) as error:
            result.failures[contestant.name] = str(error)
        else:
            result.measured.setdefault(contestant.name, []).append(measured)


def _measure(command: list[str]) -> Measured:
    """Run one contestant once.

    :raises ValueError: it failed; the text has the last lines that it printed.
    :raises subprocess.TimeoutExpired: it took longer than PATIENCE_SECONDS.
    """
    mark = secrets.token_hex(8)
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, _MARK: mark},
            text=True,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    finally:
        _end_rest(mark)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith('{"measured":'):
            measured: Measured = json.loads(line)["measured"]
            return measured
    tail = " | ".join(done.stderr.strip().splitlines()[-3:])
    raise ValueError(f"exit code {done.returncode}: {tail or 'nothing was measured'}")


def _end_rest(mark: str) -> None:
    """Kill what a contestant has started and left behind."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark:
                process.kill()
        except psutil.Error:  # it has just ended, or belongs to another user
            continue
