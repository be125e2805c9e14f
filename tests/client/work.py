"""Functions that the tests' tasks call. Workers import this module, so it imports next to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from hpclaunch.errors import ActorError


def inc(x: int) -> int:
    return x + 1


def add(*numbers: int) -> int:
    return sum(numbers)


def same(value: Any) -> Any:
    return value


class Sized(int):
    """A number that is as large as it is made."""

    ballast: bytes = b""


def sized(number: int, size: int) -> int:
    """Return a number that takes so many bytes."""
    value = Sized(number)
    value.ballast = os.urandom(size)
    return value


def pid() -> int:
    return os.getpid()


def fail(text: str = "bad input") -> None:
    raise ValueError(text)


def fail_odds(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


def wait_for(path: str, value: Any = None) -> Any:
    """Return ``value`` once there is a file of this name."""
    while not Path(path).exists():
        time.sleep(0.002)
    return value


def note(path: str, value: Any = None) -> Any:
    """Note in a file that, and by whom, this was called; return ``value``."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return value


def note_and_wait(path: str, gate: str, value: Any = None) -> Any:
    note(path)
    return wait_for(gate, value)


def times_called(path: str | Path) -> int:
    path = Path(path)
    return len(path.read_text().split()) if path.exists() else 0


def die(number: int = signal.SIGKILL) -> None:
    """End the worker's process."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(code: int) -> None:
    os._exit(code)


def die_once(path: str, value: Any) -> Any:
    """Kill the worker's process the first time, and return ``value`` the second."""
    if times_called(path) == 0:
        note(path)
        die()
    note(path)
    return value


def big(size: int, fill: int = 1) -> bytes:
    """Return ``size`` bytes."""
    return bytes([fill]) * size


def large_at_first(count: int, path: str, gate: str) -> bytes:
    """Return 4 MB; if this was called so many times before, wait for a gate and return little."""
    note(path)
    return big(4_000_000) if times_called(path) <= count else wait_for(gate, b"--")


def length(value: Any) -> int:
    return len(value)


class Flaky:
    """Raises until it has been called often enough, in whatever process."""

    def __init__(self, path: str, failures: int) -> None:
        self.path, self.failures = path, failures

    def __call__(self, *_: Any) -> int:
        note(self.path)
        if times_called(self.path) <= self.failures:
            raise OSError("not yet")
        return times_called(self.path)


class Box:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


def open_box(box: Box) -> Any:
    return box.inside


def time_out() -> None:
    raise TimeoutError("in the task")


def wait_if_odd(x: int, path: str) -> int:
    """Return an even number at once, and an odd one once there is a file of this name."""
    return x if x % 2 == 0 else int(wait_for(path, x))


def swell(size: int) -> None:
    """Say so, then take more and more memory, without ever releasing the interpreter's lock for long."""
    print("greedy is about to swell", file=sys.stderr, flush=True)
    kept = bytearray()
    while len(kept) < size:
        kept += b"x" * 1_000_000
    time.sleep(60)


def worker_name(*_: Any) -> str:
    """Return the name of the worker that runs this."""
    from hpclaunch.tasks.context import get_worker

    return get_worker().name


def fail_if_odd_sum(x: int, data: bytes) -> int:
    if (x + len(data)) % 2:
        raise ValueError("odd")
    return x


class Counter:
    """Something with a state."""

    def __init__(self, n: int = 0) -> None:
        self.n = n
        self._end = ""

    def add(self, by: int = 1) -> int:
        self.n += by
        return self.n

    async def later(self, by: int) -> int:
        return self.add(by)

    def same(self, value: Any) -> Any:
        return value

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def unpicklable(self) -> Any:
        return (x for x in "abc")

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def pid(self) -> int:
        return os.getpid()

    def call_other(self, other: Any) -> Any:
        return other.add(1).result(10)

    def note_end(self, path: str) -> None:
        self._end = path

    def __del__(self) -> None:
        if self._end:
            Path(self._end).touch()


