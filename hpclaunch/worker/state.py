"""What a worker knows: functions, tasks that wait for inputs, and results that it keeps. Pure data.

A task on a worker is *fetching* (some inputs are on their way), then *queued* or *running* (both in the
executor's hands), and ends with exactly one answer to the head: done, stored, failed or returned.
"""

from __future__ import annotations

from typing import Any

from hpclaunch.comm.serialize import FunctionBytes, Payload
from hpclaunch.worker.memory import Ledger, Limits


class FetchingTask:
    """A task some of whose inputs are on their way."""

    __slots__ = ("args", "function", "inputs", "key", "missing")

    def __init__(self, key: str, function: bytes, args: bytes) -> None:
        self.key = key
        self.function = function
        self.args = args
        self.inputs: dict[str, Any] = {}  # key -> Payload, its file, or bytes
        self.missing: set[str] = set()


class WorkerState:
    """All of it."""

    __slots__ = ("fetching", "functions", "ledger", "pinned", "store", "waiting_for")

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - a tuple
        self.ledger = Ledger(limits)
        self.functions: dict[bytes, FunctionBytes] = {}
        self.store: dict[str, Any] = {}  # results and copies of results, by key: a Payload, or its file on disk
        self.pinned: set[str] = set()  # of them, those that stay in memory
        self.fetching: dict[str, FetchingTask] = {}
        self.waiting_for: dict[str, list[FetchingTask]] = {}  # input's key -> tasks

    def check(self) -> None:
        """Assert every rule of this state; for tests, after each event."""
        self.ledger.check()
        assert self.ledger.keys() | self.pinned == self.store.keys()
        assert not self.ledger.keys() & self.pinned
        for key, value in self.store.items():
            assert key not in self.ledger.disk.sizes or not isinstance(value, Payload)
        for key, task in self.fetching.items():
            assert task.key == key
            assert task.missing, f"{key} has all inputs and was not queued"
            for one in task.missing:
                assert task in self.waiting_for[one]
        for one, tasks in self.waiting_for.items():
            assert tasks, f"nobody waits for {one}"
            for task in tasks:
                assert one in task.missing
                assert self.fetching.get(task.key) is task
