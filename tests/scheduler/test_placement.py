"""Which worker gets which task, and how many of them; and the queue that they wait in."""

from __future__ import annotations

import random

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import invariants
from hpclaunch.scheduler.function import Function
from hpclaunch.scheduler.placement import BYTES_PER_SECOND, place
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.state import CANCELLED, PAUSED, READY, Client, ReadyQueue, SchedulerState, Task, Worker
from tests.scheduler.test_reactor import lines_run
from tests.scheduler.world import World, teach


def a_reactor(*threads: int) -> tuple[Reactor, list[Worker]]:
    reactor = Reactor()
    reactor.on_client_joined("c")
    reactor.on_function_defined(m.DefineFunction(b"f", "f", b"bytes"))
    workers = [Worker(f"w{i}", "job", n, address=f"w{i}:1") for i, n in enumerate(threads)]
    for worker in workers:
        reactor.on_worker_joined(worker, 0.0)
    return reactor, workers


def submit(reactor: Reactor, count: int, *, name: str = "k", inputs: list[str] | None = None) -> list[str]:
    keys = [f"{name}{i}" for i in range(count)]
    columns = [inputs] * count if inputs else []
    reactor.on_tasks_submitted("c", m.SubmitTasks(b"f", keys, [b""] * count, columns))
    return keys


def learn(reactor: Reactor, seconds: float) -> None:
    teach(reactor.state.functions[b"f"], seconds)


def store(reactor: Reactor, worker: Worker, key: str, size: int) -> None:
    """Have ``worker`` make and keep a large result."""
    reactor.on_tasks_submitted("c", m.SubmitTasks(b"f", [key], [b""]))
    (task,) = [t for t in reactor.state.ready if t.key == key]
    place_on(reactor, worker, task)
    reactor.on_tasks_stored(worker.name, m.TasksStored([key], [size], [0.01]), 0.0)


def place_on(reactor: Reactor, worker: Worker, task: Task) -> None:
    """Give one task to one worker, whatever else there is."""
    others = [w for w in reactor.state.workers.values() if w is not worker]
    for other in others:
        other.refuses = PAUSED
        reactor.state.index(other)
    place(reactor.state)
    for other in others:
        other.refuses = 0
        reactor.state.index(other)
    assert task.worker is worker
    invariants.check(reactor.state)


@pytest.mark.parametrize(
    ("seconds", "threads", "expected"),
    [
        (None, 1, 2),  # unknown: what runs, and one more
        (None, 4, 8),
        (10.0, 1, 2),
        (10.0, 4, 5),
        (0.01, 1, 10),
        (0.01, 4, 40),
        (0.0, 1, 5000),  # as if it took 20 microseconds
    ],
)
def test_a_worker_is_given_a_tenth_of_a_second_of_work_ahead(
    seconds: float | None, threads: int, expected: int
) -> None:
    reactor, (worker,) = a_reactor(threads)
    if seconds is not None:
        learn(reactor, seconds)
    submit(reactor, 6000)
    place(reactor.state)
    assert abs(len(worker.assigned) - expected) <= 1  # rounding of a sum of floats
    invariants.check(reactor.state)


def test_few_tasks_are_spread_over_all_workers() -> None:
    reactor, workers = a_reactor(1, 1, 1, 1)
    learn(reactor, 0.0001)
    submit(reactor, 8)
    place(reactor.state)
    assert [len(w.assigned) for w in workers] == [2, 2, 2, 2]


def test_idle_workers_come_before_those_with_room() -> None:
    reactor, workers = a_reactor(1, 1)
    learn(reactor, 0.0001)
    submit(reactor, 1)
    place(reactor.state)
    submit(reactor, 1, name="other")
    place(reactor.state)
    assert [len(w.assigned) for w in workers] == [1, 1]


def test_tasks_of_one_function_share_a_message() -> None:
    reactor, (worker,) = a_reactor(1)
    learn(reactor, 0.0)
    reactor.on_function_defined(m.DefineFunction(b"g", "g", b"bytes"))
    keys = submit(reactor, 3)
    reactor.on_tasks_submitted("c", m.SubmitTasks(b"g", ["g"], [b""]))
    kinds = [type(command.message).__name__ for command in place(reactor.state)]
    assert kinds == ["DefineFunction", "RunTasks", "DefineFunction", "RunTasks"]
    assert list(worker.assigned) == [*keys, "g"]


def test_a_small_input_travels_with_its_task() -> None:
    reactor, (worker,) = a_reactor(1)
    reactor.on_tasks_submitted("c", m.SubmitTasks(b"f", ["a", "b"], [b"", b""], [[], ["a"]]))
    place(reactor.state)
    reactor.on_tasks_done(worker.name, m.TasksDone(["a"], [b"result"], [0.01]), 0.0)
    (command,) = place(reactor.state)
    assert command.message == m.RunTask(b"f", "b", b"", [m.Input("a", b"result", [], 1)])


# --- large inputs


def test_a_task_goes_where_its_bytes_are() -> None:
    reactor, (_, near) = a_reactor(1, 1)
    store(reactor, near, "big", 100_000_000)
    learn(reactor, 10.0)
    submit(reactor, 1, inputs=["big"])
    (command,) = place(reactor.state)
    assert command.worker == near.name  # type: ignore[union-attr]
    assert isinstance(command.message, m.RunTask)
    assert command.message.inputs == [m.Input("big", None, [near.address], 1)]


