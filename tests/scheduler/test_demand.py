"""How much work there is."""

from __future__ import annotations

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.demand import ASSUMED_SECONDS, Meter, ReadyWork
from hpclaunch.scheduler.function import LARGE_BYTES
from hpclaunch.scheduler.placement import place
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.state import Worker
from tests.scheduler.world import teach


class Desk:
    """A reactor with one client, and a meter."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.state = self.reactor.state
        self.reactor.on_client_joined("c")
        self.meter = Meter()
        self.count = 0

    def submit(
        self,
        function: str,
        count: int,
        terms: m.Terms | None = None,
        inputs: list[str] | None = None,
        args: bytes = b"",
    ) -> list[str]:
        id = function.encode()
        self.reactor.on_function_defined(m.DefineFunction(id, function, b""))
        keys = [f"{function}-{self.count + i}" for i in range(count)]
        self.count += count
        given = [inputs] * count if inputs else []
        self.reactor.on_tasks_submitted("c", m.SubmitTasks(id, keys, [args] * count, given, terms=terms))
        return keys

    def join(self, name: str, threads: int = 1) -> None:
        self.reactor.on_worker_joined(Worker(name, f"job-{name}", threads), 0.0)

    def measure(self, now: float = 0.0) -> tuple[list[ReadyWork], int, dict[str, tuple[int, float, int]]]:
        ready, waiting, jobs = self.meter.measure(self.state, now)
        return ready, waiting, {job: tuple(load) for job, load in jobs.items()}


def test_nothing_to_do() -> None:
    desk = Desk()
    desk.join("w")
    assert desk.measure() == ([], 0, {"job-w": (0, 0.0, 0)})


def test_unknown_functions_are_taken_to_last_half_a_second() -> None:
    desk = Desk()
    desk.submit("f", 10)
    assert desk.measure() == ([ReadyWork((), 10, 10 * ASSUMED_SECONDS)], 0, {})


def test_known_ones_last_what_they_did_and_waiting_ones_are_counted() -> None:
    desk = Desk()
    keys = desk.submit("f", 10)
    teach(desk.state.functions[b"f"], 3.0)
    desk.submit("g", 2, inputs=keys[:1])
    ready, waiting, _ = desk.measure()
    assert ready == [ReadyWork((), 10, 30.0)]
    assert waiting == 2


def test_a_mixture_is_sampled() -> None:
    desk = Desk()
    for _ in range(40):
        desk.submit("f", 100)
        desk.submit("g", 100)
    teach(desk.state.functions[b"f"], 1.0)
    teach(desk.state.functions[b"g"], 3.0)
    ((resources, tasks, seconds, _),) = desk.measure()[0]
    assert (resources, tasks) == ((), 8000)
    assert seconds == pytest.approx(16000, rel=0.05)


def test_work_is_told_apart_by_what_it_asks_for() -> None:
    desk = Desk()
    desk.submit("f", 4)
    desk.submit("f", 3, m.Terms(resources={"GPU": 1}, seconds=20.0))
    assert desk.measure()[0] == [ReadyWork((), 4, 2.0), ReadyWork((("GPU", 1),), 3, 60.0)]


def test_what_runs_longer_than_expected_is_taken_to_need_as_long_again() -> None:
    desk = Desk()
    desk.join("w")
    desk.submit("f", 9)
    place(desk.state)
    assert desk.measure(100.0)[2]["job-w"][0] == 2
    ready, _, jobs = desk.measure(130.0)
    assert jobs["job-w"] == (2, 30.0 + 60.0, 0)
    assert ready == [ReadyWork((), 7, 7 * 60.0)]


def test_idle_jobs_say_what_only_they_hold() -> None:
    desk = Desk()
    desk.join("w")
    (key,) = desk.submit("f", 1)
    place(desk.state)
    desk.reactor.on_tasks_stored("w", m.TasksStored([key], [5000], [0.1]), 1.0)
    assert desk.measure(1.0)[2]["job-w"] == (0, 0.0, 5000)


def test_work_that_is_given_much_says_how_much() -> None:
    desk = Desk()
    desk.submit("f", 2, args=bytes(LARGE_BYTES))
    desk.submit("f", 1, args=bytes(LARGE_BYTES + 5))
    desk.submit("g", 3)
    seconds = ASSUMED_SECONDS
    assert desk.measure()[0] == [
        ReadyWork((), 3, 3 * seconds),
        ReadyWork((), 3, 3 * seconds, 2 * (LARGE_BYTES + 5)),
    ]
