"""Results of workers that are about to end go to others first."""

from __future__ import annotations

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import evacuation
from tests.scheduler.world import FakeClient, FakeWorker, World


@pytest.fixture
def world() -> World:
    return World()


def holder(world: World, client: FakeClient, job: str, *keys: str, memory: int = 0) -> FakeWorker:
    """A job of one worker that holds these large results, of a million bytes each."""
    others = [worker for worker in world.state.workers.values() if worker.accepts]
    worker = world.join(name=f"w-{job}", job=job, memory=memory)
    world.submit(client, keys, terms=m.Terms(workers=[worker.name]) if keys and others else None)
    for _ in range(5):
        world.step("large")
    assert set(world.state.workers[worker.name].holds) == set(keys)
    return worker


def test_what_only_it_holds_goes_to_others_and_is_not_made_again(world: World) -> None:
    client = world.join_client()
    old = holder(world, client, "job", "a", "b")
    new = world.join()
    world.drain(old)
    assert {task.key for task in evacuation.sole_copies(world.state.workers[old.name])} == {"a", "b"}
    world.move(old)
    world.step()
    assert not evacuation.sole_copies(world.state.workers[old.name])
    world.lose(old, blame="none")
    assert set(world.state.workers[new.name].holds) == {"a", "b"}
    assert not world.state.ready_count
    if not world.fetch_result(client, "a"):  # it asked the old one, and is told of the new
        world.settle_clients()
        assert world.fetch_result(client, "a")


def test_they_are_spread_over_those_that_hold_least(world: World) -> None:
    client = world.join_client()
    old = holder(world, client, "job", "a", "b", "c", "d")
    new = [world.join() for _ in range(2)]
    world.drain(old)
    world.move(old)
    world.step()
    assert [len(world.state.workers[w.name].holds) for w in new] == [2, 2]


def test_with_nobody_to_take_them_nothing_is_asked(world: World) -> None:
    client = world.join_client()
    old = holder(world, client, "job", "a")
    world.drain(old)
    world.move(old)
    assert not world.asked


def test_what_is_asked_for_is_not_asked_again_soon(world: World) -> None:
    client = world.join_client()
    old = holder(world, client, "job", "a")
    new = world.join()
    world.drain(old)
    world.move(old)
    world.move(old)
    assert len(new.inbox) == 1
    world.now += evacuation.RETRY_SECONDS
    world.move(old)
    assert len(new.inbox) == 2


def test_what_two_leaving_workers_hold_is_moved_once(world: World) -> None:
    client = world.join_client()
    first = holder(world, client, "job", "a")
    second = world.join()
    world.drain(first)
    world.move(first)
    world.step()
    world.drain(second)
    assert evacuation.sole_copies(world.state.workers[first.name])
    third = world.join()
    world.now += evacuation.RETRY_SECONDS
    world.move(first, second)
    assert len(third.inbox) == 1


def test_a_taker_that_dies_is_replaced_at_once(world: World) -> None:
    client = world.join_client()
    old = holder(world, client, "job", "a")
    first = world.join()
    world.drain(old)
    world.move(old)
    world.lose(first)  # with the question in its ears
    second = world.join()
    world.move(old)
    assert [type(message) for message in second.inbox] == [m.KeepCopies]
    world.step()
    assert set(world.state.workers[second.name].holds) == {"a"}


def test_a_taker_that_dies_after_its_giver_has_left_costs_a_run_and_no_result(world: World) -> None:
    client = world.join_client()
    old = holder(world, client, "job", "a")
    taker = world.join()
    world.drain(old)
    world.move(old)
    world.step()
    world.lose(old, blame="none")
    world.lose(taker)
    assert world.state.ready_count == 1, "it is made again"
    world.join()
    for _ in range(5):
        world.step("large")
    if not world.fetch_result(client, "a"):
        world.settle_clients()
        assert world.fetch_result(client, "a")


# --- who may leave


def test_all_may_leave_but_the_one_that_takes_what_they_have(world: World) -> None:
    client = world.join_client()
    holder(world, client, "1", "a")
    holder(world, client, "2", "b", "c")
    holder(world, client, "3")
    assert evacuation.pinned_bytes(world.state) == {"1": 0, "2": 2_000_000, "3": 0}


def test_the_last_one_stays(world: World) -> None:
    client = world.join_client()
    holder(world, client, "1", "a")
    assert evacuation.pinned_bytes(world.state) == {"1": 1_000_000}


def test_whoever_works_takes_it(world: World) -> None:
    client = world.join_client()
    holder(world, client, "1", "a")
    holder(world, client, "2", "b")
    busy = holder(world, client, "3")
    world.submit(client, ["c"], terms=m.Terms(workers=[busy.name]))
    world.round()
    assert evacuation.pinned_bytes(world.state) == {"1": 0, "2": 0, "3": 0}


def test_what_has_no_room_elsewhere_stays_where_it_is(world: World) -> None:
    client = world.join_client()
    holder(world, client, "1", "a", "b", memory=10_000_000)
    holder(world, client, "2", "c", "d", "e", memory=10_000_000)  # room for two
    holder(world, client, "3", "f", memory=10_000_000)
    assert evacuation.pinned_bytes(world.state) == {"1": 2_000_000, "2": 3_000_000, "3": 0}


def test_who_is_about_to_end_takes_nothing_and_counts_as_no_copy(world: World) -> None:
    client = world.join_client()
    first = holder(world, client, "1", "a", "b")
    holder(world, client, "2", "c")
    world.drain(first)
    assert evacuation.pinned_bytes(world.state)["2"] == 1_000_000


def test_actors_cannot_be_moved(world: World) -> None:
    client = world.join_client()
    holder(world, client, "1", "a", "b")
    worker = world.join(name="w-2", job="2")
    world.submit(client, ["actor"], terms=m.Terms(workers=[worker.name]), actor=0)
    for _ in range(5):
        world.step("large")
    bound = evacuation.pinned_bytes(world.state)
    assert bound["1"] == 0
    assert bound["2"] > 0


def test_copies_in_one_job_are_no_copies(world: World) -> None:
    client = world.join_client()
    old = holder(world, client, "1", "a")
    second = world.join(name="second", job="1")
    second.inbox.append(m.KeepCopies(["a"], [[old.address]], [world.state.tasks["a"].order]))
    world.step()
    world.step()
    holder(world, client, "2", "b", "c", "d")
    assert len(world.state.tasks["a"].holders or ()) == 2
    assert evacuation.pinned_bytes(world.state)["1"] == 0, "movable"
    for key in ("b", "c", "d"):
        world.release(client, key)
    assert evacuation.pinned_bytes(world.state)["1"] > 0, "the last one stays"
