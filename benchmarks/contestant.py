"""Runs one contestant of one benchmark once and prints what it measured: what each round starts again.

``python -m benchmarks.contestant noop hpclaunch``
"""

from __future__ import annotations

import importlib
import json
import sys

from benchmarks.rounds import Benchmark


def main() -> None:
    """Measure, and print one line of JSON."""
    name, wanted = sys.argv[1:]
    benchmark: Benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    contestant = next(one for one in benchmark.contestants if one.name == wanted)
    print(json.dumps({"measured": contestant.measure()}), flush=True)


if __name__ == "__main__":
    main()
