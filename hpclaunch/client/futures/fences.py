"""Which updates may still be of an earlier task of the same key, and are not for the future that is there now.

A key can be used again as soon as its task was cancelled or its future released, and updates of the old task may
be under way then. So the client sends a fence, as in the ordering of memory accesses: a number, sent before the
new task is, which the head sends back behind all that it has sent so far. Until it comes back, updates of the key
are stale. Keys that a client makes up itself are never used twice, and need no fence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class Fences:
    """The fences that have not come back. The caller guards it and the making of futures by one lock."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}  # and the number of the newest fence of each
        self._by_number: dict[int, list[str]] = {}  # in the order in which they were sent

    def add(self, number: int, keys: Iterable[str]) -> None:
        """Updates of these keys are stale until the fence comes back; numbers grow."""
        some = self._by_number[number] = list(keys)
        self.keys.update(dict.fromkeys(some, number))

    def on_returned(self, number: int) -> None:
        """A fence came back, and with it all before it."""
        for one in list(self._by_number):
            if one > number:
                return
            for key in self._by_number.pop(one):
                if self.keys.get(key) == one:
                    del self.keys[key]

    def is_out(self, number: int) -> bool:
        """Say whether a fence has not come back."""
        return number in self._by_number

    def not_stale(self, updates: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Give those updates, each of which begins with a key, that are not stale."""
        return (one for one in updates if one[0] not in self.keys)
