"""What the scheduler does about each thing, told as short stories in a small world."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.errors import IllegalTransitionError
from hpclaunch.scheduler import client_events, lifecycle
from hpclaunch.scheduler.commands import ToWorker
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.state import (
    ASSIGNED,
    CANCELLED as CANCELLED,
    DONE,
    FAILED,
    NAMES,
    READY,
    RELEASED,
    WAITING,
    Task,
    Worker,
)
from tests.scheduler.world import FUNCTIONS, PENDING, FakeWorker, World


@pytest.fixture
def world() -> World:
    return World()


def states(world: World) -> dict[str, str]:
    return {key: NAMES[task.state] for key, task in world.state.tasks.items()}


def run(world: World, key: str, how: str) -> FakeWorker:
    """Let the head place what is ready, and let the worker that has ``key`` run it to this end."""
    for _ in range(5):
        world.round()
        for worker in list(world.workers.values()):
            while worker.inbox:
                worker.receive()
            for command in list(worker.fetches):
                worker.end_fetch(command, reachable=True)
            while worker.start():
                pass
            if key in worker.running:
                worker.finish(key, how)
                while worker.outbox:
                    world.hear(worker)
                return worker
            while worker.outbox:
                world.hear(worker)
    raise AssertionError(f"no worker runs {key}: {states(world)}")


# --- one task


def test_a_small_result_reaches_its_client_and_goes_with_its_future(world: World) -> None:
    client, _ = world.join_client(), world.join()
    world.submit(client, ["x"])
    assert states(world) == {"x": "ready"}
    world.settle()
    assert client.futures == {"x": "done"}
    world.release(client, "x")
    world.check_empty()


def test_a_large_result_stays_on_its_worker_until_nobody_wants_it(world: World) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["x"])
    world.settle("large")
    assert client.futures == {"x": ("stored", [worker.address])}
    assert list(worker.reactor.state.store) == ["x"]
    world.release(client, "x")
    world.settle()
    world.check_empty()


def test_an_exception_is_retried_as_often_as_was_asked(world: World) -> None:
    client, _ = world.join_client(), world.join()
    world.submit(client, ["x"], retries=2)
    for _ in range(2):
        run(world, "x", "failed")
        assert states(world) == {"x": "ready"}
    run(world, "x", "failed")
    world.settle()
    assert client.futures == {"x": "failed"}


def test_tasks_run_in_the_order_of_priority_then_submission(world: World) -> None:
    client = world.join_client()
    world.submit(client, ["a", "b"])
    world.submit(client, ["low"], priority=-1)
    world.submit(client, ["high"], priority=1)
    world.submit(client, ["c"])
    worker = world.join(threads=10)
    world.round()
    sent = [key for msg in worker.inbox if isinstance(msg, m.RunTasks) for key in msg.keys]
    assert sent == ["high", "a", "b", "c", "low"]


def test_a_function_is_sent_once_to_each_worker(world: World) -> None:
    client = world.join_client()
    worker = world.join(threads=10)
    for i in range(3):
        world.submit(client, [f"x{i}"])
        world.round()
    world.submit(client, ["y"], function=FUNCTIONS[1])
    world.round()
    defined = [msg.function for msg in worker.inbox if isinstance(msg, m.DefineFunction)]
    assert defined == list(FUNCTIONS)


def test_two_clients_share_a_task_of_one_key(world: World) -> None:
    one, two = world.join_client(), world.join_client()
    world.join()
    world.submit(one, ["x"])
    world.submit(two, ["x"])
    world.settle()
    assert one.futures == two.futures == {"x": "done"}
    world.release(one, "x")
    assert states(world) == {"x": "done"}
    third = world.join_client()
    world.submit(third, ["x"])  # known already: told at once
    world.settle()
    assert third.futures == {"x": "done"}
    world.leave_client(two)
    world.leave_client(third)
    world.check_empty()


def test_a_client_that_leaves_takes_its_work_along(world: World) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["x", "y"], [[], ["x"]])
    world.round()
    while worker.inbox:
        worker.receive()
    world.leave_client(client)
    assert not world.state.tasks
    world.settle()
    world.check_empty()


# --- inputs


@pytest.mark.parametrize("how", ["small", "large"])
def test_a_task_runs_after_its_inputs_and_with_them(world: World, how: str) -> None:
    client, _ = world.join_client(), world.join()
    world.submit(client, ["a", "b", "c"], [[], ["a"], ["a", "b"]])
    assert states(world) == {"a": "ready", "b": "waiting", "c": "waiting"}
    assert world.state.waiting == 2
    world.settle(how)
    assert PENDING not in client.futures.values()
    assert world.state.waiting == 0


@pytest.mark.parametrize("inputs", [["none"], ["x"]], ids=["unknown", "itself"])
def test_an_input_that_cannot_be_is_an_error_not_a_wait(world: World, inputs: list[str]) -> None:
    client, _ = world.join_client(), world.join()
    world.submit(client, ["x"], [inputs])
    world.settle()
    assert client.errors["x"].kind == "LostResultError"
    assert inputs[0] in client.errors["x"].text


def test_a_failure_ends_all_that_depends_on_it(world: World) -> None:
    client, _ = world.join_client(), world.join()
    world.submit(client, ["a", "b", "c", "other"], [[], ["a"], ["b"], []])
    run(world, "a", "failed")
    world.settle()
    assert client.futures == {"a": "failed", "b": "failed", "c": "failed", "other": "done"}
    world.submit(client, ["late"], [["c"]])
    world.settle()
    assert client.futures["late"] == "failed"


def test_an_intermediate_result_goes_when_its_last_user_is_done(world: World) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["a", "b", "c"], [[], ["a"], ["a"]])
    world.release(client, "a")
    run(world, "a", "large")
    run(world, "b", "small")
    assert "a" in worker.reactor.state.store
    run(world, "c", "small")
    world.settle()
    assert not worker.reactor.state.store
    assert states(world) == {"b": "done", "c": "done"}


def test_a_small_result_outlives_its_wish_while_a_large_one_may_be_made_again_from_it(world: World) -> None:
    client, _ = world.join_client(), world.join()
    world.submit(client, ["root", "small", "large"], [[], ["root"], ["small"]])
    run(world, "root", "large")
    run(world, "small", "small")
    holder = run(world, "large", "large")
    world.release(client, "root", "small")
    world.settle()
    assert states(world) == {"small": "done", "large": "done"}  # and root is gone: nothing will need it
    world.lose(holder)
    world.settle("large")
    assert isinstance(client.futures["large"], tuple)
    assert not world.fetch_result(client, "large")  # the holder it knows is gone; it is told of the new one
    world.settle()
    assert world.fetch_result(client, "large")


# --- losses


def test_lost_results_are_made_again_from_the_beginning(world: World) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["a", "b", "c"], [[], ["a"], ["b"]])
    world.release(client, "a", "b")
    for key in "abc":
        run(world, key, "large")
    world.settle()
    assert states(world) == {"a": "released", "b": "released", "c": "done"}
    world.join()
    world.lose(worker)
    assert states(world) == {"a": "ready", "b": "waiting", "c": "waiting"}
    world.settle("large")
    assert states(world) == {"a": "released", "b": "released", "c": "done"}


def test_losing_a_result_puts_ready_users_back_to_waiting(world: World) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["a", "busy"])
    run(world, "a", "large")
    world.drain(worker)  # so that b stays ready
    world.submit(client, ["b", "c"], [["a"], ["a"]])
    assert states(world)["b"] == "ready"
    world.lose(worker)
    assert states(world) == {"a": "ready", "busy": "ready", "b": "waiting", "c": "waiting"}
    world.settle("large")


def test_a_result_made_again_for_a_task_that_goes_is_stopped(world: World) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["a", "keep"], [[], ["a"]])
    run(world, "a", "large")
    run(world, "keep", "large")
    world.drain(worker)
    world.submit(client, ["use"], [["a"]])
    world.settle_clients()
    assert not world.fetch_result(client, "a", reachable=False)
    world.release(client, "a")
    assert states(world) == {"a": "ready", "keep": "done", "use": "waiting"}
    world.release(client, "use")
    assert states(world) == {"a": "released", "keep": "done"}
    world.settle()


def test_one_loss_may_free_what_the_same_worker_held_too(world: World) -> None:
    """x needs t and u; t is lost and cannot be made again, since s has failed; so x ends, and u is not needed."""
    client, worker = world.join_client(), world.join()
    for key, inputs in {"s": [], "t": ["s"], "u": []}.items():
        world.submit(client, [key], [inputs])
        run(world, key, "large")
    world.release(client, "s")
    world.submit(client, ["s"])
    run(world, "s", "failed")
    world.drain(worker)
    world.submit(client, ["x"], [["t", "u"]])
    world.release(client, "u")
    assert states(world) == {"s": "failed", "t": "done", "u": "done", "x": "ready"}
    assert list(world.state.workers[worker.name].holds) == ["t", "u"]
    world.lose(worker)
    assert states(world) == {"s": "failed", "t": "failed", "u": "released", "x": "failed"}
    world.settle()
    world.release(client, "s", "t", "x")
    world.check_empty()


def test_a_task_whose_input_failed_since_fails_and_nothing_is_made_for_it(world: World) -> None:
    """t, freed, needs f (failed since) and g (freed): making t again makes neither it nor g."""
    client, _ = world.join_client(), world.join()
    world.submit(client, ["f", "g", "h", "t", "keep"], [[], [], [], ["f", "g", "h"], ["t"]])
    for key in ("f", "g", "h", "t", "keep"):
        run(world, key, "large")
    world.release(client, "g", "h", "t", "f")
    world.settle()
    assert states(world) == {"f": "released", "g": "released", "h": "released", "t": "released", "keep": "done"}
    world.submit(client, ["f"])
    run(world, "f", "failed")
    lineage = {"f": "failed", "g": "released", "h": "released", "t": "failed", "keep": "done"}
    assert states(world) == lineage  # of t, which keep would be made from, and which may be run once more
    world.submit(client, ["new"], [["keep"]])
    world.settle()
    assert client.futures["new"] == "done"


@pytest.mark.parametrize("inputs", [["a", "b"], ["b", "a"]])
def test_made_again_siblings_stop_when_one_of_them_cannot_be(world: World, inputs: list[str]) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["s", "a", "b", "t"], [[], ["s"], [], inputs])
    world.settle("large")
    world.release(client, "s", "b")  # both are free now; a and t are wanted
    world.submit(client, ["s"])
    run(world, "s", "failed")
    world.release(client, "s", "a")
    assert states(world) == {"s": "failed", "a": "released", "b": "released", "t": "done"}
    world.lose(worker)
    assert states(world) == {"s": "failed", "a": "failed", "b": "released", "t": "failed"}
    world.settle()
    world.release(client, "t")
    world.check_empty()


def test_a_lost_worker_is_held_against_the_tasks_that_it_ran_only(world: World) -> None:
    client = world.join_client()
    world.submit(client, ["runs", "queued"])
    for _ in range(4):
        worker = world.join()
        world.round()
        while worker.inbox:
            worker.receive()
        worker.start()
        assert worker.running == ["runs"]
        world.lose(worker)
    world.settle()
    assert client.futures == {"runs": "failed", "queued": "done"}
    assert client.errors["runs"].kind == "KilledWorkerError"
    assert client.errors["runs"].text.count("it died") == 4


def test_workers_that_somebody_kills_are_hardly_held_against_their_tasks(world: World) -> None:
    client = world.join_client()
    world.submit(client, ["runs"])
    for _ in range(lifecycle.EVICTION_LIMIT):
        worker = world.join()
        world.round()
        while worker.inbox:
            worker.receive()
        worker.start()
        world.lose(worker, blame="others")
    assert states(world) == {"runs": "ready"}
    world.settle()
    assert client.futures == {"runs": "done"}


def test_a_task_that_waits_where_another_takes_workers_down_counts_that_lightly(world: World) -> None:
    client = world.join_client()
    world.submit(client, ["waits"])
    for round_number in range(1, lifecycle.EVICTION_LIMIT + 2):
        assert states(world) == {"waits": "ready"}
        worker = world.join()
        world.round()
        while worker.inbox:
            worker.receive()
        client_events.on_task_seceded(world.reactor.lifecycle, worker.name, m.TaskSeceded("waits", True))
        world.lose(worker)  # which says that it ran nothing: a task of this one had not come
        assert [blame for blame, _ in world.state.tasks["waits"].deaths or ()] == ["waited"] * round_number
    world.settle()
    assert client.errors["waits"].kind == "KilledWorkerError"
    assert "21 workers died while they ran task waits" in client.errors["waits"].text
    assert client.errors["waits"].text.count(", where it waited for other tasks") == 21


def test_without_word_of_what_ran_the_first_tasks_are_blamed(world: World) -> None:
    client = world.join_client()
    world.submit(client, ["a", "b", "c", "d"])
    worker = world.join(threads=2)
    world.round()
    while worker.inbox:
        worker.receive()
    world.lose(worker, says_running=False)
    assert [key for key, task in world.state.tasks.items() if task.deaths] == ["a", "b"]


@pytest.mark.parametrize(("blame", "losses"), [("none", 50), ("job", lifecycle.EVICTION_LIMIT)])
def test_losses_that_are_not_the_tasks_fault_are_forgiven(world: World, blame: str, losses: int) -> None:
    client = world.join_client()
    world.submit(client, ["x"])

    def lose_one(blame: str) -> None:
        worker = world.join()
        world.round()
        while worker.inbox:
            worker.receive()
        worker.start()
        world.lose(worker, blame=blame)

    for _ in range(losses):
        lose_one(blame)
    for _ in range(3):  # its own crashes are counted apart from these
        lose_one("worker")
    assert states(world) == {"x": "ready"}
    lose_one("job" if blame == "job" else "worker")
    assert states(world) == {"x": "failed"}


# --- not found


def test_a_client_with_old_news_does_not_cost_a_good_result(world: World) -> None:
    client, first = world.join_client(), world.join()
    world.submit(client, ["x"])
    world.settle("large")
    world.lose(first)
    world.settle("large")
    (second,) = world.workers.values()
    assert client.futures["x"] == ("stored", [first.address])
    assert not world.fetch_result(client, "x")
    assert states(world) == {"x": "done"}  # nothing was thrown away
    world.settle()
    assert client.futures["x"] == ("stored", [second.address])


def test_a_result_that_its_only_holder_does_not_give_is_freed_there_and_made_again(world: World) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["x"])
    world.settle("large")
    assert not world.fetch_result(client, "x", reachable=False)
    assert states(world) == {"x": "ready"}
    world.round()
    assert m.FreeResults(["x"]) in worker.inbox
    world.settle("large")
    assert world.fetch_result(client, "x")


def test_asking_for_a_key_that_is_not_known_gets_an_error(world: World) -> None:
    client = world.join_client()
    client.futures["gone"] = PENDING
    client_events.on_results_not_found(world.reactor.lifecycle, client.name, m.LocateKeys(["gone"], [["w9:1"]]))
    world.round()
    client.receive()
    assert client.errors["gone"].kind == "LostResultError"


def test_a_copy_keeps_a_result_when_its_first_holder_goes(world: World) -> None:
    client, first = world.join_client(), world.join()
    world.submit(client, ["x"])
    world.settle("large")
    world.drain(first)
    second = world.join()
    world.submit(client, ["y"], [["x"]])
    world.settle()
    assert list(second.reactor.state.store) == ["x"]
    world.lose(first)
    assert states(world) == {"x": "done", "y": "done"}
    assert list(world.state.tasks["x"].holders or ()) == [world.state.workers[second.name]]


@pytest.mark.parametrize("end", ["small", "failed", "returned", "large"])
def test_a_copy_beside_an_assigned_task_of_its_key_is_freed_and_its_result_is_not(world: World, end: str) -> None:
    client, first = world.join_client(), world.join()
    world.submit(client, ["x"])
    world.settle("large")
    world.drain(first)
    second = world.join(threads=2)
    world.submit(client, ["y"], [["x"]])
    world.round()
    while second.inbox:
        second.receive()
    (fetch,) = second.fetches
    second.end_fetch(fetch, reachable=True)  # its copy is on the way to be known
    world.fetch_result(client, "x", reachable=False)  # and x has to be made again meanwhile: here
    world.round()
    while second.inbox:
        second.receive()
    assert {"x", "y"} == set(second.queue)
    world.hear(second)
    if end == "returned":
        second.inbox.append(m.RecallTasks(2))
        second.receive()
    else:
        while second.start():
            pass
        second.finish("x", end)
    while second.outbox:
        world.hear(second)
    world.settle("large")
    assert not world.state.tasks["x"].holders or "x" in second.reactor.state.store


def test_a_copy_of_an_earlier_task_of_the_key_is_not_taken_for_one_of_the_later(world: World) -> None:
    client, first = world.join_client(), world.join()
    world.submit(client, ["x"])
    world.settle("large")
    before = world.state.tasks["x"].order
    world.release(client, "x")
    world.submit(client, ["x"])
    world.settle("large")
    second = world.join()
    world.reactor.on_copies_held(second.name, m.CopiesHeld(["x"], [before]))
    world.check()
    assert world.reactor.take_commands() == [ToWorker(second.name, m.FreeResults(["x"], [before]))]
    assert list(world.state.tasks["x"].holders or ()) == [world.state.workers[first.name]]


# --- cancelling, releasing, and wanting again


def test_cancel_ends_a_task_and_its_dependents_and_not_its_inputs(world: World) -> None:
    client, _ = world.join_client(), world.join()
    world.submit(client, ["a", "b", "c"], [[], ["a"], ["b"]])
    world.cancel(client, "b")
    world.settle()
    assert client.futures == {"a": "done", "b": "cancelled", "c": "cancelled"}


def test_cancel_of_the_input_of_an_assigned_task_leaves_that_alone(world: World) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["a"])
    run(world, "a", "large")
    world.submit(client, ["b"], [["a"]])
    world.round()
    while worker.inbox:
        worker.receive()
    worker.start()
    assert worker.running == ["b"]
    client.receive()
    world.fetch_result(client, "a", reachable=False)  # a is lost, and to be made again
    world.cancel(client, "a")
    worker.finish("b", "small")
    world.settle()
    assert client.futures == {"a": "cancelled", "b": "done"}


@pytest.mark.parametrize("end", ["returned", "lost"])
def test_a_task_that_comes_back_after_its_input_was_cancelled_is_cancelled(world: World, end: str) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["a"])
    run(world, "a", "large")
    world.submit(client, ["b"], [["a"]])
    world.round()
    while worker.inbox:
        worker.receive()
    client.receive()
    world.fetch_result(client, "a", reachable=False)
    world.cancel(client, "a")
    if end == "lost":
        world.lose(worker)
    else:
        worker.inbox.append(m.RecallTasks(9))
        worker.receive()
    world.settle()
    assert client.futures == {"a": "cancelled", "b": "cancelled"}


def test_a_key_that_is_released_and_submitted_again_runs_once_more_but_not_twice_at_a_time(world: World) -> None:
    client, worker = world.join_client(), world.join(threads=2)
    world.submit(client, ["x"])
    world.round()
    while worker.inbox:
        worker.receive()
    worker.start()
    world.release(client, "x")
    world.submit(client, ["x", "other"])
    world.round()
    while worker.inbox:
        worker.receive()  # asserts that x does not come while the first x runs
    assert list(worker.queue) == ["other"]  # which does not stand in the way of others
    second = world.join()
    world.round()
    while second.inbox:
        second.receive()
    assert list(second.queue) == ["x"]
    worker.finish("x", "large")  # this one is not wanted
    world.settle()
    assert client.futures == {"x": "done", "other": "done"}


def test_work_that_was_stopped_and_is_needed_again_may_run_elsewhere(world: World) -> None:
    """The first worker's late answer is not taken for the second's, and costs nothing later."""
    client, first = world.join_client(), world.join()
    world.submit(client, ["a", "keep"], [[], ["a"]])
    run(world, "a", "large")
    run(world, "keep", "large")
    world.release(client, "a")
    world.settle()
    world.submit(client, ["use"], [["a"]])  # a runs again, on the first
    world.round()
    while first.inbox:
        first.receive()
    first.start()
    assert first.running == ["a"]
    world.release(client, "use")
    assert states(world)["a"] == "released"
    world.submit(client, ["use"], [["a"]])
    second = world.join()
    world.round()
    while second.inbox:
        second.receive()
    second.start()
    assert second.running == ["a"]
    first.finish("a", "large")
    while first.outbox:
        world.hear(first)
    assert states(world)["a"] == "assigned"
    assert world.state.workers[first.name].backlog == 0.0
    world.settle("large")


def test_wanting_a_released_result_makes_it_again(world: World) -> None:
    client, _ = world.join_client(), world.join()
    world.submit(client, ["a", "b"], [[], ["a"]])
    run(world, "a", "large")
    run(world, "b", "large")
    world.release(client, "a")
    assert states(world) == {"a": "released", "b": "done"}
    world.submit(client, ["a"])
    assert states(world) == {"a": "ready", "b": "done"}
    world.settle("large")
    assert isinstance(client.futures["a"], tuple)


# --- moving work


def test_an_idle_worker_gets_what_a_busy_one_has_not_started(world: World) -> None:
    client, busy = world.join_client(), world.join()
    world.submit(client, ["a", "b"])
    world.round()
    while busy.inbox:
        busy.receive()
    busy.start()
    idle = world.join()
    world.tick()
    world.round()
    assert busy.inbox.pop() == m.RecallTasks(1)
    world.tick()
    world.round()
    assert not busy.inbox  # asked once
    busy.inbox.append(m.RecallTasks(1))
    busy.receive()
    world.hear(busy)
    world.round()
    while idle.inbox:
        idle.receive()
    assert list(idle.queue) == ["b"]


def test_a_draining_worker_gives_back_and_gets_nothing(world: World) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["a", "b", "c"])
    world.round()
    while worker.inbox:
        worker.receive()
    worker.start()
    world.drain(worker)
    world.round()
    while worker.inbox:
        worker.receive()
    assert not worker.queue
    while worker.outbox:
        world.hear(worker)
    world.round()
    assert not worker.inbox
    worker.finish("a", "small")
    world.settle()
    assert set(client.futures.values()) == {"done"}


# --- rules


def test_an_illegal_step_raises_with_the_tasks_story(world: World) -> None:
    client = world.join_client()
    world.submit(client, ["x"])
    task = world.state.tasks["x"]
    with pytest.raises(IllegalTransitionError, match=r"no way from ready to done: task x \(f\) is ready"):
        task.move(DONE)
    assert task.state == READY
    for state in (WAITING, READY, ASSIGNED, DONE, RELEASED, FAILED):
        dead = Task("y", task.function, b"", 1, frozenset(), 0)
        dead.state = CANCELLED
        with pytest.raises(IllegalTransitionError):
            dead.move(state)


def lines_run(call: Callable[[], Any]) -> int:
    """Count the lines of Python that a call runs: work, without a clock."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    old = sys.gettrace()
    gc.disable()  # the end of other objects is none of this work
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(old)
        gc.enable()
    return count


