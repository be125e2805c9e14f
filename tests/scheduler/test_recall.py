"""Workers that were given far too much, because the work of that name was other work before."""

from __future__ import annotations

import random

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import client_events, invariants
from hpclaunch.scheduler.commands import ToWorker
from hpclaunch.scheduler.function import AHEAD_SECONDS
from hpclaunch.scheduler.placement import place
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.state import DONE, Worker, has_room
from tests.scheduler.world import FUNCTIONS, FakeWorker, World

QUICK, MIB = 10e-6, 1 << 20


class Bench:
    """A reactor with workers of one thread, which answer what they are told to, and one kind of work."""

    def __init__(self, workers: int = 1) -> None:
        self.reactor = Reactor()
        self.state = self.reactor.state
        self.reactor.on_client_joined("c")
        self.reactor.on_function_defined(m.DefineFunction(b"f", "f", b"bytes"))
        self.workers = [Worker(f"w{i}", "job", 1, address=f"w{i}:1") for i in range(workers)]
        for worker in self.workers:
            self.reactor.on_worker_joined(worker, 0.0)
        self.count = 0

    def submit(self, count: int) -> list[str]:
        keys = [f"k{self.count + i}" for i in range(count)]
        self.count += count
        self.reactor.on_tasks_submitted("c", m.SubmitTasks(b"f", keys, [b""] * count))
        return keys

    def answer(self, worker: Worker, keys: list[str], seconds: float = QUICK, size: int = 0) -> int:
        """A worker has run these; return how many tasks are taken back from it then."""
        count = len(keys)
        if size:
            message = m.TasksStored(keys, [size] * count, [seconds] * count)
            self.reactor.on_tasks_stored(worker.name, message, 0.0)
        else:
            self.reactor.on_tasks_done(worker.name, m.TasksDone(keys, [b""] * count, [seconds] * count), 0.0)
        commands = [one for one in self.reactor.take_commands() if isinstance(one, ToWorker)]
        recalls = [one.message.count for one in commands if isinstance(one.message, m.RecallTasks)]
        assert len(recalls) <= 1
        return sum(recalls)

    def give_back(self, worker: Worker, count: int) -> None:
        """A worker gives back the tasks that it got last."""
        if count:
            self.reactor.on_tasks_returned(worker.name, list(worker.assigned)[-count:])

    def round(self) -> None:
        place(self.state)

    def teach(self, count: int = 5000) -> None:
        """Have many quick tasks run before."""
        for _ in range(count):
            self.state.functions[b"f"].learn(QUICK)


