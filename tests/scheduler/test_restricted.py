"""Tasks that ask something of their worker: who gets them, that they wait without harm, and that none is lost."""

from __future__ import annotations

import math

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import requirements as t
from hpclaunch.scheduler.placement import place
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.state import READY, Worker
from tests.scheduler.test_reactor import lines_run
from tests.scheduler.world import FakeClient, World, teach

GPU = m.Terms(resources={"GPU": 1.0})


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> FakeClient:
    return world.join_client()


def where(world: World, key: str) -> str | None:
    worker = world.state.tasks[key].worker
    return worker.name if worker is not None else None


def assigned(world: World, name: str) -> list[str]:
    return list(world.state.workers[name].assigned)


def test_a_task_that_asks_for_a_resource_goes_where_it_is(world: World, client: FakeClient) -> None:
    world.join()
    has = world.join(resources={"GPU": 1.0})
    world.submit(client, ["a"], terms=GPU)
    world.round()
    assert where(world, "a") == has.name
    assert world.state.workers[has.name].free == {"GPU": 0.0}


def test_no_more_of_a_resource_is_used_than_there_is(world: World, client: FakeClient) -> None:
    worker = world.join(threads=8, resources={"GPU": 2.0})
    world.submit(client, list("abcde"), terms=GPU)
    world.round()
    assert assigned(world, worker.name) == ["a", "b"]
    world.settle()
    assert set(client.futures.values()) == {"done"}


def test_what_cannot_run_waits_and_holds_up_nobody(world: World, client: FakeClient) -> None:
    world.join()
    world.submit(client, ["waits"], terms=GPU)
    world.submit(client, [f"k{i}" for i in range(50)])
    for _ in range(200):
        world.step()
        world.tick()
    assert world.state.tasks["waits"].state == READY
    assert [key for key, how in client.futures.items() if how != "done"] == ["waits"]
    world.join(resources={"GPU": 1.0})
    for _ in range(5):
        world.step()
    assert client.futures["waits"] == "done"


def test_work_without_wishes_does_not_take_all_room(world: World, client: FakeClient) -> None:
    """A stream of other tasks fills the worker again and again; the one with a wish goes first."""
    world.join(resources={"GPU": 1.0})
    world.submit(client, [f"k{i}" for i in range(100)])
    world.round()
    world.submit(client, ["wish"], terms=GPU)
    for _ in range(6):
        world.step()
    assert client.futures["wish"] == "done"
    assert sum(how == "done" for how in client.futures.values()) < 50


@pytest.mark.parametrize("name", ["w3", "w3:1", "host-a", "job"])
def test_workers_go_by_name_address_host_or_job(world: World, client: FakeClient, name: str) -> None:
    world.join()
    here = world.join(host="host-a")
    if name == "job":
        world.state.workers["w2"].job_id = "other"
    world.submit(client, ["a"], terms=m.Terms(workers=[name]))
    world.round()
    assert where(world, "a") == here.name


def test_workers_go_by_the_ip_address_of_their_host(world: World, client: FakeClient) -> None:
    world.join()
    here = world.join()
    world.state.workers[here.name].address = "10.1.0.7:40123"
    world.submit(client, ["a"], terms=m.Terms(workers=["10.1.0.7"]))
    world.round()
    assert where(world, "a") == here.name


def test_other_workers_only_where_that_is_said(world: World, client: FakeClient) -> None:
    world.join(host="host-a")
    other = world.join(host="host-b")
    strict, lenient = m.Terms(workers=["host-a"]), m.Terms(workers=["host-a"], allow_others=True)
    world.submit(client, ["s1", "s2", "s3"], terms=strict)
    world.round()
    assert assigned(world, other.name) == []
    world.submit(client, ["l1"], terms=lenient)
    world.round()
    assert assigned(world, other.name) == ["l1"]


def test_they_are_spread(world: World, client: FakeClient) -> None:
    workers = [world.join(threads=4, resources={"GPU": 4.0}) for _ in range(4)]
    world.submit(client, [f"k{i}" for i in range(8)], terms=GPU)
    world.round()
    assert [len(assigned(world, w.name)) for w in workers] == [2, 2, 2, 2]


def test_higher_priority_first_among_those_that_wait(world: World, client: FakeClient) -> None:
    world.submit(client, ["low"], terms=GPU)
    world.submit(client, ["high"], terms=m.Terms(resources={"GPU": 1.0}, workers=["host-a"]), priority=1)
    worker = world.join(resources={"GPU": 1.0}, host="host-a")
    world.round()
    assert assigned(world, worker.name) == ["high"]


def test_they_go_to_their_inputs(world: World, client: FakeClient) -> None:
    first, second = (world.join(resources={"GPU": 1.0}) for _ in range(2))
    world.submit(client, ["input"], terms=m.Terms(workers=[second.name]))
    world.step("large")
    world.step("large")
    world.submit(client, ["task"], [["input"]], terms=GPU)
    world.round()
    assert where(world, "task") == second.name != first.name


def test_a_cancelled_task_gives_back_what_it_used_when_its_worker_answers(
    world: World, client: FakeClient
) -> None:
    worker = world.join(threads=2, resources={"GPU": 1.0})
    world.submit(client, ["a", "b"], terms=GPU)
    world.round()
    world.cancel(client, "a")
    world.round()
    assert where(world, "b") is None, "the worker may still be running the other"
    world.settle()
    assert client.futures == {"a": "cancelled", "b": "done"}
    assert world.state.workers[worker.name].free == {"GPU": 1.0}


