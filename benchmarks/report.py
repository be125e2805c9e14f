"""Results as tables: for the terminal, and for RESULTS.md with all that is needed to repeat them."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.rounds import ROOT, Contestant, Metric, Result

_PACKAGES = (
    "hpclaunch",
    "dask",
    "distributed",
    "dask-jobqueue",
    "ray",
    "parsl",
    "ipyparallel",
    "uvloop",
    "msgspec",
    "cryptography",
)


def table(result: Result) -> str:
    """Return a benchmark's result as a Markdown table with its title."""
    benchmark = result.benchmark
    lines = [f"## {benchmark.title}", ""]
    if result.skipped:
        return "\n".join([*lines, f"Not run: {result.skipped}", ""])
    heads = ["", *[head for metric in benchmark.metrics for head in (metric.unit, "ratio")], "remarks"]
    rows = [heads, ["---", *["---:"] * (len(heads) - 2), "---"]]
    rows += [_row(result, contestant) for contestant in benchmark.contestants]
    lines += _aligned(rows)
    lines += [f"\n{name} failed: {failure}" for name, failure in result.failures.items()]
    lines += [
        "",
        f"Medians of {result.rounds} rounds, all contestants in turn.{' ' * bool(benchmark.text)}{benchmark.text}",
    ]
    return "\n".join([*lines, ""])


def _row(result: Result, contestant: Contestant) -> list[str]:
    cells = [contestant.name]
    for metric in result.benchmark.metrics:
        value = result.middle(contestant.name, metric.name)
        target = f" ({contestant.targets[metric.name]})" if metric.name in contestant.targets else ""
        number = "-" if value is None else f"{value:,.{metric.digits}f}"
        ratio = _ratio(result, contestant, metric)
        cells += [number + target, ratio] if ratio in ("", "-") else [number, ratio + target]
    return [*cells, contestant.note]


def _ratio(result: Result, contestant: Contestant, metric: Metric) -> str:
    if contestant.is_ours or contestant is result.benchmark.contestants[0]:
        return ""
    ratio = result.ratio(contestant.name, metric)
    return "-" if ratio is None else f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            if cell.startswith("---"):
                cells.append("-" * (width - 1) + ":" if cell.endswith(":") else "-" * width)
            elif 0 < i < len(row) - 1:
                cells.append(cell.rjust(width))
            else:
                cells.append(cell.ljust(width))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def document(results: list[Result], command: str, loads: tuple[float, float]) -> str:
    """Return the text of RESULTS.md; ``loads`` are the machine's load averages before and after the run."""
    now = datetime.datetime.now(datetime.UTC)
    head = [
        "# Results",
        "",
        f"Made by `{command}` on {now:%Y-%m-%d}; every number comes from this one run. Compare within a",
        "table: the contestants took turns, so a machine that was busy for a while was so for all of them.",
        "",
        f"* Machine: {_processor()}, {os.cpu_count()} processors, {_memory_gb():.0f} GB, "
        f"{platform.system()} {platform.release()}",
        f"* Load average {loads[0]:.1f} before the run, {loads[1]:.1f} after it",
        f"* Python {platform.python_version()}; {_versions()}",
        f"* Commit {_commit()}",
        "",
        "A ratio is their time, memory or number of modules over ours, or our rate over theirs: above 1, ours is",
        "the better one. It is the median of the ratios of the rounds. In brackets: what the design promises.",
        "",
    ]
    return "\n".join([*head, *(table(result) for result in results)])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _versions() -> str:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def _commit() -> str:
    argv = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
