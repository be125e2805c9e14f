"""A user's program, which type checkers must take as it stands: tests/typing/test_typing.py runs them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, assert_type

from hpclaunch import (
    Actor,
    CancelledError,
    Client,
    Delayed,
    Event,
    Future,
    LocalCluster,
    Lock,
    Queue,
    TaskError,
    WorkerPlugin,
    as_completed,
    delayed,
    fire_and_forget,
    futures_of,
    get_client,
    get_task,
    get_worker,
    wait,
    worker_client,
)


def inc(x: int, by: int = 1) -> int:
    return x + by


def join(words: list[str], sep: str = " ") -> str:
    return sep.join(words)


def untyped(x, y=2):  # type: ignore[no-untyped-def]
    return x + y


async def fetch(x: int) -> float:
    return x / 2


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, by: int) -> int:
        self.value += by
        return self.value


class Prepared(WorkerPlugin):
    name = "prepared"

    def setup(self, worker: Any) -> None:
        print(worker.name)


def tasks(client: Client) -> None:
    one = client.submit(inc, 1)
    assert_type(one, Future[int])
    assert_type(one.result(), int)
    assert_type(one.result("500 ms"), int)
    assert_type(client.submit(inc, one), Future[int])  # a future stands for its result
    assert_type(client.submit(inc, x=one, by=2), Future[int])
    assert_type(client.submit(join, [client.submit(str, 1), client.submit(str, one)]), Future[str])  # at any depth
    assert_type(client.submit(inc, 1, retries=2, workers="node1", timeout="1 min"), Future[int])
    assert_type(client.submit(fetch, 1), Future[float])
    assert_type(client.submit(fetch, one, priority=1), Future[float])
    client.submit(untyped, 1, y=one)
    client.submit(lambda x: x, 1)
    many = client.map(inc, range(3), [1, 2, 3])
    assert_type(many, list[Future[int]])
    assert_type(client.map(inc, many, key="inc", retries=1), list[Future[int]])
    assert_type(client.map(fetch, range(3)), list[Future[float]])
    assert_type(client.gather(many), list[int])
    assert_type(client.gather(one), int)
    assert_type(client.gather({"one": one}), dict[str, int])
    assert_type(client.gather((one, one), errors="skip"), tuple[int, ...])
    client.gather([one, {"deep": many}])
    client.cancel(many, force=True)
    client.retry(one)


def waiting(client: Client) -> None:
    many = client.map(inc, range(3))
    for future in as_completed(many, timeout=10):
        assert_type(future, Future[int])
    for future, result in as_completed(many, with_results=True):
        assert_type(future, Future[int])
        print(result)
    done, not_done = wait(many, return_when="FIRST_COMPLETED")
    assert_type(done, set[Future[int]])
    assert_type(not_done, set[Future[int]])
    many[0].add_done_callback(lambda future: print(future.result() + 1))
    fire_and_forget(many)
    print(futures_of(many)[0].status)
    try:
        many[0].result()
    except CancelledError as error:
        print(error)
    except TaskError:
        print(many[0].traceback(), many[0].exception())


def data(client: Client) -> None:
    assert_type(client.scatter([1, 2]), list[Future[int]])
    assert_type(client.scatter({"a": 1.5}), dict[str, Future[float]])
    client.replicate(client.scatter([1], broadcast=True), n=2)
    client.publish_dataset(client.scatter([1]), name="numbers")
    print(client.get_dataset("numbers", default=None), client.datasets["numbers"], client.list_datasets())
    with Lock("files"):
        Queue("work").put(1)
    Event("go").set()


def actors(client: Client) -> None:
    future = client.submit(Counter, 5, actor=True, restarts=1)
    assert_type(future, Future[Actor])
    counter = future.result()
    print(counter.add(1).result(), counter.value)
    assert_type(client.map(Counter, range(3), actor=True), list[Future[Actor]])


def graphs(client: Client) -> None:
    lazy = delayed(inc)
    total = lazy(1) + lazy(2) * 3
    assert_type(lazy(1), Delayed[int])
    assert_type(lazy(1).compute(), int)
    print(total.compute(client), total.persist(), client.compute(total, sync=True))

    @delayed(pure=True)
    def double(x: int) -> int:
        return 2 * x

    assert_type(double(3), Delayed[int])
    print(client.get({"a": 1, "b": (inc, "a")}, "b"))


def executors(client: Client) -> None:
    with client.get_executor(retries=1) as executor:
        assert_type(executor.submit(inc, 1, by=2).result(), int)
        assert_type(list(executor.map(inc, range(3))), list[int])


def workers(client: Client) -> None:
    client.wait_for_workers(2, timeout="1 min")
    print(client.nthreads(), client.who_has(), client.why("inc-1"), client.scheduler_info()["workers"])
    client.register_plugin(Prepared())
    Path("helpers.py").write_text("ANSWER = 42\n")
    client.upload_file("helpers.py")
    results = client.run(inc, 1)
    assert results is not None


def in_a_task() -> int:
    print(get_task().key, get_worker().name, get_client().submit(inc, 1).result())
    with worker_client() as client:
        return client.submit(inc, 1).result()


async def asynchronously(cluster: str) -> None:
    async with Client(cluster, asynchronous=True) as client:
        print(await client.submit(inc, 1), await client.gather(client.map(inc, range(3))))


def main() -> None:
    """Run all of it."""
    with LocalCluster(n_workers=2, threads_per_worker=2) as cluster, Client(cluster, name="typed") as client:
        assert_type(client, Client)
        for part in (tasks, waiting, data, actors, graphs, executors, workers):
            part(client)
        print(client.submit(in_a_task).result())
        asyncio.run(asynchronously(cluster.name))


if __name__ == "__main__":
    main()
