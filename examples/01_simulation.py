"""A simulation over a range of parameters: how far does a persistent random walker get?

A walker on a line keeps its direction with probability p and turns round otherwise. For each p, many walks are
run and their mean squared distance from the start is compared with theory. Each task is one batch of walks with a
random seed of its own, so the result does not depend on which worker runs what.

    python 01_simulation.py
    python 01_simulation.py --cluster slurm --jobs 8
    python 01_simulation.py --cluster sge --jobs 8 --interface ib0
"""

from __future__ import annotations

import random
import statistics

from _cluster import arguments, open_cluster

from hpclaunch import Client, progress

PERSISTENCE = [0.2, 0.35, 0.5, 0.65, 0.8, 0.9]


def walk_batch(p: float, seed: int, walks: int, steps: int) -> float:
    """Return the mean squared distance of ``walks`` walkers after ``steps`` steps each."""
    draw = random.Random(seed).random
    total = 0
    for _ in range(walks):
        position, direction = 0, 1 if draw() < 0.5 else -1
        for _ in range(steps):
            position += direction
            if draw() >= p:
                direction = -direction
        total += position * position
    return total / walks


def theory(p: float, steps: int) -> float:
    """Return the exact mean squared distance after ``steps`` steps."""
    a = 2 * p - 1  # correlation between one step and the next
    return steps * (1 + a) / (1 - a) - 2 * a * (1 - a**steps) / (1 - a) ** 2


def main() -> None:
    """Scan the persistence and print what theory says beside what was found."""
    parser = arguments(__doc__)
    parser.add_argument("--batches", type=int, default=40, help="tasks for each p (default: 40)")
    parser.add_argument("--walks", type=int, default=100, help="walks in each task (default: 100)")
    parser.add_argument("--steps", type=int, default=500, help="steps of each walk (default: 500)")
    options = parser.parse_args()

    with open_cluster(options) as cluster, Client(cluster) as client:
        points = [p for p in PERSISTENCE for _ in range(options.batches)]
        futures = client.map(walk_batch, points, range(len(points)), walks=options.walks, steps=options.steps)
        progress(futures, title="random walks")
        results = client.gather(futures)

    print(f"{'p':>5} {'simulated':>19} {'theory':>9}")
    for p in PERSISTENCE:
        batches = [result for point, result in zip(points, results, strict=True) if point == p]
        error = statistics.stdev(batches) / len(batches) ** 0.5
        print(f"{p:5.2f} {statistics.mean(batches):9.1f} +- {error:6.1f} {theory(p, options.steps):9.1f}")


if __name__ == "__main__":
    main()
