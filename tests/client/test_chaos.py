"""Random work on a cluster whose workers and jobs keep dying: every result is right, and nothing is left over."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from hpclaunch.client.client import Client
from hpclaunch.errors import CancelledError
from tests.client import work
from tests.client.conftest import until
from tests.client.devil import Devil
from tests.client.inside import request
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]


def combine(size: int, seconds: float, *parts: bytes) -> bytes:
    """Return bytes that depend on the inputs alone, large or small."""
    time.sleep(seconds)
    first = (sum(part[0] for part in parts) + len(parts) + size) % 256
    return bytes([first]) * size


def one_user(client: Client, seed: int, until_time: float) -> int:
    """Submit random graphs, check their results, cancel some; return how many results were checked."""
    rng = random.Random(seed)
    checked = 0
    while time.monotonic() < until_time:
        futures: list[Any] = []
        expected: list[bytes] = []
        for _ in range(rng.randrange(1, 40)):
            some = [rng.randrange(len(futures)) for _ in range(rng.randrange(4))] if futures else []
            size = rng.choice([1, 100, 70_000, 300_000])
            seconds = rng.choice([0, 0, 0.001, 0.02])
            futures.append(client.submit(combine, size, seconds, *(futures[i] for i in some)))
            expected.append(combine(size, 0, *(expected[i] for i in some)))
        cancelled = rng.random() < 0.2
        if cancelled:
            rng.choice(futures).cancel()
        kept = rng.sample(range(len(futures)), rng.randrange(1, len(futures) + 1))
        wanted = [(futures[i], expected[i]) for i in kept]
        futures.clear()
        for future, value in wanted:
            with contextlib.suppress(CancelledError):
                assert future.result(60) == value
                checked += 1
                continue
            assert cancelled
    return checked


def sums(size: int) -> tuple[Any, ...]:
    """Return a Dask array, dataframe and bag, with graphs of all kinds: trees, shuffles, all to all."""
    array, frame, bag = (pytest.importorskip(f"dask.{kind}") for kind in ("array", "dataframe", "bag"))
    pandas = pytest.importorskip("pandas")
    x = array.arange(size * size, chunks=size * size // 8).reshape(size, size).rechunk((size // 3, size // 2))
    y = (x @ x.T).sum(axis=0) + x.rechunk((size, 50)).cumsum(axis=0)[-1]
    table = pandas.DataFrame({"key": [i * 7 % 31 for i in range(size * 20)], "value": range(size * 20)})
    frame = frame.from_pandas(table, npartitions=12).shuffle("key", npartitions=7)
    words = (
        bag.from_sequence(range(size), npartitions=10)
        .map(lambda i: (i % 13, i))
        .foldby(lambda pair: pair[0], lambda total, pair: total + pair[1], 0, lambda a, b: a + b, 0)
    )
    return y, frame.groupby("key").value.agg(["sum", "count"]), words


def same(one: Any, other: Any) -> bool:
    """Say whether two results of :func:`sums` are equal."""
    return bool(
        (one[0] == other[0]).all()
        and one[1].sort_index().equals(other[1].sort_index())
        and sorted(one[2]) == sorted(other[2])
    )


def check_quiet(cluster: MiniCluster, client: Client) -> None:
    """When all is over nothing is left, the head's state is whole, and the cluster works."""

    def ask(method: str) -> Any:
        return request(client, method)

    ask("check")
    try:
        until(lambda: client.scheduler_info()["tasks"] == 0)
    except AssertionError:
        pytest.fail(f"left: {ask('tasks')[:5]}, workers: {client.scheduler_info()['workers']}")
    until(lambda: client.scheduler_info()["held"] == 0)
    assert client.submit(work.inc, 1).result(20) == 2
    for log in (cluster.logs(), cluster.head_log()):
        assert "Traceback" not in log, log


#: Seconds of each of these tests; more by hand.
SECONDS = float(os.environ.get("HPCLAUNCH_TEST_CHAOS_SECONDS", "12"))


@pytest.mark.slow
def test_dask_graphs_come_out_as_on_a_quiet_cluster(own_cluster: Make) -> None:
    dask = pytest.importorskip("dask")
    quiet = dask.compute(*sums(60), scheduler="sync")
    cluster, client = own_cluster(jobs=3, processes=2, threads=2, death_timeout=1, heartbeat=0.2, silence=1.0)
    watching = Client(cluster.directory, set_as_default=False)
    end = time.monotonic() + SECONDS
    devil = Devil(
        cluster, watching, 3, seconds=3.0
    )  # new workers take their time to import what these graphs need
    count = 0
    with devil.at_work():
        while time.monotonic() < end or not count:
            assert same(dask.compute(*sums(60), scheduler=client.get), quiet)
            count += 1
    watching.close()
    assert devil.deeds
    check_quiet(cluster, client)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_all_results_are_right_whoever_dies(own_cluster: Make, seed: int) -> None:
    cluster, client = own_cluster(jobs=3, processes=2, threads=2, death_timeout=1, heartbeat=0.2, silence=1.0)
    end = time.monotonic() + SECONDS
    second = Client(cluster.directory)
    with Devil(cluster, second, seed).at_work(), concurrent.futures.ThreadPoolExecutor(4) as pool:
        users = [
            pool.submit(one_user, c, 10 * seed + i, end) for i, c in enumerate([client, client, second, second])
        ]
        assert sum(user.result() for user in users) > 100
    second.close()
    check_quiet(cluster, client)
