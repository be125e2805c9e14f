"""Limits on how long tasks run: who is failed when, what is run again, and whom the supervisor is asked to end."""

from __future__ import annotations

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.timeouts import GRACE_SECONDS, overdue
from tests.scheduler.world import FakeClient, FakeWorker, World

LIMIT = m.Terms(timeout=2.5)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> FakeClient:
    return world.join_client()


def begin(world: World, *keys: str, on: FakeWorker) -> None:
    """Let the head place what is ready, and a worker begin these."""
    world.round()
    while on.inbox:
        on.receive()
    while on.start():
        pass
    assert on.running == list(keys)
    while on.outbox:
        world.hear(on)


def ticks(world: World, count: int) -> None:
    for _ in range(count):
        world.tick()


def drop(world: World, worker: FakeWorker) -> list[str]:
    """Deliver what the head says to a worker; return the tasks that it is told to drop."""
    world.round()
    dropped = [key for message in worker.inbox if isinstance(message, m.DropTasks) for key in message.keys]
    while worker.inbox:
        worker.receive()
    while worker.outbox:
        world.hear(worker)
    return dropped


def test_a_task_over_its_time_fails_and_its_dependents_with_it(world: World, client: FakeClient) -> None:
    worker = world.join()
    world.submit(client, ["slow"], terms=LIMIT)
    world.submit(client, ["after"], [["slow"]])
    begin(world, "slow", on=worker)
    ticks(world, 2)
    world.settle_clients()
    assert client.futures == {"slow": "pending", "after": "pending"}
    ticks(world, 1)
    assert drop(world, worker) == ["slow"]
    world.settle_clients()
    assert client.futures == {"slow": "failed", "after": "failed"}
    failure = client.errors["after"]
    assert failure.kind == "TaskTimeoutError"
    assert (
        "task slow ran for longer than its timeout of 2.5 s on worker w2 (job job, host unknown)" in failure.text
    )
    worker.finish("slow", "large")  # too late: it is freed
    world.settle()
    assert not world.state.timed
    world.release(client, "slow", "after")
    world.settle()
    world.check_empty()


def test_time_in_a_queue_does_not_count(world: World, client: FakeClient) -> None:
    worker = world.join()
    world.submit(client, ["first", "second"], terms=LIMIT)
    begin(world, "first", on=worker)
    ticks(world, 2)
    worker.finish("first", "small")
    begin(world, "second", on=worker)
    ticks(world, 2)
    worker.finish("second", "small")
    world.settle()
    assert client.futures == {"first": "done", "second": "done"}
    assert not world.state.timed


def test_who_does_not_end_within_the_grace_is_overdue_until_the_worker_answers(
    world: World, client: FakeClient
) -> None:
    worker = world.join(threads=2)
    world.submit(client, ["slow", "slower"], terms=LIMIT)
    begin(world, "slow", "slower", on=worker)
    ticks(world, 3)
    assert overdue(world.state, world.now) == {}
    worker.finish("slow", "failed")
    drop(world, worker)
    late = 2.5 + GRACE_SECONDS
    assert overdue(world.state, late - 0.1) == {}
    assert overdue(world.state, late) == {worker.name: ["slower"]}
    world.lose(worker, blame="worker")
    assert overdue(world.state, late) == {}
    world.settle()
    assert set(client.futures.values()) == {"failed"}


def test_it_is_run_again_elsewhere_if_it_has_retries(world: World, client: FakeClient) -> None:
    first = world.join()
    world.submit(client, ["slow"], terms=LIMIT, retries=1)
    begin(world, "slow", on=first)
    ticks(world, 3)
    second = world.join()
    begin(world, "slow", on=second)
    assert drop(world, first) == ["slow"]
    ticks(world, 2)
    second.finish("slow", "small")
    first.finish("slow", "small")
    world.settle()
    assert client.futures == {"slow": "done"}
    assert not world.state.timed


def test_a_retry_on_the_same_worker_has_its_whole_time(world: World, client: FakeClient) -> None:
    worker = world.join()
    world.submit(client, ["slow"], terms=LIMIT, retries=1)
    begin(world, "slow", on=worker)
    ticks(world, 2)
    worker.finish("slow", "failed")
    while worker.outbox:
        world.hear(worker)
    begin(world, "slow", on=worker)
    ticks(world, 2)
    worker.finish("slow", "small")
    world.settle()
    assert client.futures == {"slow": "done"}


def test_a_task_that_nobody_wants_any_more_is_ended_all_the_same(world: World, client: FakeClient) -> None:
    worker = world.join()
    world.submit(client, ["slow"], terms=LIMIT)
    begin(world, "slow", on=worker)
    world.release(client, "slow")
    ticks(world, 3)
    assert overdue(world.state, 100.0) == {worker.name: ["slow"]}
    assert not world.state.tasks


@pytest.mark.parametrize("timeout", [-1.0, float("inf"), float("nan")])
def test_a_limit_that_cannot_be(world: World, client: FakeClient, timeout: float) -> None:
    with pytest.raises(ValueError, match="terms with an amount"):
        world.submit(client, ["x"], terms=m.Terms(timeout=timeout))
    assert not world.state.tasks
