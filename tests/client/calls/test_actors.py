"""Objects on workers: their methods, state, order and end, called by clients and by tasks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.client.calls.actors import Actor, ActorFuture, restore_actor
from hpclaunch.client.client import Client
from hpclaunch.client.futures.progress import progress
from hpclaunch.client.futures.waiting import as_completed, wait
from hpclaunch.comm import serialize
from hpclaunch.errors import ActorError, SerializationError, TaskError
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import block, request
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]


def test_methods_attributes_and_state(client: Client) -> None:
    future = client.submit(work.Counter, 10, actor=True)
    counter = future.result(10)
    assert type(counter) is Actor
    answer = counter.add(1)
    assert type(answer) is ActorFuture
    assert answer.result(10) == 11
    assert counter.n == 11
    assert counter.add(by=4).result(10) == 15
    assert client.submit(work.Counter, key="other", actor=True).result(10).n == 0
    assert repr(counter).startswith("<Actor Counter, key: Counter-")
    assert {"add", "fail"} <= set(dir(counter))
    assert client.gather([future])[0].n == 15


def test_calls_of_one_caller_keep_their_order(client: Client) -> None:
    counter = client.submit(work.Counter, actor=True).result(10)
    answers = [counter.add(1) for _ in range(1000)]
    assert [answer.result(10) for answer in answers] == list(range(1, 1001))


def test_large_arguments_and_answers(client: Client) -> None:
    counter = client.submit(work.Counter, actor=True).result(10)
    data = os.urandom(3_000_000)
    assert counter.same(data).result(20) == data


def test_answers_that_come_through_the_head(client: Client) -> None:
    """As where the network lets no client reach a worker: large ones come some at a time."""
    for worker in client.scheduler_info()["workers"].values():
        block(client, worker["address"])
    counter = client.submit(work.Counter, actor=True).result(10)
    data = os.urandom(3_000_000)
    answers = [counter.same(data) for _ in range(30)]
    assert counter.add(1).result(20) == 1
    assert all(answer.result(20) == data for answer in answers)
    assert counter.same(b"x" * 70_000).result(10) == b"x" * 70_000
    late = [counter.same(data) for _ in range(30)]
    until(late[0].done)  # what waits yet is released with the client


def test_what_a_method_raises_is_raised_here(client: Client) -> None:
    counter = client.submit(work.Counter, actor=True).result(10)
    with pytest.raises(ValueError, match="no good"):
        counter.fail("no good").result(10)
    assert isinstance(counter.fail("x").exception(10), ValueError)
    with pytest.raises(AttributeError, match="nothing"):
        _ = counter.nothing
    with pytest.raises(AttributeError, match="set by its own methods"):
        counter.n = 3
    with pytest.raises(SerializationError):
        counter.same(lambda: client)
    with pytest.raises(SerializationError):
        counter.unpicklable().result(10)
    with pytest.raises(TimeoutError):
        counter.wait(0.5).result(0.01)
    assert counter.add(1).result(10) == 1  # and it lives


def test_a_class_that_cannot_be_made(client: Client) -> None:
    with pytest.raises(TypeError):
        client.submit(work.Counter, 1, 2, 3, actor=True).result(10)
    with pytest.raises(ValueError, match="restarts"):
        client.submit(work.Counter, actor=True, restarts=-1)


def test_tasks_and_actors_call_actors(client: Client) -> None:
    future = client.submit(work.Counter, actor=True)
    counter = future.result(10)
    assert sorted(client.gather(client.map(work.count_up, [counter] * 20))) == list(range(1, 21))
    assert client.submit(work.count_up, future).result(10) == 21  # the future is as good
    other = client.submit(work.Counter, actor=True).result(10)
    assert other.call_other(counter).result(10) == 22


def test_several_at_once(client: Client) -> None:
    counters = [f.result(10) for f in client.map(work.Counter, range(5), actor=True)]
    assert [c.add(1).result(10) for c in counters] == [1, 2, 3, 4, 5]


def test_answers_can_be_awaited_and_methods_may_be_coroutines(client: Client) -> None:
    counter = client.submit(work.Counter, actor=True).result(10)

    async def run() -> Any:
        first = await counter.add(2)
        return first, await counter.later(3), await asyncio.gather(*[_await(counter.add(1)) for _ in range(3)])

    async def _await(answer: ActorFuture) -> Any:
        return await answer

    assert asyncio.run(run()) == (2, 5, [6, 7, 8])


def test_an_actor_goes_with_its_future(client: Client, tmp_path: Path) -> None:
    future = client.submit(work.Counter, actor=True)
    counter = future.result(10)
    del future
    assert counter.add(1).result(10) == 1  # the proxy holds it
    gone = tmp_path / "gone"
    counter.note_end(str(gone)).result(10)
    del counter
    until(gone.exists, "the end of the actor")


@pytest.mark.slow
def test_through_the_head_where_the_network_forbids_the_direct_way(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1)
    request(client, "hide_workers", port=9)
    counter = client.submit(work.Counter, actor=True).result(10)
    counter._place = "127.1.0.0:9"
    assert [counter.add(1).result(10) for _ in range(3)] == [1, 2, 3]
    data = os.urandom(1_000_000)
    assert counter.same(data).result(10) == data


def test_the_death_of_its_worker_is_an_error_that_says_how(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=2)
    future = client.submit(work.Counter, actor=True, key="mine")
    counter = future.result(10)
    pid = counter.pid().result(10)
    waiting = counter.wait(60)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorError) as caught:
        waiting.result(20)
    assert "actor mine (Counter) was lost with its worker" in str(caught.value)
    assert "killed by signal 9 (SIGKILL)" in str(caught.value)
    with pytest.raises(ActorError, match="was lost with its worker"):
        counter.add(1).result(20)
    with pytest.raises(ActorError, match="was lost with its worker"):
        client.submit(work.count_up, counter).result(20)
    assert client.submit(work.inc, 1).result(20) == 2


@pytest.mark.slow
def test_an_actor_is_made_anew_so_often(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1, processes=2)
    counter = client.submit(work.Counter, 5, actor=True, restarts=1).result(10)
    assert counter.add(1).result(10) == 6
    pid = counter.pid().result(10)
    waiting = counter.wait(60)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorError, match=r"Whether that was carried out is not known"):
        waiting.result(20)
    assert counter.add(1).result(20) == 6  # from its arguments
    assert client.submit(work.count_up, counter).result(20) == 7
    os.kill(counter.pid().result(10), signal.SIGKILL)
    until(lambda: isinstance(counter.add(1).exception(20), ActorError))


@pytest.mark.slow
def test_a_proxy_in_a_task_on_another_worker_follows_the_actor(own_cluster: Make, tmp_path: Path) -> None:
    _, client = own_cluster(jobs=2)
    home, away = client.nthreads()
    future = client.submit(work.Counter, 5, actor=True, restarts=1, workers=home, allow_other_workers=True)
    counter = future.result(10)
    gate, seen = tmp_path / "gate", tmp_path / "seen"
    task = client.submit(work.count_before_and_after, counter, str(seen), str(gate), workers=away)
    until(seen.exists, "the first call")
    os.kill(counter.pid().result(10), signal.SIGKILL)
    gate.touch()
    assert task.result(30) == [6, 6]  # the second is from its arguments again
    del future, counter
    until(lambda: not client.scheduler_info()["tasks"] or task.done(), "releasing")


def test_a_proxy_of_an_actor_that_was_let_go_says_so(client: Client, tmp_path: Path) -> None:
    counter = client.submit(work.Counter, actor=True).result(10)
    stray = restore_actor(counter._key, counter._place, counter._worker, "Counter", ("add",))
    assert stray.add(1).result(10) == 1
    counter.note_end(str(tmp_path / "gone"))
    del counter
    until((tmp_path / "gone").exists, "the end of the actor")
    with pytest.raises(ActorError, match="was released"):
        stray.add(1).result(10)


def test_answers_among_futures(client: Client) -> None:
    counter = client.submit(work.Counter, actor=True).result(10)
    answers = [counter.add(1) for _ in range(5)]
    future = client.submit(work.inc, 1)
    assert set(as_completed([*answers, future])) == {*answers, future}
    assert sorted(result for _, result in as_completed(answers, with_results=True)) == [1, 2, 3, 4, 5]
    assert client.gather([*answers, future]) == [1, 2, 3, 4, 5, 2]
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        counter.wait(0.5).result("10 ms")


def test_waiting_for_answers_and_tasks_together(client: Client, tmp_path: Path) -> None:
    counter = client.submit(work.Counter, actor=True).result(10)
    future = client.submit(work.inc, 1)
    answers = [counter.add(1) for _ in range(3)]
    assert wait([future, {"of": answers}], timeout=10) == ({future, *answers}, set())
    gate = tmp_path / "gate"
    bad, held = counter.fail("no good"), counter.same(1)
    slow = client.submit(work.wait_for, str(gate))
    first = wait([slow, bad, held], return_when="FIRST_EXCEPTION", timeout=10)
    assert bad in first.done
    assert slow in first.not_done
    assert wait([slow, bad], return_when="FIRST_COMPLETED") == ({bad}, {slow})
    with pytest.raises(TimeoutError, match=rf"{slow.key} has not ended|among them {slow.key}"):
        wait([held, slow], timeout=0.01)
    gate.touch()
    assert wait(slow, 10) == ({slow}, set())
    progress([slow, *answers])
    assert client.gather([answers[0], bad, slow, counter.same(5)], errors="skip") == [1, slow.result(), 5]
    with pytest.raises(ValueError, match="no good"):
        client.gather([slow, bad])
    late = counter.wait(0.5)
    with pytest.raises(TimeoutError, match=r"1 of 1 answers of actors have not come within 0\.01 s"):
        list(as_completed([late, held], timeout=0.01))
    with pytest.raises(TimeoutError, match=r"1 of 2 answers of actors have not come within 0\.01 s"):
        wait([held, late], timeout=0.01)
    assert wait(late).done == {late}


def test_in_this_process() -> None:
    from hpclaunch import LocalCluster

    with LocalCluster(n_workers=1, processes=False) as cluster, Client(cluster) as client:
        counter = client.submit(work.Counter, actor=True).result(10)
        assert [counter.add(1).result(10) for _ in range(3)] == [1, 2, 3]


def test_a_process_without_memory_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``processes=False`` what could not be noted for want of memory fails, and everything goes on."""
    from hpclaunch import LocalCluster

    def no_memory(error: BaseException) -> Any:
        raise MemoryError

    with LocalCluster(n_workers=1, processes=False) as cluster, Client(cluster) as client:
        counter = client.submit(work.Counter, actor=True).result(10)
        with monkeypatch.context() as patch:
            patch.setattr(serialize, "failure_of", no_memory)
            for failed in (client.submit(work.fail_odds, 1), counter.fail("x")):
                with pytest.raises(TaskError, match=r"no memory left to note how it ended"):
                    failed.result(10)
        assert counter.add(1).result(10) == 1
        assert client.submit(work.inc, 1).result(10) == 2


@pytest.mark.slow
def test_closing_the_client_ends_waiting_for_answers(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1)
    counter = client.submit(work.Counter, actor=True).result(10)
    waiting = counter.wait(60)
    client.close()
    with pytest.raises(Exception, match="the client was closed"):
        waiting.result(10)
