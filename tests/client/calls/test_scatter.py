"""Values that a client puts on the cluster, copies of results, and futures that go from client to client."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpclaunch import get_client
from hpclaunch.client.calls import scatter as data
from hpclaunch.client.client import Client
from hpclaunch.client.futures.future import Future
from hpclaunch.comm import fetch
from hpclaunch.errors import LostResultError, UserError
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import block, core_of
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]

# --- scatter


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_scatter(client: Client, size: int) -> None:
    array = np.arange(size)
    future = client.scatter(array)
    assert isinstance(future, Future)
    assert client.submit(np.sum, future).result(10) == array.sum()
    np.testing.assert_array_equal(future.result(10), array)
    assert [len(holders) for holders in client.who_has(future).values()] == [int(size > 10)]


def test_scatter_keeps_the_shape(client: Client) -> None:
    assert client.gather(client.scatter([1, 2, 3])) == [1, 2, 3]
    assert client.gather(client.scatter((1, "two"))) == (1, "two")
    assert client.gather(client.scatter({"a": 1, "b": [2]})) == {"a": 1, "b": [2]}
    assert client.gather(client.scatter({7, 8})) == {7, 8}
    assert client.gather(client.scatter(iter(range(3)))) == [0, 1, 2]
    assert client.scatter("one text").result(10) == "one text"
    assert client.scatter({"key": 1})["key"].key == "key"


def test_equal_values_are_one(client: Client) -> None:
    one, two = client.scatter([np.ones(100_000), np.ones(100_000)])
    assert one is two
    three = client.scatter(np.ones(100_000), hash=False)
    assert three is not one
    assert sum(len(keys) for keys in client.has_what().values()) == 2


def test_broadcast(client: Client) -> None:
    future = client.scatter(work.big(100_000), broadcast=True)
    assert sorted(client.who_has(future)[future.key]) == sorted(client.nthreads())


def test_scatter_to_a_worker(client: Client) -> None:
    for name in client.nthreads():
        future = client.scatter(work.big(100_000, 7), workers=[name], hash=False)
        assert client.who_has(future) == {future.key: [name]}


def test_a_value_is_sent_once_however_many_tasks_use_it(client: Client) -> None:
    large = client.scatter(work.big(1_000_000))
    assert client.gather(client.map(work.length, [large] * 20)) == [1_000_000] * 20
    del large


@pytest.mark.slow
def test_scattered_data_that_is_lost(own_cluster: Make) -> None:
    cluster, client = own_cluster(jobs=1)
    small, large = client.scatter([work.big(10), work.big(1_000_000)])
    os.kill(client.submit(work.pid).result(10), signal.SIGKILL)
    until(lambda: cluster.logs().count("SIGKILL"))
    assert client.submit(work.length, small).result(20) == 10  # the head has it
    with pytest.raises(LostResultError, match=r"scattered, and the last worker that kept it is gone\. Scatter"):
        client.submit(work.length, large).result(20)


@pytest.fixture
def through_the_head(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of values that are sent through the head."""
    sent: list[str] = []
    send = data._send

    async def noting(client: Client, values: Any) -> None:
        sent.extend(value.future.key for value in values)
        await send(client, values)

    monkeypatch.setattr(data, "_send", noting)
    return sent


