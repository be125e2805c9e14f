"""A graph of tasks as a plain dict: load, clean, analyze, store.

A tuple that begins with a function is a call, and a key in its arguments stands for that task's result. The client
runs what the wanted key needs, as much of it at the same time as there are workers. No Dask is needed for this.

    python 04_graph.py
    python 04_graph.py --cluster sge --jobs 4
"""

from __future__ import annotations

import csv
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from _cluster import arguments, open_cluster

from hpclaunch import Client


def load(path: str) -> list[dict[str, str]]:
    """Read a table of measurements."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def clean(rows: list[dict[str, str]]) -> list[tuple[int, float]]:
    """Keep the rows in which the sensor said something possible: (hour, degrees)."""
    kept = [(int(row["hour"]), float(row["degrees"])) for row in rows if row["degrees"] not in ("", "NaN")]
    return [(hour, degrees) for hour, degrees in kept if -60 < degrees < 60]


def analyze(stations: list[list[tuple[int, float]]]) -> dict[str, Any]:
    """Find the mean temperature at each hour of the day, over all stations."""
    by_hour: dict[int, list[float]] = {}
    for rows in stations:
        for hour, degrees in rows:
            by_hour.setdefault(hour, []).append(degrees)
    means = {hour: round(sum(values) / len(values), 2) for hour, values in sorted(by_hour.items())}
    return {"rows": sum(map(len, stations)), "warmest": max(means, key=means.__getitem__), "means": means}


def store(summary: dict[str, Any], path: str) -> str:
    """Write the summary to a file and return its path."""
    Path(path).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return path


def write_measurements(directory: Path, stations: int) -> list[str]:
    """Write a month of temperatures of some stations, with gaps and faults as sensors have them."""
    paths = []
    for station in range(stations):
        rng = random.Random(station)
        path = directory / f"station-{station + 1}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["day", "hour", "degrees"])
            for day in range(30):
                for hour in range(24):
                    degrees = 15 - abs(hour - 15) * 0.8 + rng.gauss(0, 2)  # warmest at three in the afternoon
                    fault = rng.choices(["", "NaN", "999.9", None], weights=[2, 1, 1, 96])[0]
                    writer.writerow([day + 1, hour, f"{degrees:.1f}" if fault is None else fault])
        paths.append(str(path))
    return paths


def main() -> None:
    """Run the graph."""
    parser = arguments(__doc__)
    parser.add_argument("--stations", type=int, default=6, help="files to load (default: 6)")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="graph-", dir=Path.cwd()) as directory:
        paths = write_measurements(Path(directory), options.stations)
        graph: dict[str, Any] = {}
        for i, path in enumerate(paths, start=1):
            graph[f"load-{i}"] = (load, path)
            graph[f"clean-{i}"] = (clean, f"load-{i}")
        graph["analyze"] = (analyze, [f"clean-{i}" for i in range(1, len(paths) + 1)])
        graph["store"] = (store, "analyze", str(Path(directory) / "summary.json"))

        with open_cluster(options) as cluster, Client(cluster) as client:
            stored = client.get(graph, "store")
        summary = json.loads(Path(stored).read_text(encoding="utf-8"))

    read = len(paths) * 30 * 24
    print(f"{len(graph)} tasks: {summary['rows']} of {read} rows of {len(paths)} stations are good")
    print(f"warmest at {summary['warmest']} h: {summary['means'][str(summary['warmest'])]} degrees on average")


if __name__ == "__main__":
    main()
