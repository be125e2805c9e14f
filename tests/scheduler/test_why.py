"""What a task waits for, in words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.state import DRAINING, LOST, PAUSED
from hpclaunch.scheduler.why import why
from tests.scheduler.world import FakeClient, World, teach


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> FakeClient:
    return world.join_client()


def said(world: World, key: str = "a") -> str:
    return why(world.state, key, world.now)


def test_a_task_that_is_not_known(world: World) -> None:
    assert said(world) == ""


def test_nobody_is_there(world: World, client: FakeClient) -> None:
    world.submit(client, ["a"])
    assert said(world) == ("task a (f) has all that it needs, and waits for a worker\n  no worker is connected")


def with_flag(flag: int) -> Callable[[World], None]:
    def change(world: World) -> None:
        worker = next(iter(world.state.workers.values()))
        worker.refuses |= flag
        world.state.index(worker)

    return change


@pytest.mark.parametrize(
    ("offer", "terms", "change", "words"),
    [
        ({"host": "h"}, m.Terms(workers=["x"]), None, "worker w2: not one of workers=['x']"),
        ({}, m.Terms(resources={"GPU": 1.0}), None, "the task asks for GPU 1; its resources: none"),
        (
            {"resources": {"GPU": 1.0}},
            m.Terms(resources={"GPU": 2.0}),
            None,
            "the task asks for GPU 2; its resources: GPU 1",
        ),
        ({"seconds": 50.0}, m.Terms(seconds=90.0), None, "ends in 00:00:50, and the task takes 00:01:30"),
        ({}, None, with_flag(DRAINING), "it is about to end, and takes no more tasks"),
        ({}, None, with_flag(PAUSED), "its memory is full"),
        ({}, None, with_flag(LOST), "its connection is lost"),
        ({}, None, None, "worker w2: could take it; 0 other tasks are ready, too"),
    ],
)
def test_what_rules_a_worker_out(
    world: World,
    client: FakeClient,
    offer: dict[str, object],
    terms: m.Terms | None,
    change: Callable[[World], None] | None,
    words: str,
) -> None:
    world.join(**offer)  # type: ignore[arg-type]
    if change is not None:
        change(world)
    world.submit(client, ["a"], terms=terms)
    assert words in said(world)


def test_what_no_worker_has_is_said_to_be_missing(world: World, client: FakeClient) -> None:
    world.join()
    world.submit(client, ["a"], terms=m.Terms(resources={"GPU": 1.0}))
    assert "no worker has that; the key `resources` gives it to workers" in said(world)
    world.join(resources={"GPU": 1.0})
    assert "no worker has that" not in said(world)


def test_workers_that_are_busy(world: World, client: FakeClient) -> None:
    world.join(resources={"GPU": 1.0})
    world.submit(client, ["x"], terms=m.Terms(resources={"GPU": 1.0}, seconds=30.0))
    world.round()
    world.submit(client, ["a"], terms=m.Terms(resources={"GPU": 1.0}))
    world.round()
    assert "worker w2: other tasks use its GPU" in said(world)
    teach(world.state.functions[b"function-1"], 30.0)
    world.submit(client, ["y", "z"])
    world.round()
    assert "worker w2: it has enough to do (2 tasks, about 00:01:00 of work)" in said(world, "z")


def test_many_workers_are_told_of_together(world: World, client: FakeClient) -> None:
    for number in (10, 9, 3, 1, 2, 4, 5, 6, 7, 8):  # they come in any order
        world.join(name=f"1.{number}-0")
    world.submit(client, ["a"], terms=m.Terms(resources={"GPU": 1.0}))
    assert "10 workers (1.1-0, 1.2-0, 1.3-0, 1.4-0, 1.5-0, ...): the task asks" in said(world)


def test_inputs_and_what_they_wait_for(world: World, client: FakeClient) -> None:
    world.join()
    world.submit(client, ["c"])
    world.submit(client, ["b"], [["c"]])
    world.submit(client, ["a"], [["b"]])
    world.round()
    assert said(world).splitlines() == [
        "task a (f) waits for 1 of its 1 inputs",
        "  b (f) waits for 1 of its 1 inputs",
        "    in the end for c (f), which is on worker w2 (job job), which runs it or is about to",
    ]
    assert said(world, "c") == "task c (f) is on worker w2 (job job), which runs it or is about to"


def test_a_task_behind_others(world: World, client: FakeClient) -> None:
    world.join()
    world.submit(client, ["x", "a"])
    world.round()
    assert said(world) == "task a (f) is on worker w2 (job job), behind 1 other that it has to run first"


def test_ends(world: World, client: FakeClient) -> None:
    worker = world.join()
    world.submit(client, ["small", "cancelled"])
    world.cancel(client, "cancelled")
    world.settle()
    assert said(world, "small") == "task small (f) is done; its result is on the head"
    assert "was cancelled" in said(world, "cancelled")
    world.submit(client, ["large"])
    world.settle("large")
    assert f"is done; its result is on worker {worker.name}" in said(world, "large")
    world.submit(client, ["bad"])
    world.settle("failed")
    assert said(world, "bad") == "task bad (f) is failed\n  it raised"


def test_deaths_are_told(world: World, client: FakeClient) -> None:
    worker = world.join()
    world.submit(client, ["a"])
    world.round()
    world.lose(worker, says_running=False)
    assert said(world).endswith("  before: it died")


def test_a_worker_of_which_nothing_is_heard(world: World, client: FakeClient) -> None:
    world.join()
    world.submit(client, ["a"])
    world.round()
    (name,) = world.state.workers
    told = why(world.state, "a", world.now, {name: "its process has been stopped"})
    assert told.endswith(f"\n  worker {name} is silent: its process has been stopped")
    assert "silent" not in why(world.state, "a", world.now, {"another": "it is stopped"})
