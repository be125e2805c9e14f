"""The threads that run tasks, and the queue between them and the worker's event loop.

Owns: ``threads`` execution threads, the queue of tasks that have all they need, and the list of outcomes that
the loop has not fetched yet. The threads never touch the network or the worker's state. For each thread
one slot of memory shared with the supervisor tells which task it runs, so that the supervisor can name the task
that took its process down.

The hot path is :meth:`Executor._run`: nothing there is done that a task does not need.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from time import perf_counter
from typing import Any

from hpclaunch.comm import serialize
from hpclaunch.comm.framing import LIMIT_PEER
from hpclaunch.comm.messages import Failure
from hpclaunch.comm.serialize import FunctionBytes, Payload
from hpclaunch.errors import SerializationError

#: Bytes of shared memory per thread: two for the length, the rest for the key of the running task.
SLOT_BYTES = 512

#: Bytes of a result that fit into one frame.
MAX_RESULT = LIMIT_PEER - (1 << 24)

Outcome = tuple[str, Any, float]  # key; bytes, Payload or Failure; seconds
_Item = tuple[str, "_Function", bytes, Any]


class _Function:
    """A function on this worker; unpickled by the first thread that calls it."""

    __slots__ = ("_call", "source")

    def __init__(self, source: FunctionBytes) -> None:
        self.source = source
        self._call: Callable[..., Any] | None = None

    @property
    def call(self) -> Callable[..., Any]:
        if self._call is None:
            try:
                self._call = serialize.load_value(self.source.data)
            except SerializationError as error:
                raise SerializationError(f"function {self.source.name}: {error}") from error
        return self._call


class Executor:
    """Runs tasks in threads.

    :param on_outcomes: called from an execution thread when outcomes are there and :meth:`take_outcomes`
        has been called since the last time.
    :param inline_limit: bytes up to which a result is given as bytes rather than as a Payload.
    :param slots: shared memory of ``threads * SLOT_BYTES`` bytes, or None.
    """

    def __init__(
        self,
        threads: int,
        on_outcomes: Callable[[], None],
        *,
        inline_limit: int,
        slots: mmap.mmap | None = None,
    ) -> None:
        self._on_outcomes = on_outcomes
        self._inline_limit = inline_limit
        self._slots: Any = slots if slots is not None else bytearray(threads * SLOT_BYTES)
        self._functions: dict[bytes, _Function] = {}
        self._queue: deque[_Item] = deque()
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._outcomes: deque[Outcome] = deque()
        self._announced = False
        self._count = threads
        self._busy = bytearray(threads)  # 1 for each thread that looks for tasks or runs one
        self._threads = [
            threading.Thread(target=self._serve, args=(i,), name=f"hpclaunch-task-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def define(self, function: FunctionBytes) -> None:
        """Make a function known."""
        self._functions[function.id] = _Function(function)

    def put(self, function: bytes, keys: Iterable[str], args: Iterable[bytes], inputs: Any) -> None:
        """Queue tasks of one known function."""
        known = self._functions[function]
        self._queue.extend([(key, known, arg, inputs) for key, arg in zip(keys, args, strict=True)])
        self._wake_all()

    def _wake_all(self) -> None:
        for _ in range(self._count):  # a token too many costs one look at an empty queue
            self._wake.put(True)

    def take_back(self, count: int, keys: frozenset[str]) -> list[str]:
        """Take the tasks with these keys off the queue, then others from its end up to ``count``; return keys.

        The threads go on taking tasks from its beginning meanwhile; those that they have are not given back.
        """
        queue = self._queue
        taken: list[str] = []
        kept: list[_Item] = []
        with contextlib.suppress(IndexError):
            while keys:
                item = queue.pop()
                if item[0] in keys:
                    taken.append(item[0])
                else:
                    kept.append(item)
        if kept:
            queue.extend(reversed(kept))
            self._wake_all()  # a thread may have seen the queue empty
        with contextlib.suppress(IndexError):
            while len(taken) < count:
                taken.append(queue.pop()[0])
        return taken

    def take_outcomes(self) -> list[Outcome]:
        """Return what has ended since the last call."""
        self._announced = False
        outcomes = self._outcomes
        return [outcomes.popleft() for _ in range(len(outcomes))]

    @property
    def is_idle(self) -> bool:
        """True if no task is queued or running, and no outcome waits."""
        # In this order: a thread is busy before it takes a task, and until after it has noted its outcome.
        return not self._queue and not any(self._busy) and not self._outcomes

    def stop(self) -> None:
        """Let the threads end after what they run now."""
        self._queue.clear()
        for _ in self._threads:
            self._wake.put(False)

    def _serve(self, index: int) -> None:
        queue, get, slot = self._queue, self._wake.get, index * SLOT_BYTES
        while get():
            self._busy[index] = 1
            with contextlib.suppress(IndexError):
                while True:
                    self._run(slot, queue.popleft())
            self._slots[slot : slot + 2] = b"\0\0"
            self._busy[index] = 0

    def _run(self, slot: int, item: _Item) -> None:
        """Run one task and note its outcome. Whatever a task does, it is that task's outcome."""
        key, function, data, inputs = item
        name = key.encode()[: SLOT_BYTES - 2]
        self._slots[slot : slot + 2 + len(name)] = len(name).to_bytes(2, "little") + name
        outcome: Any
        start = perf_counter()
        try:
            call = function.call
            args, kwargs = serialize.load_call(data, inputs)
            start = perf_counter()
            try:
                value = call(*args, **kwargs)
            finally:
                seconds = perf_counter() - start
            outcome = self._pack(value)
        except BaseException as error:  # SystemExit and KeyboardInterrupt end the task, not the worker
            seconds = perf_counter() - start
            outcome = _failure(error)
        self._outcomes.append((key, outcome, seconds))
        if not self._announced:
            self._announced = True
            self._on_outcomes()

    def _pack(self, value: Any) -> bytes | Payload:
        payload = serialize.dump_value(value)
        if not payload.buffers and len(payload.pickle) <= self._inline_limit:
            return payload.pickle  # type: ignore[return-value]
        if payload.size <= self._inline_limit:
            return serialize.dump_inline(value)
        if payload.size > MAX_RESULT:
            raise SerializationError(
                f"a result of {payload.size / 1e9:.0f} GB; at most {MAX_RESULT / 1e9:.0f} GB can be passed on. "
                "Return it in parts, or write it to a file and return its name"
            )
        return payload


def _failure(error: BaseException) -> Failure:
    try:
        return serialize.dump_failure(error, skip_frames=1)
    except BaseException as worse:  # an exception whose __str__ raises
        text = (
            f"the task raised a {type(error).__name__}, and turning that into text raised a {type(worse).__name__}"
        )
        return Failure("TaskError", text)


def read_slots(slots: bytes, threads: int) -> list[str]:
    """Return the keys of the tasks that the threads of a dead process ran."""
    keys = []
    for i in range(threads):
        length = int.from_bytes(slots[i * SLOT_BYTES : i * SLOT_BYTES + 2], "little")
        if length:
            start = i * SLOT_BYTES + 2
            keys.append(slots[start : start + length].decode(errors="replace"))
    return keys