@pytest.mark.parametrize("how", ["small", "large"])
def test_a_task_costs_the_same_however_many_have_used_its_input_before(how: str) -> None:
    def cost(before: int) -> int:
        reactor = Reactor()
        reactor.on_client_joined("c")
        reactor.on_function_defined(m.DefineFunction(b"f", "f", b""))
        worker = Worker("w", "job", 1, address="w:1")
        reactor.on_worker_joined(worker, 0.0)
        keys = [f"k{i}" for i in range(before + 2)]
        reactor.on_tasks_submitted(
            "c", m.SubmitTasks(b"f", ["s", *keys], [b""] * (len(keys) + 1), [[], *[["s"]] * len(keys)])
        )
        reactor.on_keys_released("c", ["s"])

        def end(key: str, how: str) -> None:
            task = reactor.state.tasks[key]
            assert reactor.state.ready.pop() is task
            task.move(ASSIGNED)
            task.worker, worker.assigned[key] = worker, task
            if how == "small":
                reactor.on_tasks_done("w", m.TasksDone([key], [b""], [0.1]), 0.0)
            else:
                reactor.on_tasks_stored("w", m.TasksStored([key], [1], [0.1]), 0.0)

        end("s", "large")
        for key in keys[:before]:
            end(key, how)
        reactor.take_commands()
        return lines_run(lambda: end(keys[before], how))

    assert cost(10) == cost(1000)


def test_losing_a_worker_costs_what_it_held_and_had(world: World) -> None:
    client, worker = world.join_client(), world.join()
    world.submit(client, ["x"])
    world.settle("large")
    for i in range(20):
        world.submit(client, [f"other{i}"])
    world.lose(worker)
    assert ToWorker(worker.name, m.FreeResults(["x"])) not in world.reactor.lifecycle.commands
    world.settle()


def test_a_question_for_results_whose_columns_differ_changes_nothing(world: World) -> None:
    client = world.join_client()
    client.futures["gone"] = PENDING
    with pytest.raises(ValueError, match="columns"):
        client_events.on_results_not_found(
            world.reactor.lifecycle, client.name, m.LocateKeys(["gone", "too"], [["w9:1"]])
        )
    assert not world.reactor.lifecycle.updates