def count_up(counter: Any) -> Any:
    return counter.add(1).result(10)


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def make_bytes(size: int, path: str) -> bytes:
    """Return so many bytes, and note in a file that this was called."""
    with open(path, "a") as file:
        file.write("x")
    return bytes(size)


def read_nowhere() -> None:
    import ctypes

    ctypes.string_at(0)


def hold_the_gil(seconds: float) -> str:
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return "held"


def recurse(limit: int) -> int:
    sys.setrecursionlimit(limit)

    def deeper(n: int) -> int:
        return sorted([1, 2], key=lambda _: deeper(n + 1))[0]

    return deeper(0)


def big_array(size: int) -> Any:
    import numpy as np

    return np.ones(size, dtype=np.uint8)


def array_size(array: Any) -> int:
    return len(array)


def memory_of(array: Any) -> str:
    """Say in what the bytes of an array are."""
    base = array
    while base is not None and type(base).__name__ in ("ndarray", "memoryview", "PickleBuffer"):
        base = getattr(base, "base", None) if type(base).__name__ == "ndarray" else getattr(base, "obj", None)
    return type(base).__name__


def total_length(values: list[bytes]) -> int:
    return sum(map(len, values))


def count_before_and_after(counter: Any, seen: str, gate: str) -> list[int]:
    """Call an actor, say so, and call it again once there is a file ``gate``, until it answers."""
    results = [counter.add(1).result(10)]
    Path(seen).touch()
    wait_for(gate)
    while True:
        with contextlib.suppress(ActorError):  # the answer to this one may be lost with the worker
            return [*results, counter.add(1).result(20)]


async def inc_later(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def own_key() -> str:
    from hpclaunch.tasks.context import get_worker

    return get_worker().get_current_task()


def check_forever(notes: str) -> None:
    """Run until it is not wanted any more; note that then."""
    from hpclaunch import get_task

    task = get_task()
    while not task.is_cancelled:
        time.sleep(0.005)
    note(notes)
    task.check()


def hang_once(notes: str, value: Any) -> Any:
    """Never return the first time; return ``value`` the second."""
    note(notes)
    while times_called(notes) == 1:
        time.sleep(0.01)
    return value


class Guarded:
    """What pickle can't take: bytes with a lock beside them."""

    def __init__(self, data: Any) -> None:
        import threading

        self.data = data
        self.lock = threading.Lock()


class OtherGuarded(Guarded):
    pass


def dump_guarded(value: Guarded) -> tuple[None, list[Any]]:
    return None, [value.data]


def load_guarded(_: None, buffers: list[memoryview]) -> Guarded:
    return Guarded(buffers[0])


def guarded_bytes(value: Guarded) -> bytes:
    return bytes(value.data)


def fill(piece: int) -> None:
    """Take pieces of memory until there are no more."""
    kept = []
    while True:
        kept.append(bytearray(piece))


class Hog:
    """Fails to be freed for want of memory, as anything may when there is none."""

    def __del__(self) -> None:
        raise MemoryError


def drop_a_hog() -> None:
    print("about to drop it", file=sys.stderr, flush=True)
    Hog()
    time.sleep(60)


_ballast: list[Any] = []


def take_ballast(size: int) -> int:
    """Keep so many bytes in this process beyond the end of the task."""
    _ballast.append(b"x" * size)
    return len(_ballast)


def drop_ballast() -> None:
    _ballast.clear()


def leave_if(x: int, which: int) -> int:
    """End the process with exit code 3 for one value, and return the others."""
    if x == which:
        os._exit(3)
    return x


def leave_in_a_task(code: int) -> Any:
    from hpclaunch import get_client

    return get_client().submit(leave, code, key="inner").result(60)


class Crashing:
    """An actor."""

    def read_nowhere(self) -> None:
        read_nowhere()


def reciprocal(number: float) -> float:
    return 1 / number
