"""What a running task can learn of itself and its worker, and how it steps aside while it waits.

Each execution thread has a :class:`Place`, by which a task finds its executor; a thread that is none has no place.
Outside of tasks these functions raise ValueError, as in dask.distributed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hpclaunch.comm.class_copies import Table
from hpclaunch.comm.keys import key_of_text
from hpclaunch.errors import CancelledError

if TYPE_CHECKING:
    from hpclaunch.client.client import Client
    from hpclaunch.worker.executor import Executor


class Place:
    """One execution thread: what it runs, and where its slot begins; -1 while its task is aside."""

    __slots__ = ("busy", "classes", "executor", "key", "slot", "thread", "unheard")

    def __init__(self, executor: Executor, slot: int) -> None:
        self.executor = executor
        self.slot = slot
        self.key = ""
        self.busy = False  # looks for tasks, or runs one
        self.classes: Table = {}  # of its task; see hpclaunch.comm.class_copies
        self.thread: threading.Thread | None = None
        self.unheard: Client | None = None  # has said something that the head must hear before the task's end


class _Here(threading.local):
    place: Place | None = None


here = _Here()


class WorkerFacts:
    """The worker that runs a task. Attributes of your own may be set on it: they last as long as its process."""

    def __init__(
        self, name: str, job_id: str, host: str, threads: int, memory_limit: int, address: str = ""
    ) -> None:
        self.name = self.id = name
        self.address = address  # where other workers and clients reach it
        self.job_id = job_id
        self.host = host
        self.threads = self.nthreads = threads
        self.memory_limit = memory_limit  # bytes; 0 is none
        self.plugins: dict[str, Any] = {}  # by name: those that this process was set up by

    def get_current_task(self) -> Any:
        """Return the key of the task that calls this.

        :raises ValueError: no task does.
        """
        return get_task().key

    def __repr__(self) -> str:
        return f"<Worker {self.name} on {self.host}, threads: {self.threads}>"


class TaskFacts:
    """The task that asks."""

    def __init__(self, place: Place) -> None:
        self._executor = place.executor
        self._key = place.key

    @property
    def key(self) -> Any:
        """The task's key, a text or a tuple."""
        return key_of_text(self._key)

    @property
    def is_cancelled(self) -> bool:
        """True once nobody wants the result any more: it was cancelled, or all its futures are gone."""
        return self._executor.is_cancelled(self._key)

    def check(self) -> None:
        """Raise CancelledError if nobody wants the result any more. Cheap enough for an inner loop."""
        if self._executor.is_cancelled(self._key):
            raise CancelledError(f"task {self._key} was cancelled while it ran")

    def __repr__(self) -> str:
        return f"<Task {self._key}>"


def _place() -> Place:
    place = here.place
    if place is None:
        raise ValueError("this can be asked inside a task only, in the thread that runs it")
    return place


def get_task() -> TaskFacts:
    """Return the task that calls this.

    :raises ValueError: no task does.
    """
    return TaskFacts(_place())


def get_worker() -> WorkerFacts:
    """Return the worker whose task calls this.

    :raises ValueError: no task does.
    """
    return _place().executor.facts


def secede() -> None:
    """Let another task have this one's thread from now on, because this one is about to wait for long.

    Waiting for futures, and for locks, events, queues and variables of the cluster, does so by itself.
    """
    place = _place()
    if place.slot >= 0:
        place.executor.secede(place)


def rejoin() -> None:
    """End :func:`secede`: wait until a thread of the worker is free, and go on in its stead."""
    place = _place()
    if place.slot < 0:
        place.executor.rejoin(place)


@contextlib.contextmanager
def stepping_aside() -> Iterator[TaskFacts | None]:
    """Wait inside this block, in a task or elsewhere, without keeping a worker's thread from others.

    Gives the task, for whoever waits to see that it was cancelled meanwhile; None outside of tasks.
    """
    place = here.place
    if place is None:
        yield None
        return
    is_first = place.slot >= 0
    if is_first:
        place.executor.secede(place)
    try:
        yield TaskFacts(place)
    finally:
        if is_first:
            place.executor.rejoin(place)


def task_client() -> Client | None:
    """Return the client of the worker whose task calls this; None outside of tasks."""
    place = here.place
    return place.executor.client() if place is not None else None


@contextlib.contextmanager
def worker_client(timeout: float | None = None, separate_thread: bool = True) -> Iterator[Any]:
    """Give a client inside a task, which can submit more tasks and wait for them.

    :param separate_thread: secede for the length of the block.
    :raises ValueError: no task calls this.
    """
    executor = _place().executor
    client = executor.client()
    if not separate_thread:
        yield client
        return
    with stepping_aside():
        yield client