def test_it_goes_elsewhere_if_waiting_there_takes_longer_than_the_bytes() -> None:
    reactor, (far, near) = a_reactor(1, 1)
    store(reactor, near, "big", int(BYTES_PER_SECOND))  # a second away
    learn(reactor, 60.0)
    submit(reactor, 2, inputs=["big"])
    place(reactor.state)
    assert len(near.assigned) == len(far.assigned) == 1


def test_it_stays_if_fetching_takes_longer_than_the_wait() -> None:
    reactor, (far, near) = a_reactor(1, 1)
    store(reactor, near, "big", int(BYTES_PER_SECOND))
    learn(reactor, 0.5)
    submit(reactor, 2, inputs=["big"])
    place(reactor.state)
    assert len(near.assigned) == 2
    assert not far.assigned


def test_a_draining_holder_gets_nothing() -> None:
    reactor, (far, near) = a_reactor(1, 1)
    store(reactor, near, "big", 100_000_000)
    reactor.on_worker_draining(near.name)
    submit(reactor, 1, inputs=["big"])
    place(reactor.state)
    assert len(far.assigned) == 1


# --- a key whose older task has not ended


def test_a_task_waits_if_all_workers_still_have_an_older_one_of_its_key() -> None:
    world = World()
    client, worker = world.join_client(), world.join(threads=3)
    world.submit(client, ["x"])
    world.round()
    world.release(client, "x")
    world.submit(client, ["x", "y", "z"])
    world.round()
    sent = [key for msg in worker.inbox if isinstance(msg, m.RunTasks) for key in msg.keys]
    assert sent == ["x", "y", "z"]  # the first x, and what came after the second
    world.check()
    world.settle()
    assert set(client.futures.values()) == {"done"}


@pytest.mark.parametrize(("size", "ahead"), [(0, 500), (100_000, 42), (1 << 20, 4), (1 << 30, 3)])
def test_what_is_ahead_makes_no_more_than_so_many_bytes(size: int, ahead: int) -> None:
    reactor, (worker,) = a_reactor(2)
    for i in range(30 if size else 0):
        store(reactor, worker, f"first{i}", size)
    learn(reactor, 0.0002)
    submit(reactor, 5000)
    place(reactor.state)
    assert ahead <= len(worker.assigned) / (1 if size == 1 << 30 else 2) <= ahead + 1
    invariants.check(reactor.state)


def test_small_results_wear_off_what_is_known_of_large_ones() -> None:
    reactor, (worker,) = a_reactor(1)
    for i in range(30):
        store(reactor, worker, f"large{i}", 1 << 30)
    submit(reactor, 10_000)
    for _ in range(60):  # messages there and back
        place(reactor.state)
        keys = list(worker.assigned)
        reactor.on_tasks_done("w0", m.TasksDone(keys, [b""] * len(keys), [0.0002] * len(keys)), 0.0)
    submit(reactor, 1000, name="more")
    place(reactor.state)
    assert len(worker.assigned) > 400


# --- cost


@pytest.mark.parametrize("inputs", [None, ["big"]], ids=["without inputs", "with a large input"])
def test_placing_a_task_costs_the_same_among_many_workers(inputs: list[str] | None) -> None:
    def cost(count: int) -> int:
        reactor, workers = a_reactor(*[1] * count)
        store(reactor, workers[0], "big", 1000)
        submit(reactor, 1, inputs=inputs)
        return lines_run(lambda: place(reactor.state))

    assert cost(10) == cost(300)


def test_a_round_without_ready_tasks_or_idle_workers_does_nothing() -> None:
    reactor, workers = a_reactor(*[1] * 50)
    submit(reactor, 200)
    place(reactor.state)
    assert reactor.state.ready.count
    assert lines_run(lambda: reactor.on_timer(1.0)) < 10
    assert all(len(w.assigned) == 2 for w in workers)


# --- the queue


def a_task(order: int) -> Task:
    return Task(f"k{order}", Function(m.DefineFunction(b"f", "f", b"")), b"", order, frozenset({Client("c")}), 0)


def test_the_queue_gives_tasks_by_their_order_however_they_come() -> None:
    rng = random.Random(1)
    queue = ReadyQueue()
    tasks = [a_task(i) for i in range(500)]
    rng.shuffle(tasks)
    for task in tasks:
        task.state = READY
        queue.push(task)
    got = [queue.pop() for _ in range(500)]
    assert [task.order for task in got if task] == list(range(500))
    assert queue.pop() is None
    assert queue.count == 0


def test_a_task_that_left_and_came_back_stands_in_the_queue_once() -> None:
    queue = ReadyQueue()
    task = a_task(1)
    for _ in range(3):
        task.state = READY
        queue.push(task)
        task.state = CANCELLED
        queue.forget()
    assert queue.pop() is None
    for _ in range(2):
        task.state = READY
        queue.push(task)
        if _ == 0:
            queue.forget()
    assert queue.pop() is task
    assert queue.pop() is None


def test_the_queue_lets_go_of_cancelled_tasks_without_being_asked_for_any() -> None:
    queue = ReadyQueue()
    kept = a_task(0)
    kept.state = READY
    queue.push(kept)
    for i in range(1, 10_000):
        task = a_task(i)
        task.state = READY
        queue.push(task)
        task.state = CANCELLED
        queue.forget()
    assert len(queue._fresh) + len(queue._late) < 2000
    assert queue.count == 1
    assert queue.pop() is kept


def test_a_fresh_state_is_in_order() -> None:
    state = SchedulerState()
    invariants.check(state)
    assert place(state) == []
