"""The main job in one minute: submit jobs, run a computation on them, see what became of each.

Starts eight jobs of one core (on this machine's own batch system unless told otherwise), throws darts at a square
to estimate pi, and prints the job script, the result with its error, the jobs with their stories, and what a task
cost.

    python demo.py
    python demo.py --cluster slurm --jobs 8
"""

from __future__ import annotations

import math
import os
import random
import socket
import time
from collections import Counter
from typing import Any, NamedTuple

from _cluster import arguments, open_cluster
from rich.console import Console

from hpclaunch import Client, progress

# In a pipe there is no terminal to be as wide as; there, lines are as long as they are.
console = Console(highlight=False, soft_wrap=True)


class Throw(NamedTuple):
    """What one task found."""

    inside: int  # darts within the circle
    worker: tuple[str, int]  # the host and process that it ran in
    cpu_seconds: float


def throw_darts(seed: int, darts: int) -> Throw:
    """Throw darts at the unit square and count those within the quarter circle."""
    draw = random.Random(seed).random
    start = time.thread_time()
    inside = sum([draw() ** 2 + draw() ** 2 < 1.0 for _ in range(darts)])
    return Throw(inside, (socket.gethostname(), os.getpid()), time.thread_time() - start)


def nothing(number: int) -> int:
    """A task that costs only what tasks cost."""
    return number


def show_script(cluster: Any) -> None:
    """Print the job script as it is submitted."""
    console.print("[bold]The job script, byte for byte as it is submitted[/bold]")
    for line in cluster.job_script().splitlines():
        console.print(f"  | {line}".rstrip(), style="dim", markup=False)


def estimate_pi(client: Client, tasks: int, darts: int) -> tuple[list[Throw], float]:
    """Run the computation; return what the tasks found and the seconds it took."""
    start = time.perf_counter()
    futures = client.map(throw_darts, range(tasks), darts=darts)
    progress(futures, title="throwing darts")
    throws = client.gather(futures)
    return throws, time.perf_counter() - start


def show_pi(throws: list[Throw], darts: int) -> None:
    """Print the estimate beside the truth, with the error that chance allows."""
    total = len(throws) * darts
    share = sum(throw.inside for throw in throws) / total
    expected = 4 * math.sqrt(share * (1 - share) / total)
    error = abs(4 * share - math.pi)
    console.print(f"pi is about [bold]{4 * share:.5f}[/bold], after {total:,} darts")
    console.print(f"off by {error:.5f}: {error / expected:.1f} times the standard error of {expected:.5f}")


def task_costs(client: Client) -> tuple[float, float]:
    """Return the seconds that an empty task costs among many, and on its own from submit to result."""
    many = 20_000
    client.gather(client.map(nothing, range(many)))
    start = time.perf_counter()
    client.gather(client.map(nothing, range(many)))
    each = (time.perf_counter() - start) / many
    alone = []
    for number in range(200):
        start = time.perf_counter()
        client.submit(nothing, number).result()
        alone.append(time.perf_counter() - start)
    return each, sorted(alone)[100]


def show_summary(throws: list[Throw], wall: float, costs: tuple[float, float], start_up: float, jobs: int) -> None:
    """Print what the run was like."""
    cpu = sum(throw.cpu_seconds for throw in throws)
    counts = sorted(Counter(throw.worker for throw in throws).values())
    rows = [
        ("jobs", f"{jobs}, each with a worker {start_up:.2f} s after the cluster was asked for"),
        ("tasks", f"{len(throws)} in {wall:.2f} s, {len(throws) / wall:,.0f} a second"),
        ("computing", f"{cpu:.2f} s of processor time, {cpu / wall:.1f} processors busy on average"),
        ("tasks by worker", f"{counts[0]} to {counts[-1]}, on {len(counts)} workers"),
        ("cost of a task", f"{costs[0] * 1e6:.0f} microseconds among many, {costs[1] * 1e3:.2f} ms alone"),
    ]
    for name, value in rows:
        console.print(f"  {name:<15} {value}")


def heading(text: str) -> None:
    """Print a heading."""
    console.print(f"\n[bold]{text}[/bold]")


def main() -> None:
    """Run the demonstration."""
    parser = arguments(__doc__)
    parser.set_defaults(jobs=8)
    parser.add_argument("--tasks", type=int, default=400, help="tasks (default: 400)")
    parser.add_argument("--darts", type=int, default=125_000, help="darts in each task (default: 125000)")
    options = parser.parse_args()

    start = time.perf_counter()
    with open_cluster(options) as cluster:
        show_script(cluster)
        heading(f"Waiting for {options.jobs} jobs of one core each on {options.cluster}")
        with Client(cluster) as client:
            cluster.wait_for_workers(options.jobs)
            start_up = time.perf_counter() - start
            console.print(f"all {options.jobs} workers are connected")
            heading("The computation")
            throws, wall = estimate_pi(client, options.tasks, options.darts)
            show_pi(throws, options.darts)
            costs = task_costs(client)
            heading("The jobs")
            jobs = cluster.jobs()
            console.print(str(jobs), markup=False)
            heading(f"The story of job {jobs[0]['id']}")
            for line in jobs[0]["story"]:
                console.print(f"  {line}", markup=False)
            heading("Summary")
            show_summary(throws, wall, costs, start_up, options.jobs)
    console.print("\nAll jobs have ended.")


if __name__ == "__main__":
    main()
