"""A small real cluster for the client's tests: a head process and two workers, which all of them share.

A test that breaks a cluster, or needs one that is otherwise, makes its own and is slow.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.client.client import Client
from tests.comm.minihead import MiniCluster


def until(condition: Callable[[], Any], what: str = "it", seconds: float = 15.0) -> Any:
    """Wait until a condition holds; return what it gave."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} does not happen"
        time.sleep(0.005)
    return value


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniCluster]:
    with MiniCluster(tmp_path_factory.mktemp("cluster"), jobs=2) as cluster:
        with Client(cluster.directory) as probe:
            probe.wait_for_workers(2, 10)
        yield cluster


@pytest.fixture
def client(cluster: MiniCluster) -> Iterator[Client]:
    """A client of a cluster in which nothing is left by others, and nothing may be left by this test."""
    threads = set(threading.enumerate())
    client = Client(cluster.directory)
    fds = len(os.listdir("/proc/self/fd"))
    yield client
    client.close()
    until(lambda: not any(cluster.check().values()), "forgetting all tasks, results and questions")
    until(lambda: len(os.listdir("/proc/self/fd")) <= fds, "closing of all connections")
    until(lambda: {t for t in threading.enumerate() if t.name != "hpclaunch-io"} <= threads, "end of threads")


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Callable[..., tuple[MiniCluster, Client]]]:
    """Make clusters to be broken: a function that starts one with these jobs, and a client of it."""
    clusters: list[tuple[MiniCluster, Client]] = []

    def make(*, jobs: int = 2, processes: int = 1, **options: Any) -> tuple[MiniCluster, Client]:
        cluster = MiniCluster(tmp_path / f"cluster{len(clusters)}", jobs=jobs, processes=processes, **options)
        client = Client(cluster.directory)
        clusters.append((cluster, client))
        if jobs:
            client.wait_for_workers(jobs * processes, 10)
        return cluster, client

    yield make
    for cluster, client in clusters:
        client.close()
        cluster.close()
