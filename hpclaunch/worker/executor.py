"""The threads that run tasks, and the queue between them and the worker's event loop.

Owns: ``threads`` execution threads, the queue of tasks that have all they need, and the list of outcomes that
the loop has not fetched yet. The threads never touch the network or the worker's state. For each thread
one slot of memory shared with the supervisor tells which task it runs, so that the supervisor can name the task
that took its process down.

A task that waits for others secedes: its thread gives its slot to a new thread, which runs other tasks meanwhile.
To rejoin, it takes the slot of a thread that has just finished a task, and that thread ends. So no more than
``threads`` tasks run at once, and tasks that wait for each other's tasks do not lock each other out.

The hot path is :meth:`Executor._run`: nothing there is done that a task does not need.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from queue import SimpleQueue
from time import perf_counter, sleep
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from hpclaunch.comm import serialize
from hpclaunch.comm.class_copies import enter
from hpclaunch.comm.framing import LIMIT_PEER
from hpclaunch.comm.serialize import Payload
from hpclaunch.errors import HPCLaunchError, SerializationError
from hpclaunch.tasks.actor import NewActor
from hpclaunch.tasks.context import Place, WorkerFacts, here
from hpclaunch.worker import shortage
from hpclaunch.worker.callee import Callee
from hpclaunch.worker.hooks import mend_hooks
from hpclaunch.worker.ownership import own

if TYPE_CHECKING:
    from hpclaunch.client.client import Client

#: Bytes of shared memory per thread: two for the length, the rest for the key of the running task.
SLOT_BYTES = 512

#: Seconds between two tries to say that there was no memory.
_NO_MEMORY_SECONDS = 0.1

#: Bytes of a result that fit into one frame.
MAX_RESULT = LIMIT_PEER - (1 << 24)

#: Bytes of a result from which a thread looks for room for the next.
_LARGE_RESULT = 4 << 20

#: Types whose values are small, and have no others in them.
_ATOMS = frozenset({bool, float, type(None)})
#: Bits, or characters, below which the values of two more types are small, too.
_SHORT = 1000


class UnreadableInput(NamedTuple):
    """The outcome of a task that was not run, for an input of it was on disk and can't be read back."""

    key: str
    file: Any
    error: OSError


Outcome = tuple[str, Any, float]  # key; bytes, Payload or Failure; seconds
_Item = tuple[str, Callee, bytes, Any]


class Unwanted:
    """The outcome of a task that is not wanted any more: there is a result, and it must not be kept.

    A copy of the result of a later task of the same key may be here by now.
    """


UNWANTED = Unwanted()


