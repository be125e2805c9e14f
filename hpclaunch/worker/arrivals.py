"""Which tasks a worker receives arguments or inputs for at this moment, where its supervisor sees it.

Behind the executor's slots, in the same shared memory, are :data:`PLACES` more: each has the key of one such task.
A process that ends while it receives too much so leaves a note of the task that asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from hpclaunch.worker.executor import SLOT_BYTES, read_slots

#: Tasks of which is noted that they receive something; of more it is not.
PLACES = 16
_LENGTH_BYTES = 2


def shared_bytes(threads: int) -> int:
    """Return how much shared memory a worker has: slots, arrivals, whether it has joined, and how it ended."""
    return (threads + PLACES) * SLOT_BYTES + 2


class Arrivals:
    """Notes tasks.

    :param slots: the shared memory.
    :param threads: for so many there are slots in front of the arrivals.
    """

    def __init__(self, slots: Any, threads: int) -> None:
        self._slots = slots
        self._start = threads * SLOT_BYTES
        self._shown: list[str] = []

    def show(self, keys: Iterable[str]) -> None:
        """Note these tasks, the first of them, instead of those before."""
        now = list(islice(dict.fromkeys(keys), PLACES))
        for place in range(max(len(now), len(self._shown))):
            key = now[place] if place < len(now) else ""
            if place >= len(self._shown) or self._shown[place] != key:
                self._write(self._start + place * SLOT_BYTES, key)
        self._shown = now

    def _write(self, at: int, key: str) -> None:
        name = key.encode()[: SLOT_BYTES - _LENGTH_BYTES]
        self._slots[at : at + _LENGTH_BYTES] = bytes(_LENGTH_BYTES)  # never a length with another key behind it
        self._slots[at + _LENGTH_BYTES : at + _LENGTH_BYTES + len(name)] = name
        self._slots[at : at + _LENGTH_BYTES] = len(name).to_bytes(_LENGTH_BYTES, "little")


def read_arrivals(slots: bytes, threads: int) -> list[str]:
    """Return the keys of the tasks for which a dead process received something."""
    return read_slots(slots[threads * SLOT_BYTES :], PLACES)


def has_run_tasks(slots: bytes, threads: int) -> bool:
    """Say whether a process has begun a task in its life: the name of the last one stays in its slot."""
    return any(
        any(slots[at + _LENGTH_BYTES : at + SLOT_BYTES]) for at in range(0, threads * SLOT_BYTES, SLOT_BYTES)
    )
