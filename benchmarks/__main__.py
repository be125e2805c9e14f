"""``python -m benchmarks``: see the package's text."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from benchmarks.report import document, table
from benchmarks.rounds import Benchmark, run

NAMES = (
    "noop",
    "roundtrip",
    "stateful",
    "actors",
    "transfer",
    "graphs",
    "roots",
    "start",
    "imports",
    "scheduler",
    "slurm",
    "mpi",
    "adaptive",
)


def main() -> int:
    """Run benchmarks and print their tables; the exit code tells whether one of ours failed to run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What hpclaunch costs, beside others."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(NAMES)} (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant runs (default: 5)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md; runs all of them")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if options.write and options.names:
        parser.error("--write takes all benchmarks, for the numbers of one file to come from one run")
    load = os.getloadavg()[0]
    results = []
    for name in options.names or NAMES:
        benchmark: Benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
        result = run(benchmark, options.rounds, lambda line: print(line, file=sys.stderr, flush=True))
        results.append(result)
        print(table(result), flush=True)
    if options.write:
        path = Path(__file__).with_name("RESULTS.md")
        path.write_text(
            document(
                results, f"python -m benchmarks --rounds {options.rounds} --write", (load, os.getloadavg()[0])
            )
        )
        print(f"written: {path}")
    return int(any(result.benchmark.contestants[0].name in result.failures for result in results))


if __name__ == "__main__":
    sys.exit(main())