class Executor:
    """Runs tasks in threads.

    :param on_outcomes: called from an execution thread when outcomes are there and :meth:`take_outcomes`
        has been called since the last time.
    :param inline_limit: bytes up to which a result is given as bytes rather than as a Payload.
    :param slots: shared memory of ``threads * SLOT_BYTES`` bytes, or None.
    :param facts: the worker, for its tasks.
    :param on_seceded: called from an execution thread with (key, True) when a task steps aside, and with
        (key, False) when it is back.
    :param timed: keys of tasks to be announced when they begin; the caller adds to it.
    :param on_begun: called from an execution thread with the key of such a task, before it runs.
    :param make_client: makes the client that all tasks of this worker share.
    :param wait_for_room: called in an execution thread that has made a large result, with as many bytes as the
        next results may have; returns when it may go on.
    :param on_no_memory: called in an execution thread that can't go on because tasks have taken all memory; None
        in a process that is not to end for that: the task that was run there fails.
    """

    def __init__(
        self,
        threads: int,
        on_outcomes: Callable[[], None],
        *,
        inline_limit: int,
        slots: mmap.mmap | None = None,
        facts: WorkerFacts | None = None,
        on_seceded: Callable[[str, bool], None] = lambda key, away: None,
        timed: set[str] | None = None,
        on_begun: Callable[[str], None] = lambda key: None,
        make_client: Callable[[], Client] | None = None,
        on_no_memory: Callable[[], None] | None = None,
        wait_for_room: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._wait_for_room = wait_for_room
        self._stored = 0  # bytes that the last large result took, if no thread has waited for room since
        self.facts = facts or WorkerFacts("worker", "", "", threads, 0)
        self._on_outcomes = on_outcomes
        self._on_seceded = on_seceded
        self._timed: set[str] = timed if timed is not None else set()
        self._on_begun = on_begun
        self._make_client = make_client
        self._on_no_memory = on_no_memory
        self._client: Client | None = None
        self._client_lock = threading.Lock()
        self._inline_limit = inline_limit
        self._slots: Any = slots if slots is not None else bytearray(threads * SLOT_BYTES)
        self._queue: deque[_Item] = deque()
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._outcomes: deque[Outcome] = deque()
        self._announced = False
        self._count = threads
        self._places: set[Place] = set()  # one for each thread, also for those whose task is aside
        self._rejoining: deque[SimpleQueue[int]] = deque()  # who waits for a slot
        self._cancelled: set[str] = set()  # running tasks that are not wanted any more
        self._stopped = False
        for slot in range(0, threads * SLOT_BYTES, SLOT_BYTES):
            self._start_thread(slot)

    def _start_thread(self, slot: int) -> None:
        mend_hooks()  # a task has them as it left them, and a thread can't be made without
        place = Place(self, slot)
        self._places.add(place)
        name = f"hpclaunch-task-{slot // SLOT_BYTES}"
        place.thread = threading.Thread(target=self._serve, args=(place,), name=name, daemon=True)
        place.thread.start()

    def put(self, function: Callee, keys: Iterable[str], args: Iterable[bytes], inputs: Any) -> None:
        """Queue tasks of one function."""
        self._queue.extend([(key, function, arg, inputs) for key, arg in zip(keys, args, strict=True)])
        self._wake_all()

    def _wake_all(self) -> None:
        for _ in range(self._count):  # a token too many costs one look at an empty queue
            self._wake.put(True)

    def take_back(self, count: int, keys: frozenset[str], *, is_final: bool = True) -> list[str]:
        """Take the tasks with these keys off the queue, then others from its end up to ``count``; return keys.

        The threads go on taking tasks from its beginning meanwhile; those that they have are not given back,
        but can see that they are not wanted any more, if ``is_final``.
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
        if keys and is_final:
            self._cancelled.update(keys.difference(taken).intersection(self.running()))
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
        return not self._queue and not any(place.busy for place in list(self._places)) and not self._outcomes

    def running(self) -> list[str]:
        """Return the keys of the tasks that have begun and not ended."""
        return [place.key for place in list(self._places) if place.key]

    def threads_of(self) -> dict[str, threading.Thread]:
        """Return the running tasks' threads, by key."""
        places = list(self._places)
        return {place.key: place.thread for place in places if place.key and place.thread is not None}

    def is_cancelled(self, key: str) -> bool:
        """Say whether a running task is not wanted any more."""
        return key in self._cancelled

    def client(self) -> Client:
        """Return the client that all tasks of this worker share; it connects when it is first asked for."""
        with self._client_lock:
            if self._client is None:
                if self._make_client is None:
                    raise HPCLaunchError("this worker has no way to be a client")
                # What it starts on its loop lives as long as it, and must not keep this task's context alive.
                self._client = Context().run(self._make_client)
            return self._client

    def secede(self, place: Place) -> None:
        """Let a new thread run other tasks while the task at ``place`` waits."""
        slot, place.slot = place.slot, -1
        self._on_seceded(place.key, True)
        self._slots[slot : slot + 2] = b"\0\0"
        self._start_thread(slot)
        self._wake.put(True)

    def rejoin(self, place: Place) -> None:
        """Wait for a thread that has ended a task, and take its slot."""
        if self._stopped:
            return
        turn: SimpleQueue[int] = SimpleQueue()
        self._rejoining.append(turn)
        self._wake.put(True)
        slot = turn.get()
        if slot >= 0:
            place.slot = slot
            self._note(slot, place.key)
            self._on_seceded(place.key, False)

    def stop(self) -> None:
        """Let the threads end after what they run now."""
        self._stopped = True
        self._queue.clear()
        for _ in range(self._count):
            self._wake.put(False)
        with contextlib.suppress(IndexError):
            while True:
                self._rejoining.popleft().put(-1)
        client, self._client = self._client, None
        if client is not None:
            threading.Thread(target=client.close, name="hpclaunch-closing", daemon=True).start()

    def _serve(self, place: Place) -> None:
        here.place = place
        enter(place.classes)
        try:
            while not self._serve_until_told(place):
                pass
        finally:
            self._places.discard(place)

    def _serve_until_told(self, place: Place) -> bool:
        """Run what comes; True: this thread is to end. False: it had no memory, and is to begin again."""
        try:
            goes_on = self._serve_queue(place)  # what it had left, if it has begun again
            while goes_on and self._wake.get():
                goes_on = self._serve_queue(place)
        except MemoryError:
            self.on_no_memory()
            self._give_up_running(place)
            return place.slot < 0
        return True

    def on_no_memory(self) -> None:
        """A thread of this worker can't go on for want of memory; if the process is the worker's, it ends."""
        if self._on_no_memory is not None:
            self._on_no_memory()

    def _give_up_running(self, place: Place) -> None:
        """There was no memory to note a task's outcome, in a process that goes on: that is its outcome."""
        while True:
            try:
                if place.key:
                    self._cancelled.discard(place.key)
                    self._outcomes.append((place.key, shortage.NOTHING_LEFT, 0.0))
                    place.key = ""
                self._announced = True
                self._on_outcomes()
                return
            except MemoryError:
                sleep(_NO_MEMORY_SECONDS)

    def _serve_queue(self, place: Place) -> bool:
        """Run tasks until the queue is empty; False: this thread's slot has gone to another."""
        queue, run, rejoining = self._queue, self._run, self._rejoining
        place.busy = True
        mend_hooks()
        with contextlib.suppress(IndexError):
            while True:
                if rejoining and self._give_way(place):
                    return False
                item = queue.popleft()
                place.key = item[0]
                run(place, item)
                if place.slot < 0:  # that task has seceded, and ended without coming back
                    return False
                if self._stored:
                    del item  # and with it the task's inputs
                    self._make_room(place)
        self._slots[place.slot : place.slot + 2] = b"\0\0"
        place.busy = False
        return True

    def _make_room(self, place: Place) -> None:
        """A large result was made: go on when there is room for more of them, one on each thread."""
        size, self._stored = self._stored, 0
        self._slots[place.slot : place.slot + 2] = b"\0\0"
        self._wait_for_room(size * self._count)

    def _give_way(self, place: Place) -> bool:
        """Give this thread's slot to a task that wants to go on."""
        try:
            turn = self._rejoining.popleft()
        except IndexError:
            return False
        self._slots[place.slot : place.slot + 2] = b"\0\0"
        turn.put(place.slot)
        self._wake.put(True)  # this thread was woken for a task, perhaps
        return True

    def _note(self, slot: int, key: str) -> None:
        """Tell the supervisor what runs in a slot."""
        name = key.encode()[: SLOT_BYTES - 2]
        self._slots[slot : slot + 2 + len(name)] = len(name).to_bytes(2, "little") + name

    def _run(self, place: Place, item: _Item) -> None:
        """Run one task and note its outcome. Whatever a task does, it is that task's outcome."""
        key, function, data, inputs = item
        slot = place.slot
        name = key.encode()[: SLOT_BYTES - 2]
        self._slots[slot : slot + 2 + len(name)] = len(name).to_bytes(2, "little") + name
        outcome: Any
        call: Any
        args: Any
        kwargs: Any
        start = perf_counter()
        try:
            if self._timed and key in self._timed:
                self._timed.discard(key)
                self._on_begun(key)
            if threading.excepthook is None or sys.stdout is None or sys.stderr is None:  # an earlier task's work
                mend_hooks()
            call = function.shared or function.load()
            if inputs is not None:
                inputs = _read_back(inputs)
            args, kwargs = serialize.load_call(data, inputs)
            start = perf_counter()
            try:
                value = call(*args, **kwargs)
                if type(value) is CoroutineType:  # the function is an async one
                    value = asyncio.run(value)
            finally:
                seconds = perf_counter() - start
            outcome = self._pack(value)
            if type(outcome) is Payload:
                call = args = kwargs = value = None
                outcome = own(outcome, inputs)
        except _Unreadable as error:
            seconds = 0.0
            outcome = error.args[0]
        except BaseException as error:  # SystemExit and KeyboardInterrupt end the task, not the worker
            seconds = perf_counter() - start
            if isinstance(error, MemoryError):
                shortage.explain(error, self.facts)
            outcome = serialize.failure_of(error)
            mend_hooks()
        call = args = kwargs = value = None  # nothing of a task outlives it
        if place.classes:
            place.classes.clear()
        if place.before_end is not None:
            place.before_end()
            place.before_end = None
        if self._cancelled and key in self._cancelled:
            self._cancelled.discard(key)
            if isinstance(outcome, Payload | NewActor):
                outcome = UNWANTED
        self._outcomes.append((key, outcome, seconds))
        place.key = ""
        if not self._announced:
            self._announced = True
            self._on_outcomes()

    def _pack(self, value: Any) -> bytes | Payload | NewActor:
        if type(value) is NewActor:
            return value
        kind = type(value)
        if (
            kind in _ATOMS
            or (kind is int and value.bit_length() < _SHORT)
            or (kind is str and len(value) < _SHORT)
        ):  # most small results need no second look
            return pickle.dumps(value, 5)
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
        if payload.size >= _LARGE_RESULT:
            self._stored = payload.size + len(payload.pickle)  # which is a copy of what is in the value
        return payload


class _Unreadable(Exception):
    """An input can't be read back; its argument is the outcome."""


def _read_back(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Map those of a task's inputs that are on disk into memory."""
    values = dict(inputs)
    for key, value in inputs.items():
        if not isinstance(value, Payload | bytes):
            try:
                values[key] = value.read()
            except OSError as error:
                raise _Unreadable(UnreadableInput(key, value, error)) from None
    return values


def read_slots(slots: bytes, threads: int) -> list[str]:
    """Return the keys of the tasks that the threads of a dead process ran."""
    keys = []
    for i in range(threads):
        length = int.from_bytes(slots[i * SLOT_BYTES : i * SLOT_BYTES + 2], "little")
        if length:
            start = i * SLOT_BYTES + 2
            keys.append(slots[start : start + length].decode(errors="replace"))
    return keys
