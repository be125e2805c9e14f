"""The functions that contestants run, importable by all of them, and the clusters that they run on."""

from __future__ import annotations

import contextlib
import sys
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
def our_client(workers: int) -> Iterator[Any]:
    """Give a client of a new LocalCluster with that many workers of one thread: head, jobs, TLS and all."""
    from hpclaunch import Client, LocalCluster

    with LocalCluster(n_workers=workers) as cluster, Client(cluster) as client:
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
