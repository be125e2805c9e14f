"""A computation on arrays larger than one task: Dask's arrays, run by our client.

Dask cuts the arrays into chunks and makes a graph of tasks; ``scheduler=client.get`` runs that graph on the
cluster. For independent random numbers between 0 and 1, arcsin(x) + arccos(y) is pi/2 on average, which is how the
result is checked.

    python 03_array.py
    python 03_array.py --cluster slurm --jobs 8 --memory "2 GB" --size 10000

Needs Dask and NumPy: pip install "hpclaunch[dask]".
"""

from __future__ import annotations

import math
import time

import dask.array as da
from _cluster import arguments, open_cluster

from hpclaunch import Client


def main() -> None:
    """Sum over two axes of a three-dimensional array."""
    parser = arguments(__doc__)
    parser.add_argument("--size", type=int, default=1000, help="rows and columns (default: 1000)")
    options = parser.parse_args()
    size, chunk = options.size, max(1, options.size // 10)

    x = da.random.random((size, size, 10), chunks=(chunk, chunk, 5))
    y = da.random.random((size, size, 10), chunks=(chunk, chunk, 5))
    z = (da.arcsin(x) + da.arccos(y)).sum(axis=(1, 2))

    with open_cluster(options) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(1)
        start = time.perf_counter()
        result = z.compute(scheduler=client.get)
        seconds = time.perf_counter() - start

    mean = float(result.mean()) / (size * 10)
    print(f"{x.npartitions} chunks of {chunk} x {chunk} x 5, {2 * x.nbytes / 1e9:.2f} GB of random numbers")
    print(f"{result.shape[0]} sums in {seconds:.2f} s")
    print(f"mean of arcsin(x) + arccos(y) = {mean:.5f}, pi/2 = {math.pi / 2:.5f}")


if __name__ == "__main__":
    main()
