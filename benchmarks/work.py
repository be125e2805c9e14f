"""The functions that contestants run, importable by all of them, and the clusters that they run on."""

from __future__ import annotations

import contextlib
import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


def inc(number: int) -> int:
    """Do next to nothing."""
    return number + 1


class Vitals(NamedTuple):
    """What a worker process is like once it has run a task."""

    pid: int
    modules: int
    rss: int  # bytes


def vitals(number: int) -> Vitals:
    """Look at the process that runs this."""
    import os

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Vitals(os.getpid(), len(sys.modules), pages * os.sysconf("SC_PAGE_SIZE"))


@contextlib.contextmanager
def our_client(workers: int, **options: Any) -> Iterator[Any]:
    """Give a client of a new LocalCluster with that many workers of one thread: head, jobs, TLS and all.

    ``options`` are further arguments of LocalCluster.
    """
    from hpclaunch import Client, LocalCluster

    with LocalCluster(n_workers=workers, **options) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(workers)
        yield client


@contextlib.contextmanager
def dask_client(workers: int) -> Iterator[Any]:
    """Give a client of a new dask.distributed cluster with that many workers, each a process of one thread."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        if workers:
            client.wait_for_workers(workers)
        yield client


class Adder:
    """An actor that counts."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, number: int) -> int:
        """Add to the total and return it."""
        self.total += number
        return self.total


class Block:
    """Bytes that are pickled out of band, as an array is."""

    def __init__(self, data: bytearray | memoryview | pickle.PickleBuffer) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: object) -> Any:
        return Block, (pickle.PickleBuffer(self.data),)


def make_block(size: int) -> Block:
    """Return a block of so many bytes, all of them touched."""
    return Block(bytearray(b"x") * size)


def measure_block(block: Block) -> int:
    """Return a block's size."""
    return block.data.nbytes


def worker_name(number: int) -> str:
    """Return the name of the worker that runs this, after a moment."""
    from hpclaunch import get_worker

    time.sleep(0.001)
    return str(get_worker().name)
