"""Reads ``mix.yaml``: the workloads and queues that policies of adaptive scaling are tried on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmarks.queue_world import Burst, Kind, Site, Trace

PATH = Path(__file__).with_name("mix.yaml")


def read_mix(path: Path = PATH) -> list[tuple[Trace, int]]:
    """Return each trace with each seed."""
    said = yaml.safe_load(path.read_text())
    return [(_trace(one), seed) for one in said["traces"] for seed in said["seeds"]]


def _trace(said: dict[str, Any]) -> Trace:
    repeat = said.get("repeat", {"times": 1, "every": 0})
    bursts = tuple(
        Burst(**{**one, "at": one["at"] + repeat["every"] * turn})
        for turn in range(repeat["times"])
        for one in said["bursts"]
    )
    return Trace(
        said["name"],
        bursts,
        Site(**said.get("site", {})),
        said.get("maximum", 20),
        tuple(Kind(**one) for one in said.get("kinds", [{}])),
    )
