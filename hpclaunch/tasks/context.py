"""What a running task can learn of itself and its worker, and how it secedes while it waits.

Each execution thread has a :class:`Place`, by which a task finds its executor; a thread that is none has no place.
Outside of tasks these functions raise ValueError, as in dask.distributed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from hpclaunch.comm.class_copies import Table
from hpclaunch.comm.keys import key_of_text
from hpclaunch.errors import CancelledError


class TaskExecutor(Protocol):
    """What a task needs of the worker's executor that runs it."""

    @property
    def facts(self) -> WorkerFacts:
        """The worker."""

    def is_cancelled(self, key: str) -> bool:
        """Say whether a task that runs was cancelled."""

    def secede(self, place: Place) -> None:
        """Give the thread of a place to other tasks."""

    def rejoin(self, place: Place) -> None:
        """Wait for a free thread for a place that has seceded."""

    def client(self) -> Any:
        """Return the client that all tasks of the worker share."""


class Place:
    """One execution thread: what it runs, and where its slot begins; -1 while its task has seceded."""

    __slots__ = ("before_end", "busy", "classes", "executor", "key", "slot", "thread")

    def __init__(self, executor: TaskExecutor, slot: int) -> None:
        self.executor = executor
        self.slot = slot
        self.key = ""
        self.busy = False  # looks for tasks, or runs one
        self.classes: Table = {}  # of its task; see hpclaunch.comm.class_copies
        self.thread: threading.Thread | None = None
        #: Called before the task's end is reported: its client has sent something that the head must have by then.
        self.before_end: Callable[[], None] | None = None


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
        """True once the result is not wanted any more: it was cancelled, or all its futures are gone."""
        return self._executor.is_cancelled(self._key)

    def check(self) -> None:
        """Raise CancelledError once the result is not wanted any more. Cheap enough for an inner loop."""
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
def seceding() -> Iterator[TaskFacts | None]:
    """Wait inside this block, in a task or elsewhere, without keeping a worker's thread from other tasks.

    Gives the task, so that the caller sees when it was cancelled meanwhile; None outside of tasks.
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


def task_client() -> Any:
    """Return the client of the worker whose task calls this; None outside of tasks."""
    place = here.place
    return place.executor.client() if place is not None else None


def client_of_task() -> Any:
    """Return the client of the worker whose task calls this.

    :raises ValueError: no task does.
    """
    return _place().executor.client()


def takes_worker(call: Callable[..., Any]) -> bool:
    """Say whether a function has a parameter ``dask_worker``, for the worker that calls it."""
    code = getattr(call, "__code__", None)
    return code is not None and "dask_worker" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
