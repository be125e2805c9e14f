"""A client in a program with an event loop of its own: whatever waits is awaited there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import (
    Event,
    LocalCluster,
    Lock,
    MultiLock,
    Queue,
    Variable,
    as_completed,
    delayed,
    get_client,
    wait,
)
from hpclaunch.client.client import Client
from hpclaunch.errors import CommClosedError, TaskError
from tests.client import work
from tests.client.conftest import until
from tests.comm.minihead import MiniCluster

Scene = Callable[[Client], Awaitable[Any]]


@pytest.fixture
def play(client: Client, cluster: MiniCluster) -> Callable[[Scene], Any]:
    """Run a coroutine with an asynchronous client; ``client`` looks afterwards that nothing is left."""

    def play(scene: Scene) -> Any:
        async def main() -> Any:
            async with Client(cluster.directory, asynchronous=True) as own:
                return await asyncio.wait_for(scene(own), 30)

        return asyncio.run(main())

    return play


def test_futures_are_awaited(play: Callable[[Scene], Any]) -> None:
    async def scene(client: Client) -> None:
        future = client.submit(work.inc, 1)
        assert await future == 2
        assert await future.result() == 2
        assert await future.exception() is None
        assert len(await client.submit(work.big, 1_000_000)) == 1_000_000
        bad = client.submit(work.fail, "so it goes")
        with pytest.raises(ValueError, match="so it goes"):
            await bad
        assert "so it goes" in str(await bad.exception())
        assert "in fail" in await bad.traceback()

    play(scene)


def test_gather(play: Callable[[Scene], Any]) -> None:
    async def scene(client: Client) -> None:
        assert await client.gather(client.map(work.inc, range(1000))) == list(range(1, 1001))
        futures = client.map(work.fail_odds, range(4))
        assert await client.gather(futures, errors="skip") == [0, 2]
        with pytest.raises(ValueError, match="1 is odd"):
            await client.gather(futures)
        large = [client.submit(work.big, 100_000, i) for i in range(5)]
        assert [len(one) for one in await client.gather(large)] == [100_000] * 5

    play(scene)


def test_the_loop_goes_on_meanwhile(play: Callable[[Scene], Any], tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def scene(client: Client) -> None:
        waiting = [client.submit(work.wait_for, str(gate), i) for i in range(100)]
        everyone = asyncio.gather(*waiting)  # a hundred that wait, on one thread
        with pytest.raises(TimeoutError, match=r"has not ended within 0\.02 s"):
            await waiting[0].result(timeout=0.02)
        assert not everyone.done()
        gate.touch()
        assert await everyone == list(range(100))

    play(scene)


def test_as_completed_and_wait(play: Callable[[Scene], Any], tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def scene(client: Client) -> None:
        futures = client.map(work.inc, range(50))
        results = [await future async for future in as_completed(futures)]
        assert sorted(results) == list(range(1, 51))
        pairs = [pair async for pair in as_completed(futures, with_results=True)]
        assert {result for _, result in pairs} == set(range(1, 51))
        slow, quick = client.submit(work.wait_for, str(gate)), client.submit(work.inc, 1)
        done, not_done = await wait([slow, quick], return_when="FIRST_COMPLETED")
        assert (done, not_done) == ({quick}, {slow})
        with pytest.raises(TimeoutError):
            await wait([slow], timeout=0.02)
        with pytest.raises(TimeoutError):
            async for _ in as_completed([slow], timeout=0.02):
                pass
        gate.touch()
        assert (await wait([slow, quick])).done == {slow, quick}

    play(scene)


def test_questions_and_data(play: Callable[[Scene], Any]) -> None:
    async def scene(client: Client) -> None:
        assert get_client() is client
        assert list((await client.nthreads()).values()) == [1, 1]
        future = await client.scatter(work.big(100_000))
        assert await client.submit(work.length, future) == 100_000
        await client.replicate(future)
        assert len((await client.who_has(future))[future.key]) == 2
        assert len(set((await client.run(work.pid)).values())) == 2
        await client.publish_dataset(5, name="five")
        assert await client.get_dataset("five") == 5
        await client.unpublish_dataset("five")
        assert await client.list_datasets() == []
        assert await client.get({"x": 1, "y": (work.inc, "x")}, "y") == 2
        assert await client.compute(delayed(work.inc)(1)) == 2
        future = client.submit(work.fail)
        await future.exception()
        await future.retry()
        await client.cancel(future)
        assert await client.wait_for_workers(2) is None

    play(scene)


def test_named_things(play: Callable[[Scene], Any]) -> None:
    async def scene(client: Client) -> None:
        waiting = asyncio.ensure_future(Event("go").wait())
        await Event("go").set()
        assert await waiting
        await Event("go").clear()
        queue = await Queue("q")
        await queue.put(5)
        assert await queue.get() == 5
        await Variable("v").set(6)
        assert await Variable("v").get() == 6
        await Variable("v").delete()
        async with Lock("l") as lock:
            assert await lock.locked()
            assert not await Lock("l").acquire(timeout=0.01)
        async with MultiLock(["l", "m"]) as several:
            assert several.locked()
            assert not await MultiLock(["m"]).acquire(blocking=False)
        assert not several.locked()

    play(scene)


def test_what_nobody_awaits_any_more_is_given_up(play: Callable[[Scene], Any]) -> None:
    async def scene(client: Client) -> None:
        mine, other, third = Lock("x"), Lock("x"), Lock("x")
        await mine.acquire()
        for call in (other.acquire, Queue("q").get, Event("e").wait, Variable("v").get):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call(), 0.05)
        await mine.release()
        assert await third.acquire(timeout=10)  # the other would have it
        await third.release()
        await Queue("q").put(1)
        assert await Queue("q").get(timeout=10) == 1  # a client would have taken it

    play(scene)


def test_the_datasets_of_an_asynchronous_client(play: Callable[[Scene], Any]) -> None:
    async def scene(client: Client) -> None:
        await client.publish_dataset(a=1, b=2)
        assert await client.datasets["a"] == 1
        assert [name async for name in client.datasets] == ["a", "b"]
        for call in (len, list, lambda some: some.__setitem__("c", 3), lambda some: some.__delitem__("a")):
            with pytest.raises(TypeError, match="asynchronous client can't be used so: await it"):
                call(client.datasets)
        with pytest.raises(TypeError, match="list_datasets"):
            "a" in client.datasets  # noqa: B015
        await client.unpublish_dataset("a")
        await client.unpublish_dataset("b")

    play(scene)


def test_actors(play: Callable[[Scene], Any]) -> None:
    async def scene(client: Client) -> None:
        counter = await client.submit(work.Counter, 3, actor=True)
        assert await counter.n == 3  # an attribute does not block the loop either
        assert await asyncio.gather(*(counter.add(1) for _ in range(10))) == list(range(4, 14))
        with pytest.raises(ValueError, match="so it goes"):
            await counter.fail("so it goes")
        answers = [counter.later(1) for _ in range(3)]
        assert {await one async for one in as_completed(answers)} == {14, 15, 16}
        assert await client.submit(work.count_up, counter) == 17
        future, bad = client.submit(work.inc, 1), counter.fail("so it goes")
        assert (await wait([future, bad, answers[0]], timeout=10)).done == {future, bad, answers[0]}
        assert bad in (await wait([counter.wait(0.2), bad], return_when="FIRST_EXCEPTION")).done
        assert await client.gather([future, bad, counter.same(5)], errors="skip") == [2, 5]

    play(scene)


def test_batches(play: Callable[[Scene], Any]) -> None:
    async def scene(client: Client) -> None:
        futures = client.map(work.inc, range(100))
        batches = [batch async for batch in as_completed(futures, with_results=True).batches()]
        assert sorted(result for batch in batches for _, result in batch) == list(range(1, 101))

    play(scene)


def test_many_clients_are_made_by_await(cluster: MiniCluster, client: Client) -> None:
    async def main() -> None:
        clients = await asyncio.gather(*(Client(cluster.directory, asynchronous=True) for _ in range(5)))
        assert await asyncio.gather(*(one.submit(work.inc, 1) for one in clients)) == [2] * 5
        await asyncio.gather(*(one.close() for one in clients))
        with pytest.raises(CommClosedError):
            clients[0].submit(work.inc, 1)

    asyncio.run(main())


def test_before_it_is_connected(cluster: MiniCluster, client: Client) -> None:
    async def main() -> None:
        own = Client(cluster.directory, asynchronous=True)
        assert "not connected yet" in repr(own)
        future = own.submit(work.inc, 1)  # is sent later
        await own
        assert await future == 2
        with pytest.raises(TypeError, match="async with"), own:
            pass
        await own.close()

    asyncio.run(main())


def test_a_future_is_awaited_of_a_blocking_client_too(client: Client) -> None:
    async def main() -> None:
        assert await client.submit(work.inc, 1) == 2
        assert [await future async for future in as_completed(client.map(work.inc, range(3)))]

    asyncio.run(main())


def test_an_executor_of_it(play: Callable[[Scene], Any]) -> None:
    async def scene(client: Client) -> None:
        loop = asyncio.get_running_loop()
        executor = client.get_executor()
        assert await loop.run_in_executor(executor, work.inc, 1) == 2
        with pytest.raises(ValueError, match="so it goes"):
            await loop.run_in_executor(executor, work.fail, "so it goes")

    play(scene)


def test_the_cluster_goes_away(tmp_path: Path) -> None:
    async def main() -> None:
        async with Client(cluster.directory, asynchronous=True) as client:
            future = client.submit(work.wait_for, str(tmp_path / "never"))
            waiting = asyncio.ensure_future(future.result())
            await asyncio.sleep(0)
            cluster.head.kill()
            with pytest.raises((CommClosedError, TaskError)):
                await waiting

    with MiniCluster(tmp_path / "one", jobs=0) as cluster:
        asyncio.run(main())


def test_a_loop_that_closes_early(client: Client, cluster: MiniCluster, tmp_path: Path) -> None:
    gate, notes = str(tmp_path / "gate"), str(tmp_path / "notes")

    async def main() -> Client:
        own = await Client(cluster.directory, asynchronous=True)
        own.keep = own.submit(work.note_and_wait, notes, gate, 5)  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            await own.keep.result(timeout=0.01)  # type: ignore[attr-defined]
        return own

    own = asyncio.run(main())
    until(lambda: work.times_called(notes))
    Path(gate).touch()
    until(lambda: own.keep.done())  # type: ignore[attr-defined]
    asyncio.run(own.__aexit__())
    assert client.submit(work.inc, 1).result(10) == 2


@pytest.mark.slow
@pytest.mark.parametrize("processes", [False, True])
def test_an_asynchronous_cluster(processes: bool) -> None:
    async def main() -> None:
        async with (
            LocalCluster(n_workers=1, processes=processes, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            assert await cluster is cluster
            assert await client.submit(work.inc, 1) == 2
            await cluster.scale(2)
            await cluster.wait_for_workers(2, timeout=20)
            assert len(await cluster.workers()) == 2
            assert len(await cluster.jobs()) == 2
            assert "2" in repr(cluster)
        assert cluster.status == "closed"

    asyncio.run(main())