def test_they_are_not_taken_back_for_workers_that_could_not_run_them(world: World, client: FakeClient) -> None:
    world.join()
    busy = world.join(resources={"GPU": 2.0})
    world.submit(client, ["a", "b"], terms=GPU)
    world.round()
    assert len(assigned(world, busy.name)) == 2
    for _ in range(3):
        world.tick()
    assert not world.reactor.take_commands()


# --- time


def test_no_task_is_begun_that_its_worker_could_not_end(world: World, client: FakeClient) -> None:
    old = world.join(seconds=10.0)
    teach(world.state.functions[b"function-1"], 8.0)
    world.submit(client, ["a"])
    world.round()
    assert where(world, "a") == old.name
    world.submit(client, ["b"])  # it would begin in 8 seconds
    world.round()
    assert where(world, "b") is None
    new = world.join(seconds=10.0)
    world.round()
    assert where(world, "b") == new.name


def test_time_goes_by(world: World, client: FakeClient) -> None:
    world.join(seconds=10.0)
    world.now = 5.0
    world.submit(client, ["a", "short"], terms=m.Terms(seconds=8.0))
    world.submit(client, ["c"], terms=m.Terms(seconds=4.0))
    world.round()
    assert where(world, "a") is None
    assert where(world, "c") is not None


def test_short_tasks_pass_long_ones(world: World, client: FakeClient) -> None:
    world.join(seconds=10.0)
    teach(world.state.functions[b"function-1"], 9.9)
    world.now = 5.0
    world.submit(client, [f"long{i}" for i in range(100)])
    world.submit(client, ["short"], function=b"function-2")
    world.round()
    assert where(world, "short") is not None
    assert world.state.ready_count == 100


def test_what_outlasts_every_worker_is_run_all_the_same_and_told(world: World, client: FakeClient) -> None:
    world.join(seconds=5.0)
    new = world.join(seconds=10.0)
    world.submit(client, ["a", "b"], terms=m.Terms(seconds=60.0))
    world.round()
    assert where(world, "a") == new.name, "the one that lasts longest"
    assert [held.seconds for held in world.state.overlong] == [60.0]
    world.submit(client, ["c"], terms=m.Terms(seconds=60.0))
    world.round()
    assert len(world.state.overlong) == 1, "once is enough"


def test_a_worker_without_an_end_takes_the_longest(world: World, client: FakeClient) -> None:
    world.join(seconds=5.0)
    forever = world.join()
    world.submit(client, ["a"], terms=m.Terms(seconds=1e9))
    world.round()
    assert where(world, "a") == forever.name
    assert not world.state.overlong


def test_time_learned_frees_held_tasks(world: World, client: FakeClient) -> None:
    worker = world.join(seconds=100.0)
    teach(world.state.functions[b"function-1"], 99.0)
    world.now = 50.0
    world.submit(client, ["a"])
    world.round()
    assert where(world, "a") is None
    teach(world.state.functions[b"function-1"], 1.0)
    world.tick()
    world.round()
    assert where(world, "a") == worker.name


# --- what it costs


def test_held_tasks_that_nobody_can_take_cost_the_others_nothing() -> None:
    """The lines of a round do not grow with the number of workers that could never take them."""

    def lines(workers: int) -> int:
        reactor = Reactor()
        reactor.on_client_joined("c")
        reactor.on_function_defined(m.DefineFunction(b"f", "f", b""))
        for i in range(workers):
            reactor.on_worker_joined(Worker(f"w{i}", "job", 1), 0.0)
        reactor.on_tasks_submitted("c", m.SubmitTasks(b"f", ["held"], [b""], [], 0, 0, GPU))
        place(reactor.state)

        def one_round() -> None:
            reactor.on_tasks_submitted("c", m.SubmitTasks(b"f", ["k"], [b""]))
            place(reactor.state)
            worker = reactor.state.tasks["k"].worker
            assert worker is not None
            reactor.on_tasks_done(worker.name, m.TasksDone(["k"], [b""], [0.001]), 0.0)
            reactor.on_keys_released("c", ["k"])
            place(reactor.state)

        return min(lines_run(one_round) for _ in range(3))  # a collection of garbage may fall into one

    assert lines(1000) <= lines(10) + 5


# --- the terms themselves


@pytest.mark.parametrize(
    "message",
    [m.Terms(resources={"GPU": -1.0}), m.Terms(resources={"GPU": math.nan}), m.Terms(seconds=math.inf)],
)
def test_terms_that_cannot_be_are_refused_and_nothing_has_changed(
    world: World, client: FakeClient, message: m.Terms
) -> None:
    with pytest.raises(ValueError, match="terms"):
        world.reactor.on_tasks_submitted(client.name, m.SubmitTasks(b"function-1", ["a"], [b""], terms=message))
    assert not world.state.tasks


@pytest.mark.parametrize("message", [None, m.Terms(), m.Terms(resources={"GPU": 0.0}), m.Terms(allow_others=True)])
def test_terms_that_ask_for_nothing_are_none(message: m.Terms | None) -> None:
    assert t.read(message) is None
