"""What a worker knows: functions, tasks that wait for inputs, and results that it keeps. Pure data.

A key may be used for one task after another. What a task of it has made here the head has freed before it sends
anything of another task of the key; but a copy can come from another worker at any time. So a copy is known with
the *order* of the task that it is of, and is used for that one only.

A task on a worker is *fetching* (some inputs are on their way), then *queued* or *running* (both in the
executor's hands), and ends with exactly one answer to the head: done, stored, failed or returned.
"""

from __future__ import annotations

from typing import Any

from hpclaunch.comm.serialize import Payload
from hpclaunch.worker.memory import Ledger, Limits

#: A key, and the order of the task that is meant.
Version = tuple[str, int]


class FetchingTask:
    """A task some of whose inputs are on their way."""

    __slots__ = ("args", "function", "inputs", "key", "missing")

    def __init__(self, key: str, function: Any, args: bytes) -> None:
        self.key = key
        self.function = function
        self.args = args
        self.inputs: dict[str, Any] = {}  # key -> Payload, its file, or bytes
        self.missing: set[Version] = set()


class WorkerState:
    """All of it."""

    __slots__ = (
        "copies", "expected", "fetching", "functions", "ledger", "pinned", "sizes", "store", "waiting_for",
    )  # fmt: skip

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - a tuple
        self.ledger = Ledger(limits)
        self.functions: dict[bytes, Any] = {}  # by id; what the shell knows them by
        self.sizes: dict[bytes, int] = {}  # bytes of functions
        self.store: dict[str, Any] = {}  # results and copies of results, by key: a Payload, or its file on disk
        self.copies: dict[str, int] = {}  # of them, those that are copies, with the order of their task
        self.pinned: set[str] = set()  # of them, those that stay in memory
        self.expected: set[str] = set()  # tasks with large arguments that are on their way here
        self.fetching: dict[str, FetchingTask] = {}
        self.waiting_for: dict[Version, list[FetchingTask]] = {}  # input -> tasks

    def check(self) -> None:
        """Assert every rule of this state; for tests, after each event."""
        self.ledger.check()
        assert self.sizes.keys() <= self.functions.keys()
        assert self.ledger.functions == sum(self.sizes.values())
        assert self.ledger.keys() | self.pinned == self.store.keys()
        assert not self.ledger.keys() & self.pinned
        assert self.copies.keys() <= self.store.keys()
        for key, value in self.store.items():
            assert key not in self.ledger.disk.sizes or not isinstance(value, Payload)
        for key, task in self.fetching.items():
            assert task.key == key
            assert task.missing, f"{key} has all inputs and was not queued"
            for one in task.missing:
                assert task in self.waiting_for[one]
        for one, tasks in self.waiting_for.items():
            assert tasks, f"no task waits for {one}"
            for task in tasks:
                assert one in task.missing
                assert self.fetching.get(task.key) is task