@pytest.mark.parametrize("near", [True, False])
def test_large_values_go_straight_to_workers(
    client: Client, through_the_head: list[str], near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not near:
        monkeypatch.setattr(fetch, "node_id", lambda: "")
    arrays = [np.arange(1_000_000.0) + i for i in range(6)]
    futures = client.scatter([*arrays, "small"])
    assert through_the_head == [futures[-1].key]
    held = [len(keys) for keys in client.has_what().values()]
    assert max(held) - min(held) <= 1
    (holder,) = client.who_has(futures[0])[futures[0].key]
    assert client.gather(client.map(np.sum, futures[:-1])) == [array.sum() for array in arrays]
    for future, array in zip(futures, arrays, strict=False):
        np.testing.assert_array_equal(future.result(20), array)
    address = client.scheduler_info()["workers"][holder]["address"]
    there = client.scatter(arrays[1], workers=[address], hash=False)
    assert client.who_has(there) == {there.key: [holder]}
    del futures, future, there
    gc.collect()
    until(lambda: not any(client.has_what().values()))


def test_a_worker_that_can_not_be_reached_gets_values_through_the_head(
    client: Client, through_the_head: list[str]
) -> None:
    for worker in client.scheduler_info()["workers"].values():
        block(client, worker["address"])
    future = client.scatter(np.arange(1_000_000.0))
    assert client.submit(len, future).result(20) == 1_000_000
    assert through_the_head == [future.key]


@pytest.mark.parametrize("size", [3_000, 30_000, 4_000_000])
def test_many_values_through_the_head(client: Client, through_the_head: list[str], size: int) -> None:
    for worker in client.scheduler_info()["workers"].values():
        block(client, worker["address"])
    arrays = [np.arange(size // 8) + i for i in range(40_000_000 // max(size, 200_000))]
    futures = client.scatter(arrays)
    assert sorted(through_the_head) == sorted(future.key for future in futures)
    assert client.gather(client.map(np.sum, futures)) == [array.sum() for array in arrays]


def test_a_value_of_which_nothing_is_heard_is_sent_again(
    client: Client, through_the_head: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(*_: Any) -> bool:
        return True

    monkeypatch.setattr(core_of(client).fetcher, "bring", lose)
    monkeypatch.setattr(data, "_UPDATE_SECONDS", 0.05)
    future = client.scatter(np.arange(1_000_000.0))
    assert client.submit(len, future).result(20) == 1_000_000
    assert through_the_head == [future.key]


def test_large_arguments_are_told_of(client: Client) -> None:
    array = np.zeros(1_500_000)
    with pytest.warns(UserWarning, match=r"a call of len has 12 MB of arguments.* scatter\(\) once") as told:
        assert client.submit(len, array).result(20) == 1_500_000
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="a call of len has 12 MB"):
        assert client.gather(client.map(len, [array] * 3)) == [1_500_000] * 3


def test_values_for_a_worker_that_is_not_there(client: Client) -> None:
    with pytest.raises(UserError, match="there is no worker no-such-worker to keep this"):
        client.scatter(np.arange(1_000_000.0), workers=["no-such-worker"])
    with pytest.raises(LostResultError, match="no worker to keep"):
        client.scatter(work.big(100_000), workers=["no-such-worker"], hash=False).result(10)


def test_no_worker_to_scatter_to(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=0)
    with pytest.raises(LostResultError, match="no worker to keep"):
        client.scatter(work.big(1_000_000)).result(10)
    assert client.scatter(5).result(10) == 5


def test_scatter_in_a_task(client: Client) -> None:
    def parent() -> int:
        client = get_client()
        return sum(client.gather(client.map(work.length, [client.scatter(work.big(100_000))] * 2)))

    assert client.submit(parent).result(10) == 200_000


# --- copies


def test_replicate(client: Client) -> None:
    small, large = client.submit(work.inc, 1), client.submit(work.big, 1_000_000)
    client.replicate([small, large])
    assert {key: len(holders) for key, holders in client.who_has([small, large]).items()} == {
        small.key: 0,
        large.key: 2,
    }
    assert all(large.key in keys for keys in client.has_what().values())
    only = client.submit(work.big, 2_000_000)
    client.replicate(only, n=1)
    assert len(client.who_has(only)[only.key]) == 1


def test_rebalance(client: Client) -> None:
    one = next(iter(client.nthreads()))
    futures = client.map(work.big, range(1_000_000, 1_000_008), workers=one)
    client.rebalance(futures)
    assert sorted(len(keys) for keys in client.has_what().values()) == [4, 4]
    assert all(len(holders) == 1 for holders in client.who_has(futures).values())
    assert [len(value) for value in client.gather(futures)] == list(range(1_000_000, 1_000_008))
    assert sum(client.gather(client.map(work.length, futures, workers=one))) == 8_000_028
    client.rebalance()


@pytest.mark.slow
def test_a_copy_survives_its_first_holder(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=2)
    future = client.scatter(work.big(1_000_000, 3), broadcast=True)
    victim = client.submit(work.pid).result(10)
    os.kill(victim, signal.SIGKILL)
    until(lambda: cluster.logs().count("SIGKILL"))
    assert future.result(20) == work.big(1_000_000, 3)


# --- futures between clients


def test_a_future_goes_to_another_client(client: Client, cluster: MiniCluster) -> None:
    futures = [
        client.submit(work.inc, 1),
        client.submit(work.big, 1_000_000),
        client.submit(work.fail, "so it goes"),
    ]
    data = pickle.dumps(futures)
    with Client(cluster.directory) as other:
        small, large, bad = pickle.loads(data)
        assert small.client is other
        assert small.result(10) == 2
        assert len(large.result(10)) == 1_000_000
        assert "so it goes" in str(bad.exception(10))
        assert other.submit(work.inc, small).result(10) == 3
        del futures
        gc.collect()
        assert other.submit(work.length, large).result(10) == 1_000_000
        del small, large, bad


def test_a_future_that_comes_home_is_the_same(client: Client) -> None:
    future = client.submit(work.inc, 1)
    assert pickle.loads(pickle.dumps(future)) is future


def test_a_future_that_nobody_keeps(client: Client) -> None:
    data = pickle.dumps(client.submit(work.inc, 1))
    until(lambda: not client.scheduler_info()["tasks"])
    with pytest.raises(LostResultError, match="not known here"):
        pickle.loads(data).result(10)


def test_a_pickled_future_needs_a_client(client: Client) -> None:
    data = pickle.dumps(client.submit(work.inc, 1))
    client.close()
    with pytest.raises(ValueError, match="there is no client here"):
        pickle.loads(data)


def test_release(client: Client) -> None:
    future = client.submit(work.inc, 1)
    future.result(10)
    future.release()
    until(lambda: not client.scheduler_info()["tasks"])
    again = client.submit(work.inc, 2, key=future.key)
    assert again is not future
    assert again.result(10) == 3
    del future
    assert again.result(10) == 3
