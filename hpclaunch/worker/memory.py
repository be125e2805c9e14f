"""When a worker writes results to disk, and when it takes no more tasks. Pure policy, on plain numbers.

Two things are measured: what the results in memory count (*managed*), and what the process has of its own
(*process*). Rules:

* ``target``: managed results beyond it are written to disk, those that were not used for longest first. What
  functions hold counts as managed.
* ``spill``: as soon as the process has more, results are written until it would be below ``target``.
* A thread that has just made a large result waits, before its next task, until there is room for another of that
  size below ``terminate``: results are written for that, too.
* ``pause``: while either has more, no new task starts.
* What was written stays on disk until it is freed: the kernel's page cache keeps it in memory as long as there is
  some to spare, and gives it up when there is not.
* When the disk takes nothing more, results stay in memory, ``spill`` pauses as ``pause`` does, and the disk is
  tried again after a while.

``terminate`` is not here: a task that holds the GIL would keep this process from it, so the supervisor does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

LEVELS = ("target", "spill", "pause", "terminate")
#: Seconds after which a disk that was full is tried again.
RETRY_SECONDS = 10.0
#: A worker that was paused begins again this far below the level, so that it does not flicker.
_BELOW = 0.97


class Limits(NamedTuple):
    """Bytes at which something is done; 0 is never."""

    memory: int = 0  # what this worker may use
    target: int = 0
    spill: int = 0
    pause: int = 0
    terminate: int = 0
    disk: int = 0  # bytes that may be on disk


def limits_of(memory: int, fractions: Mapping[str, Any]) -> Limits:
    """Return one worker's limits.

    :param memory: bytes that it may use; 0 is no limit, and then nothing is done.
    :param fractions: ``target``, ``spill``, ``pause``, ``terminate`` as parts of that, and ``max_spill`` in bytes;
        what is missing or None is off.
    """
    levels = {name: int(memory * (fractions.get(name) or 0)) for name in LEVELS}
    return Limits(memory, **levels, disk=int(fractions.get("max_spill") or 0))


def room_of(limits: Limits, process: int) -> int:
    """Return the bytes that are free for what tasks are given, if the process has so many now; 0: no limit."""
    return max(1, (limits.terminate or limits.memory) - process) if limits.memory else 0


class Shelf:
    """Results in one place: their sizes by key, and the sum of those."""

    __slots__ = ("sizes", "total")

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}  # the one that was put there last is last
        self.total = 0

    def put(self, key: str, size: int) -> None:
        """Add a result that is not there."""
        self.sizes[key] = size
        self.total += size

    def take(self, key: str) -> int | None:
        """Remove a result and return its size; None if it is not there."""
        size = self.sizes.pop(key, None)
        if size is not None:
            self.total -= size
        return size


class Ledger:
    """Which results are in memory, which are being written, and which are on disk, with their sizes."""

    __slots__ = (
        "_retry_at", "disk", "disk_trouble", "functions", "limits", "memory", "paused", "process", "wanted",
        "writing",
    )  # fmt: skip

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - a tuple
        self.limits = limits
        self.memory = Shelf()  # the one that was used last is last
        self.writing = Shelf()
        self.disk = Shelf()
        self.functions = 0  # bytes of functions
        self.process = 0  # bytes of the process when it was last measured
        self.wanted = 0  # bytes that are to be free below ``terminate``, for the next results
        self.paused = False
        self.disk_trouble = ""  # why nothing more can be written; empty if something can
        self._retry_at = 0.0

    def add(self, key: str, size: int) -> None:
        """A result has come into memory."""
        self.remove(key)
        self.memory.put(key, size)

    def use(self, key: str) -> None:
        """A result was used: it is the last now to be written."""
        size = self.memory.take(key)
        if size is not None:
            self.memory.put(key, size)

    def remove(self, key: str) -> None:
        """A result was freed."""
        for place in (self.memory, self.writing, self.disk):
            place.take(key)

    def written(self, key: str) -> None:
        """A result that was being written is on disk."""
        self.disk.put(key, self.writing.take(key) or 0)

    def not_written(self, key: str, why: str, now: float) -> None:
        """A result could not be written: it stays in memory."""
        self.memory.put(key, self.writing.take(key) or 0)
        self.disk_trouble = why
        self._retry_at = now + RETRY_SECONDS

    @property
    def managed(self) -> int:
        """Bytes of functions, and of results in memory that are not about to be written."""
        return self.memory.total + self.functions

    def choose(self, now: float) -> list[str]:
        """Return the results to be written now; they count as being written from here on."""
        excess = self._excess()
        if excess <= 0 or (self.disk_trouble and now < self._retry_at):
            return []
        self.disk_trouble = ""
        chosen: list[str] = []
        on_disk = self.disk.total + self.writing.total
        while excess > 0 and self.memory.sizes:
            key, size = next(iter(self.memory.sizes.items()))
            if self.limits.disk and on_disk + size > self.limits.disk:
                self.disk_trouble = f"max-spill allows {self.limits.disk / 1e6:.0f} MB on disk, and they are there"
                self._retry_at = now + RETRY_SECONDS
                break
            self.memory.take(key)
            self.writing.put(key, size)
            chosen.append(key)
            on_disk += size
            excess -= size
        return chosen

    def _excess(self) -> int:
        """Return how many bytes of results are to leave memory."""
        limits = self.limits
        by_size = self.managed - limits.target if limits.target else 0
        if limits.terminate and self.wanted:
            by_size = max(by_size, self.process + self.wanted - self.writing.total - limits.terminate)
        if not limits.spill or self.process <= limits.spill:
            return by_size
        return max(by_size, self.process - self.writing.total - (limits.target or limits.spill))

    def judge(self) -> bool:
        """Say whether the worker is to be paused now, and note it."""
        level = self.limits.pause
        if self.disk_trouble and self.limits.spill:
            level = min(level, self.limits.spill) if level else 0
        used = max(self.process, self.managed)
        if self.paused:
            self.paused = bool(level) and used > level * _BELOW
        else:
            self.paused = bool(level) and used > level
        return self.paused

    def check(self) -> None:
        """Assert that each result is in one place, and that the sums are right."""
        shelves = (self.memory, self.writing, self.disk)
        assert len(self.keys()) == sum(len(one.sizes) for one in shelves), "a result is in two places"
        assert all(one.total == sum(one.sizes.values()) for one in shelves)

    def keys(self) -> set[str]:
        """Return the keys of all results."""
        return {key for one in (self.memory, self.writing, self.disk) for key in one.sizes}
