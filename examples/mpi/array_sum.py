"""The array computation in one parallel job: every rank runs this file, and one goes on behind initialize().

    mpirun -np 8 python array_sum.py          # six workers
    python array_sum.py                       # one process is everything, on a laptop
    qsub sge.sh                           # in a job of Grid Engine
    sbatch slurm.sh                       # in a job of Slurm

Needs Dask, NumPy and mpi4py: pip install "hpclaunch[dask,mpi]".
"""

from __future__ import annotations

import argparse
import math
import time

from hpclaunch import Client, initialize


def main() -> None:
    """Sum over two axes of a three-dimensional array."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1000, help="rows and columns (default: 1000)")
    size = parser.parse_args().size
    chunk = max(1, size // 10)

    initialize()  # rank 0 is the head, ranks 2 and up are workers, and rank 1 comes back from here
    import dask.array as da  # the other ranks need not load it

    x = da.random.random((size, size, 10), chunks=(chunk, chunk, 5))
    y = da.random.random((size, size, 10), chunks=(chunk, chunk, 5))
    z = (da.arcsin(x) + da.arccos(y)).sum(axis=(1, 2))

    with Client() as client:
        start = time.perf_counter()
        result = z.compute(scheduler=client.get)
        seconds = time.perf_counter() - start
        workers = len(client.cluster.workers())

    mean = float(result.mean()) / (size * 10)
    print(f"{result.shape[0]} sums in {seconds:.2f} s on {workers} worker{'s' if workers > 1 else ''}")
    print(f"mean of the column sums: arcsin(x) + arccos(y) = {mean:.5f}, pi/2 = {math.pi / 2:.5f}")


if __name__ == "__main__":
    main()
