"""Results of workers that are about to end go to others first."""

from __future__ import annotations

import pytest

from hpclaunch.scheduler import leaving
from tests.scheduler.world import FakeClient, FakeWorker, World


@pytest.fixture
def world() -> World:
    return World()


def hold(world: World, client: FakeClient, *keys: str) -> FakeWorker:
    """A worker that holds these large results, alone."""
    worker = world.join()
    world.submit(client, keys)
    for _ in range(5):
        world.step("large")
    assert set(world.state.workers[worker.name].holds) == set(keys)
    return worker


def test_what_only_it_holds_goes_to_others_and_is_not_made_again(world: World) -> None:
    client = world.join_client()
    old = hold(world, client, "a", "b")
    new = world.join()
    world.drain(old)
    assert {task.key for task in leaving.only_here(world.state.workers[old.name])} == {"a", "b"}
    world.move(old)
    world.step()
    assert not leaving.only_here(world.state.workers[old.name])
    world.lose(old, blame="nobody")
    assert set(world.state.workers[new.name].holds) == {"a", "b"}
    assert not world.state.ready_count
    if not world.fetch_result(client, "a"):  # it asked the old one, and is told of the new
        world.settle_clients()
        assert world.fetch_result(client, "a")


def test_they_are_spread_over_those_that_hold_least(world: World) -> None:
    client = world.join_client()
    old = hold(world, client, "a", "b", "c", "d")
    new = [world.join() for _ in range(2)]
    world.drain(old)
    world.move(old)
    world.step()
    assert [len(world.state.workers[w.name].holds) for w in new] == [2, 2]


def test_with_nobody_to_take_them_nothing_is_asked(world: World) -> None:
    client = world.join_client()
    old = hold(world, client, "a")
    world.drain(old)
    world.move(old)
    assert not world.asked


def test_what_is_asked_for_is_not_asked_again_soon(world: World) -> None:
    client = world.join_client()
    old = hold(world, client, "a")
    new = world.join()
    world.drain(old)
    world.move(old)
    world.move(old)
    assert len(new.inbox) == 1
    world.now += leaving.RETRY_SECONDS
    world.move(old)
    assert len(new.inbox) == 2


def test_what_two_leaving_workers_hold_is_moved_once(world: World) -> None:
    client = world.join_client()
    first = hold(world, client, "a")
    second = world.join()
    world.drain(first)
    world.move(first)
    world.step()
    world.drain(second)
    assert leaving.only_here(world.state.workers[first.name])
    third = world.join()
    world.now += leaving.RETRY_SECONDS
    world.move(first, second)
    assert len(third.inbox) == 1
