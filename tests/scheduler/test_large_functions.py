"""Functions that hold much data leave workers after their last call; small ones stay."""

from __future__ import annotations

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import client_events
from hpclaunch.scheduler.commands import Command, ToWorker
from hpclaunch.scheduler.function import LARGE_BYTES
from hpclaunch.scheduler.large_functions import IDLE_SECONDS, forget_idle
from hpclaunch.scheduler.placement import place
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.state import Worker


class Scene:
    """A head with one worker and one client."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.reactor.on_client_joined("c")
        self.worker = Worker("w", "job", 1)
        self.reactor.on_worker_joined(self.worker, 0.0)
        self.count = 0

    def submit(self, function: bytes, size: int = LARGE_BYTES) -> str:
        client_events.on_function_sent(
            self.reactor.lifecycle, "c", m.DefineFunction(function, "f", b"", [bytes(size)])
        )
        self.count += 1
        key = f"k{self.count}"
        self.reactor.on_tasks_submitted("c", m.SubmitTasks(function, [key], [b""]))
        return key

    def place(self) -> list[str]:
        return told(place(self.reactor.state))

    def done(self, key: str) -> None:
        self.reactor.on_tasks_done("w", m.TasksDone([key], [b"1"], [0.1]), 0.0)

    def tick(self, now: float) -> list[str]:
        return told(forget_idle(self.reactor.state, now))


def told(commands: list[Command]) -> list[str]:
    """Return what the worker is told of functions."""
    said = []
    for command in commands:
        if isinstance(command, ToWorker) and isinstance(command.message, m.DefineFunction):
            said.append(f"define {command.message.function.decode()}")
        elif isinstance(command, ToWorker) and isinstance(command.message, m.ForgetFunctions):
            said.append("forget " + " ".join(one.decode() for one in command.message.functions))
    return said


def test_a_large_function_is_forgotten_a_moment_after_its_last_call_and_sent_again() -> None:
    scene = Scene()
    key = scene.submit(b"f")
    assert scene.place() == ["define f"]
    assert scene.tick(5.0) == scene.tick(50.0) == []  # it runs
    scene.done(key)
    assert scene.tick(60.0) == []
    assert scene.tick(60.0 + IDLE_SECONDS) == ["forget f"]
    assert scene.tick(100.0) == []
    assert not scene.reactor.state.with_large
    scene.submit(b"f")
    assert scene.place() == ["define f"]


def test_one_that_is_called_again_in_time_stays() -> None:
    scene = Scene()
    for now in range(5):
        key = scene.submit(b"f")
        assert scene.place() == (["define f"] if now == 0 else [])
        scene.done(key)
        assert scene.tick(now) == []
        scene.submit(b"f")
        assert scene.place() == []
        assert scene.tick(now + 0.9) == []  # busy
        scene.done(f"k{scene.count}")


def test_the_next_large_one_takes_the_place_of_one_that_is_idle() -> None:
    scene = Scene()
    scene.done(key) if (key := scene.submit(b"f")) and scene.place() else None
    scene.submit(b"g")
    assert scene.place() == ["forget f", "define g"]
    scene.submit(b"h")
    assert scene.place() == ["define h"]  # g is in use


def test_small_functions_stay() -> None:
    scene = Scene()
    scene.done(key) if (key := scene.submit(b"f", 100)) and scene.place() else None
    assert scene.tick(0.0) == scene.tick(100.0) == []
    assert b"f" in scene.worker.functions


def test_a_client_that_leaves_and_a_worker_that_is_lost_leave_nothing() -> None:
    scene = Scene()
    key = scene.submit(b"f")
    scene.place()
    scene.done(key)
    scene.reactor.on_client_left("c")
    assert not scene.worker.large
    assert scene.tick(0.0) == []
    scene.reactor.on_client_joined("c")
    scene.submit(b"g")
    scene.place()
    scene.reactor.on_worker_lost("w", running=None, how="", blame="none", now=0.0)
    scene.tick(1.0)
    scene.tick(9.0)
    assert not scene.reactor.state.with_large
