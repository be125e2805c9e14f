"""Futures that go from task to task, in queues, variables and results: none is released in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpclaunch import Future, Queue, Variable, get_client
from hpclaunch.client.client import Client
from hpclaunch.errors import UnknownTaskError
from tests.client import work
from tests.client.conftest import until
from tests.comm.minihead import MiniCluster


def make_future(number: int, size: int) -> Future:
    return get_client().submit(work.sized, number, size)


def nest(number: int, size: int, depth: int) -> Future:
    """Return a future of a future ... of a number."""
    if not depth:
        return get_client().submit(work.sized, number, size)
    return get_client().submit(nest, number, size, depth - 1)


def read(future: Any) -> int:
    """Return what is at the end of futures of futures."""
    while isinstance(future, Future):
        future = future.result(20)
    return int(future)


def put_future(name: str, number: int, size: int) -> None:
    Queue(name).put({"future": make_future(number, size)})


def get_future(name: str) -> int:
    return read(Queue(name).get(timeout=20)["future"])


def get_and_return_future(name: str) -> Future:
    return Queue(name).get(timeout=20)["future"]


def set_future(name: str, number: int) -> None:
    Variable(name).set(make_future(number, 0))


def look_at_future(name: str) -> int:
    return read(Variable(name).get(timeout=20))


@pytest.mark.parametrize("size", [0, 100_000])
def test_futures_that_tasks_of_one_worker_put_in_a_queue_and_take(client: Client, size: int) -> None:
    count = 200
    takers = client.map(get_future, ["q"] * (count // 2))
    returners = client.map(get_and_return_future, ["q"] * (count // 2))
    client.gather(client.map(put_future, ["q"] * count, range(count), [size] * count))
    taken = client.gather(takers) + [read(future) for future in client.gather(returners)]
    assert sorted(taken) == list(range(count))


def test_a_variable_that_tasks_set_and_read(client: Client) -> None:
    futures = []
    for i in range(100):
        futures += [client.submit(set_future, "v", i), client.submit(look_at_future, "v")]
    numbers = client.gather(futures)[1::2]
    assert all(0 <= number < 100 for number in numbers)
    Variable("v").delete()


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_task_may_return_a_future(client: Client, size: int) -> None:
    for i in range(50):
        assert read(client.submit(make_future, i, size).result(20)) == i
    futures = [future.result(20) for future in client.map(make_future, range(100), [size] * 100)]
    assert [read(future) for future in futures] == list(range(100))
    assert read(client.submit(nest, 5, size, 20)) == 5


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_future_that_is_a_result_goes_on_as_an_argument_and_comes_back(client: Client, size: int) -> None:
    futures = client.map(make_future, range(50), [size] * 50)
    passed = client.map(work.same, futures)
    del futures
    again = client.map(work.same, passed)
    del passed
    assert [read(future) for future in again] == list(range(50))


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_future_made_by_hand_is_that_of_the_task(client: Client, cluster: MiniCluster, size: int) -> None:
    future = client.submit(work.sized, 7, size)
    assert Future(future.key) is Future(future.key, client) is future
    with Client(cluster.directory, set_as_default=False) as other:
        theirs = Future(future.key, other)
        assert theirs is not future
        assert theirs.client is other
        del future
        assert theirs.result(10) == 7
        assert other.submit(read, theirs).result(10) == 7


def read_by_key(key: str) -> int:
    return int(Future(key).result(20))


def test_a_future_made_by_hand_in_a_task(client: Client) -> None:
    future = client.submit(work.sized, 3, 100_000)
    assert client.submit(read_by_key, future.key).result(20) == 3
    with pytest.raises(UnknownTaskError):
        client.submit(read_by_key, "no such task").result(20)


def test_a_future_of_a_task_that_nobody_has_submitted_is_lost(client: Client) -> None:
    future = Future("early")
    with pytest.raises(UnknownTaskError, match=r"task early is not known here: .* it was never submitted"):
        future.result(10)
    assert future.status == "lost"
    assert isinstance(future.exception(), UnknownTaskError)
    assert future.done()
    future.retry()
    kept = client.submit(work.inc, 1, key="early")  # else it may be released before the next line asks for it
    assert kept.result(10) == 2
    assert Future("early").result(10) == 2
    assert future.status == "lost"


def test_what_is_no_future_by_hand(client: Client) -> None:
    with pytest.raises(TypeError, match="one of a Client, not of a str"):
        Future("x", "tcp://host")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a key is a text"):
        Future("")
    client.close()
    with pytest.raises(ValueError, match="there is no client here"):
        Future("x")


def name_task(key: str, size: int, gate: str = "") -> tuple[Future, bytes]:
    """Return the future of a task that exists, once there is a file of that name, and some bytes."""
    if gate:
        work.wait_for(gate)
    return Future(key), bytes(size)


@pytest.mark.parametrize("size", [0, 100_000])
def test_results_that_name_each_other_in_a_ring_go_when_nobody_has_one(client: Client, size: int) -> None:
    futures = client.map(name_task, ["b", "c", "a"], [size] * 3, key=["a", "b", "c"])
    assert [inside.key for inside, _ in client.gather(futures)] == ["b", "c", "a"]
    one = futures[0]
    del futures
    until(lambda: not client.scheduler_info()["relays"])
    for _ in range(7):  # any of them leads to all
        one = one.result(10)[0]
    assert one.key == "b"
    del one
    until(lambda: not client.scheduler_info()["tasks"], "forgetting the ring")


def test_a_result_that_names_a_task_which_uses_it_goes(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source = client.submit(name_task, "user", 100_000, str(gate), key="source")
    user = client.submit(work.length, source, key="user")
    gate.touch()
    assert user.result(10) == 2
    assert source.result(10)[0] is user
    del source, user
    until(lambda: not client.scheduler_info()["tasks"], "forgetting both")
