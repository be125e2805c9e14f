"""Of several workers with nothing to do, which one gets a single task."""

from __future__ import annotations

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import invariants
from hpclaunch.scheduler.placement import place
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.state import Worker


def three_workers() -> tuple[Reactor, list[Worker]]:
    reactor = Reactor()
    reactor.on_client_joined("c")
    reactor.on_function_defined(m.DefineFunction(b"f", "f", b"bytes"))
    workers = [Worker(f"w{i}", "job", 1, address=f"w{i}:1") for i in range(3)]
    for worker in workers:
        reactor.on_worker_joined(worker, 0.0)
    return reactor, workers


def one_task(reactor: Reactor, workers: list[Worker], key: str, *, size: int | None = None) -> int:
    """Run one task to its end; return the number of the worker that it was given to."""
    reactor.on_tasks_submitted("c", m.SubmitTasks(b"f", [key], [b""]))
    place(reactor.state)
    (number,) = [i for i, worker in enumerate(workers) if key in worker.assigned]
    name = workers[number].name
    if size is None:
        reactor.on_tasks_done(name, m.TasksDone([key], [b"result"], [0.001]), 0.0)
    else:
        reactor.on_tasks_stored(name, m.TasksStored([key], [size], [0.001]), 0.0)
    invariants.check(reactor.state)
    return number


def test_tasks_one_at_a_time_go_to_the_worker_that_is_warm():
    reactor, workers = three_workers()
    assert len({one_task(reactor, workers, f"k{i}") for i in range(10)}) == 1


def test_large_results_are_spread():
    reactor, workers = three_workers()
    chosen = [one_task(reactor, workers, f"k{i}", size=1 << 20) for i in range(9)]
    assert sorted(chosen) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_worker_that_has_let_go_of_its_results_can_be_the_warm_one_again():
    reactor, workers = three_workers()
    last = one_task(reactor, workers, "large", size=1 << 20)
    assert one_task(reactor, workers, "elsewhere") != last
    reactor.on_keys_released("c", ["large", "elsewhere"])
    chosen = [one_task(reactor, workers, f"k{i}") for i in range(3)]
    assert len(set(chosen)) == 1
