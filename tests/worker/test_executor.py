"""The execution threads: whatever a task does, it ends with one outcome, and the threads go on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hpclaunch.comm import serialize
from hpclaunch.comm.messages import Failure
from hpclaunch.comm.serialize import Payload, load_failure
from hpclaunch.errors import SerializationError, TaskError
from hpclaunch.worker import executor as executor_module
from hpclaunch.worker.executor import SLOT_BYTES, UNWANTED, Callee, Executor, Outcome, read_slots

LIMIT = 1000


class Rig:
    """An executor, and the loop that it announces outcomes to."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.slots = bytearray(threads * SLOT_BYTES)
        self.announced = threading.Semaphore(0)
        self.announcements = 0
        self.outcomes: dict[str, tuple[Any, float]] = {}
        self.executor = Executor(threads, self._on_outcomes, inline_limit=LIMIT, slots=self.slots)  # type: ignore[arg-type]

    def _on_outcomes(self) -> None:
        self.announcements += 1
        self.announced.release()

    def put(self, function: Callable[..., Any], *calls: tuple[Any, ...], prefix: str = "k") -> list[str]:
        sent = serialize.dump_function(function)
        keys = [f"{prefix}{i}" for i in range(len(calls))]
        self.executor.put(Callee(sent), keys, [serialize.dump_call(args, None)[0] for args in calls], None)
        return keys

    def wait(self, count: int) -> dict[str, tuple[Any, float]]:
        while len(self.outcomes) < count:
            assert self.announced.acquire(timeout=10), f"only {self.outcomes} came"
            self.take()
        return self.outcomes

    def take(self) -> list[Outcome]:
        new = self.executor.take_outcomes()
        for key, value, seconds in new:
            assert key not in self.outcomes, "two outcomes of one task"
            self.outcomes[key] = value, seconds
        return new

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run one task and return what the executor made of it."""
        (key,) = self.put(function, args, prefix=f"run{len(self.outcomes)}-")
        return self.wait(len(self.outcomes) + 1)[key][0]

    def close(self) -> None:
        self.executor.stop()
        for thread in [place.thread for place in list(self.executor._places) if place.thread is not None]:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(params=[1, 3])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(request.param)
    yield rig
    rig.close()


class Gate:
    """Holds tasks until it is opened; pickled as a reference, since tasks run in this process."""

    gates: dict[int, Gate] = {}

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.gates[id(self)] = self

    def pass_through(self, value: Any = None) -> Any:
        self.waiting.release()
        assert self.open.wait(10)
        return value

    def __reduce__(self) -> Any:
        return the_gate, (id(self),)


def the_gate(number: int) -> Gate:
    return Gate.gates[number]


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.001)


# --- outcomes


def test_small_results_come_as_bytes(rig: Rig) -> None:
    keys = rig.put(lambda x: x * 2, *[(i,) for i in range(100)])
    outcomes = rig.wait(100)
    assert [serialize.load_value(outcomes[key][0]) for key in keys] == [2 * i for i in range(100)]
    assert all(seconds >= 0 for _, seconds in outcomes.values())


@pytest.mark.parametrize(
    ("make", "is_inline"),
    [
        (lambda: None, True),
        (lambda: bytes(LIMIT - 50), True),
        (lambda: bytes(LIMIT), False),
        (lambda: list(range(LIMIT)), False),
        (lambda: __import__("numpy").zeros(LIMIT // 16), True),
        (lambda: __import__("numpy").zeros(LIMIT // 8), False),
    ],
    ids=["none", "just fits", "bytes", "list", "small array", "array"],
)
def test_results_above_the_limit_stay_as_payloads(rig: Rig, make: Callable[[], Any], is_inline: bool) -> None:
    value = rig.run(make)
    assert type(value) is (bytes if is_inline else Payload)
    back = serialize.load_value(value) if is_inline else serialize.load_value(*value)
    np.testing.assert_array_equal(back, make())


def test_run_time_is_that_of_the_function_alone(rig: Rig) -> None:
    gate = Gate()
    (key,) = rig.put(lambda g: g.pass_through(), (gate,))
    assert gate.waiting.acquire(timeout=10)
    time.sleep(0.02)
    gate.open.set()
    assert rig.wait(1)[key][1] >= 0.02


# --- failures


class StrRaises(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class ReprAndStrRaise(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


def fail(error: BaseException) -> None:
    raise error


def test_an_exception_is_a_failure_with_the_users_frames(rig: Rig) -> None:
    failure = rig.run(fail, ValueError("bad"))
    assert isinstance(failure, Failure)
    assert type(load_failure(failure)) is ValueError
    assert "in fail" in failure.traceback
    assert "worker/executor.py" not in failure.traceback.replace("tests/worker/", "")


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), KeyboardInterrupt(), GeneratorExit()])
def test_what_ends_programs_ends_the_task_and_no_thread(rig: Rig, error: BaseException) -> None:
    for _ in range(4):  # more than there are threads
        back = load_failure(rig.run(fail, error))
        assert type(back) is TaskError
        assert type(error).__name__ in str(back)
    assert serialize.load_value(rig.run(abs, -1)) == 1


@pytest.mark.parametrize("kind", [StrRaises, ReprAndStrRaise])
def test_an_exception_that_cannot_be_printed_is_still_a_failure(rig: Rig, kind: type[Exception]) -> None:
    failure = rig.run(lambda: fail(kind()))
    assert isinstance(failure, Failure)
    assert kind.__name__ in failure.text + failure.traceback
    assert serialize.load_value(rig.run(abs, -1)) == 1


def test_an_endless_recursion_is_a_failure(rig: Rig) -> None:
    def deeper(n: int) -> int:
        return deeper(n + 1)

    assert type(load_failure(rig.run(deeper, 0))) is RecursionError


def test_a_result_that_cannot_be_pickled_is_that_tasks_failure(rig: Rig) -> None:
    back = load_failure(rig.run(threading.Lock))
    assert type(back) is SerializationError
    assert "lock" in str(back)
    assert isinstance(rig.run(nested, 100_000), Failure)


def test_a_result_that_fits_no_frame_is_that_tasks_failure(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "MAX_RESULT", 5000)
    assert type(rig.run(lambda: bytes(4000))) is Payload
    back = load_failure(rig.run(lambda: bytes(6000)))
    assert type(back) is SerializationError
    assert "Return it in parts" in str(back)


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


def test_arguments_that_cannot_be_loaded_are_that_tasks_failure(rig: Rig) -> None:
    sent = serialize.dump_function(abs)
    rig.executor.put(Callee(sent), ["k"], [b"cno_such_module\nthing\n."], None)
    back = load_failure(rig.wait(1)["k"][0])
    assert type(back) is SerializationError
    assert "no_such_module" in str(back)


def test_a_function_that_cannot_be_loaded_fails_each_of_its_tasks(rig: Rig) -> None:
    sent = serialize.FunctionBytes(b"id", "analyse", b"cno_such_module\nanalyse\n.")
    rig.executor.put(Callee(sent), ["a", "b"], [b"", b""], None)
    for value, _ in rig.wait(2).values():
        assert "function analyse: " in str(load_failure(value))
        assert "no_such_module" in str(load_failure(value))


def test_inputs_are_resolved(rig: Rig) -> None:
    sent = serialize.dump_function(lambda a, b: a + b)

    class Reference:
        def __init__(self, key: str) -> None:
            self.key = key

        def __reduce__(self) -> Any:
            return serialize.reduce_future(self.key)

    data, _ = serialize.dump_call((Reference("x"), Reference("y")), None)
    rig.executor.put(Callee(sent), ["k"], [data], {"x": serialize.dump_inline(1), "y": serialize.dump_value(2)})
    assert serialize.load_value(rig.wait(1)["k"][0]) == 3


# --- the queue


def held(rig: Rig) -> Gate:
    """Let every thread run a task that waits."""
    gate = Gate()
    count = rig.threads
    rig.put(gate.pass_through, *[(i,) for i in range(count)], prefix="held")
    for _ in range(count):
        assert gate.waiting.acquire(timeout=10)
    return gate


def test_taking_back_gives_the_last_first_and_not_what_runs(rig: Rig) -> None:
    gate = held(rig)
    keys = rig.put(abs, *[(i,) for i in range(5)])
    assert rig.executor.take_back(2, frozenset()) == keys[:2:-1]
    assert rig.executor.take_back(0, frozenset({keys[1], "held0", "unknown"})) == [keys[1]]
    assert sorted(rig.executor.take_back(99, frozenset())) == [keys[0], keys[2]]
    assert rig.executor.take_back(1, frozenset()) == []
    gate.open.set()
    assert all(key.startswith("held") for key in rig.wait(rig.threads))


def test_a_large_result_of_a_task_that_nobody_wants_any_more_is_not_handed_on(rig: Rig) -> None:
    gate = Gate()
    (key,) = rig.put(lambda g: g.pass_through(0) or bytes(1 << 20), (gate,))
    assert gate.waiting.acquire(timeout=10)
    assert rig.executor.take_back(0, frozenset({key})) == []
    gate.open.set()
    assert rig.wait(1)[key][0] is UNWANTED


def test_what_is_left_after_taking_back_still_runs_in_order(rig: Rig) -> None:
    gate = held(rig)
    order: list[int] = []
    gates = Gate()
    gates.note = order.append  # type: ignore[attr-defined]
    keys = rig.put(lambda g, i: g.note(i), *[(gates, i) for i in range(10)])
    assert rig.executor.take_back(0, frozenset({keys[3], keys[7]})) == [keys[7], keys[3]]
    gate.open.set()
    rig.wait(rig.threads + 8)
    if rig.threads == 1:
        assert order == [0, 1, 2, 4, 5, 6, 8, 9]
    assert sorted(order) == [0, 1, 2, 4, 5, 6, 8, 9]


def test_each_task_has_one_end_while_tasks_are_taken_back(rig: Rig) -> None:
    count = 3000
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        keys = rig.put(abs, *[(i,) for i in range(count)])
        back: set[str] = set()
        for i in range(0, count, 7):
            taken = rig.executor.take_back(0, frozenset({keys[i], keys[-1 - i]}))
            assert not back & set(taken)
            back |= set(taken)
        rig.wait(count - len(back))
    finally:
        sys.setswitchinterval(switch)
    until(lambda: rig.executor.is_idle)
    assert back | rig.outcomes.keys() == set(keys)
    assert not back & rig.outcomes.keys()


def test_idle_means_nothing_queued_running_or_unreported(rig: Rig) -> None:
    assert rig.executor.is_idle
    gate = held(rig)
    assert not rig.executor.is_idle
    gate.open.set()
    until(lambda: len(rig.executor._outcomes) == rig.threads)
    assert not rig.executor.is_idle
    rig.take()
    until(lambda: rig.executor.is_idle)


def test_outcomes_are_announced_once_until_they_are_taken() -> None:
    rig = Rig(1)
    keys = rig.put(abs, *[(i,) for i in range(50)])
    until(lambda: len(rig.executor._outcomes) == 50)
    assert rig.announcements == 1
    assert [key for key, _, _ in rig.take()] == keys
    rig.put(abs, (1,), prefix="more")
    rig.wait(51)
    rig.close()


def test_stopping_forgets_what_is_queued(rig: Rig) -> None:
    gate = held(rig)
    rig.put(abs, (1,), (2,))
    rig.executor.stop()
    gate.open.set()
    assert set(rig.wait(rig.threads)) == {f"held{i}" for i in range(rig.threads)}


# --- slots


def test_slots_name_what_runs(rig: Rig) -> None:
    threads = rig.threads
    gate = held(rig)
    assert sorted(read_slots(bytes(rig.slots), threads)) == [f"held{i}" for i in range(threads)]
    gate.open.set()
    rig.wait(threads)
    until(lambda: read_slots(bytes(rig.slots), threads) == [])


def test_a_key_of_any_length_stays_in_its_slot() -> None:
    rig = Rig(2)
    gate = Gate()
    sent = serialize.dump_function(gate.pass_through)
    long = "ä" * SLOT_BYTES
    data = serialize.dump_call((1,), None)[0]
    rig.executor.put(Callee(sent), [long, "short"], [data, data], None)
    for _ in range(2):
        assert gate.waiting.acquire(timeout=10)
    first, second = sorted(read_slots(bytes(rig.slots), 2), key=len, reverse=True)
    assert long.startswith(first[:-1])
    assert second == "short"
    gate.open.set()
    rig.wait(2)
    rig.close()


class Starved:
    """Has no memory, for so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, *args: Any) -> Any:
        self.left -= 1
        if self.left >= 0:
            raise MemoryError


def no_memory_for_words(error: BaseException) -> Failure:
    raise MemoryError


def test_a_thread_that_has_no_memory_fails_its_task_and_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``processes=False``, where the process does not end for that."""
    with monkeypatch.context() as patch:
        patch.setattr(serialize, "failure_of", no_memory_for_words)
        keys = rig.put(divmod, *[(1, 0)] * 5, prefix="bad")
        outcomes = rig.wait(5)
    for key in keys:
        error = load_failure(outcomes[key][0])
        assert type(error) is TaskError
        assert "no memory left to note how it ended" in str(error)
    assert serialize.load_value(rig.run(abs, -1)) == 1
    assert rig.executor.running() == []


def test_outcomes_that_could_not_be_announced_for_want_of_memory_are_announced_later(rig: Rig) -> None:
    starved = Starved(2)
    announce, rig.executor._on_outcomes = rig.executor._on_outcomes, lambda: (starved(), rig._on_outcomes())[1]
    rig.put(abs, (-1,), (-2,), (-3,))
    assert sorted(serialize.load_value(value) for value, _ in rig.wait(3).values()) == [1, 2, 3]
    rig.executor._on_outcomes = announce
    assert starved.left < 0