@pytest.mark.parametrize(
    ("seconds", "size"),
    [(0.5, 0), (0.5, 40 * MIB), (QUICK, 40 * MIB), (0.05, 0)],
    ids=["slow", "slow and large", "large", "rather slow"],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_what_was_given_ahead_by_mistake_comes_back(workers: int, seconds: float, size: int) -> None:
    bench = Bench(workers)
    bench.teach()
    keys = bench.submit(1000 * workers)
    bench.round()
    assert all(len(worker.assigned) == 1000 for worker in bench.workers)
    for _ in range(12):  # of this work, each worker does so many
        for worker in bench.workers:
            back = bench.answer(worker, [next(iter(worker.assigned))], seconds, size)
            bench.give_back(worker, back)
            bench.round()
    invariants.check(bench.state)
    assert all(len(worker.assigned) <= 10 for worker in bench.workers)
    waiting = [task.key for task in bench.state.ready]
    assert len(waiting) > 900 * workers
    given = [key for worker in bench.workers for key in worker.assigned]
    done = [key for key in keys if bench.state.tasks[key].state == DONE]
    assert sorted([*waiting, *given, *done]) == sorted(keys)


def test_it_is_taken_back_once_and_what_is_left_counts_what_it_is() -> None:
    bench = Bench()
    bench.teach()
    bench.submit(1000)
    bench.round()
    (worker,) = bench.workers
    backs = [bench.answer(worker, [next(iter(worker.assigned))], 0.5) for _ in range(10)]
    (back,) = filter(None, backs)  # it has not answered yet
    assert not has_room(worker)
    bench.give_back(worker, back)
    invariants.check(bench.state)
    assert len(worker.assigned) < 200


def test_a_worker_that_has_little_more_than_it_should_keeps_it() -> None:
    bench = Bench()
    bench.teach()
    bench.submit(20)
    bench.round()
    (worker,) = bench.workers
    assert [bench.answer(worker, [key], 0.02) for key in list(worker.assigned)] == [0] * 20


@pytest.mark.parametrize(("seconds", "size"), [(10.0, 0), (QUICK, 1 << 30), (3600.0, 1 << 30)])
def test_an_odd_call_among_many_changes_nothing(seconds: float, size: int) -> None:
    bench = Bench()
    bench.teach()
    (worker,) = bench.workers
    for _ in range(5):
        bench.submit(5000)
        bench.round()
        first, *others = list(worker.assigned)
        assert len(others) > 1000
        assert bench.answer(worker, [first], seconds, size) == 0
        for _ in range(10):
            bench.answer(worker, list(worker.assigned))
            bench.round()


def test_work_of_which_one_in_a_hundred_is_slow_is_not_sent_to_and_fro() -> None:
    bench, chance = Bench(), random.Random(1)
    (worker,) = bench.workers
    recalls = 0
    bench.submit(20_000)
    while bench.state.ready.count:
        bench.round()
        for key in list(worker.assigned):
            if key in worker.assigned:
                count = bench.answer(worker, [key], 0.01 if chance.random() < 0.01 else 20e-6)
                bench.give_back(worker, count)
                recalls += count > 0
    assert recalls <= 1  # at first, when few were known


@pytest.mark.parametrize(("seconds", "size"), [(10.0, 0), (0.1, 40 * MIB), (0.1, 1 << 30)])
def test_work_that_has_become_quick_is_soon_given_in_large_batches(seconds: float, size: int) -> None:
    bench = Bench()
    (worker,) = bench.workers
    bench.submit(40)
    while worker.assigned or bench.state.ready.count:
        bench.round()
        bench.answer(worker, list(worker.assigned), seconds, size)
    bench.submit(20_000)
    rounds = 0
    while len(worker.assigned) < 1000:  # messages there and back
        bench.answer(worker, list(worker.assigned))
        bench.round()
        rounds += 1
    assert rounds < 60


def test_the_seconds_that_a_user_has_given_are_believed() -> None:
    bench = Bench()
    bench.teach()
    (worker,) = bench.workers
    keys = [f"own{i}" for i in range(1000)]
    terms = m.Terms(seconds=2 * QUICK)
    message = m.SubmitTasks(b"f", keys, [b""] * len(keys), [], 0, 0, terms)
    bench.reactor.on_tasks_submitted("c", message)
    bench.round()
    assert [bench.answer(worker, [key], 0.5) for key in list(worker.assigned)[:10]] == [0] * 10


def test_what_takes_results_in_does_not_wait_behind_what_makes_them() -> None:
    """Tasks that make large results, after quick ones of that name, and others that make little of two of them."""
    world = World()
    client = world.join_client()
    for _ in range(2000):
        world.state.functions[FUNCTIONS[0]].learn(QUICK)
    worker = world.join()
    for i in range(0, 60, 2):
        world.submit(client, [f"make{i}", f"make{i + 1}"])
        world.submit(client, [f"both{i}"], [[f"make{i}", f"make{i + 1}"]], function=FUNCTIONS[1])
        world.release(client, f"make{i}", f"make{i + 1}")
    most_ahead, most_held = _run(world, worker)
    assert most_ahead >= 60
    assert set(client.futures.values()) == {"done"}
    assert most_held <= 20  # of 60


def _run(world: World, worker: FakeWorker) -> tuple[int, int]:
    """Have a worker run one task after the other; return the most that it had ahead, and that it held."""
    known = world.state.workers[worker.name]
    most_ahead = most_held = 0
    while True:
        world.round()
        most_ahead = max(most_ahead, len(known.assigned))
        while worker.inbox:
            worker.receive()
        if not worker.start():
            break
        (key,) = worker.running
        worker.finish(key, "large" if key.startswith("make") else "small")
        while worker.outbox:
            world.hear(worker)
        most_held = max(most_held, len(known.holds))
    world.settle()
    return most_ahead, most_held


def test_what_waits_for_others_is_no_work_of_its_worker() -> None:
    bench = Bench()
    bench.teach()
    bench.submit(1000)
    bench.round()
    (worker,) = bench.workers
    aside = next(iter(worker.assigned))
    client_events.on_task_seceded(bench.reactor.lifecycle, worker.name, m.TaskSeceded(aside, True))
    back = 0
    while not back:
        back = bench.answer(worker, [list(worker.assigned)[1]], 0.5)
    assert worker.assigned[aside].cost == 0.0
    bench.give_back(worker, back)
    assert aside in worker.assigned
    assert worker.backlog >= AHEAD_SECONDS
