"""Which news may still be of an earlier task of the same key, and are not for the future that is there now.

A key can be used again as soon as its task was cancelled or its future let go, and news of the old task may be
under way then. So the client puts up a fence: a number, sent before the new task is, which the head sends back
behind whatever it has said so far. Until it comes back, what comes of the key is of the past. Keys that a client
makes up itself are never used twice, and need no fence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class Fences:
    """The fences that stand. The caller guards it, and the making of futures of its keys, by one lock."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}  # and the number of the newest fence of each
        self._by_number: dict[int, list[str]] = {}  # in the order in which they were put up

    def put_up(self, number: int, keys: Iterable[str]) -> None:
        """Keep news of these keys out; numbers grow."""
        some = self._by_number[number] = list(keys)
        self.keys.update(dict.fromkeys(some, number))

    def take_down(self, number: int) -> None:
        """A fence came back, and with it all before it."""
        for one in list(self._by_number):
            if one > number:
                return
            for key in self._by_number.pop(one):
                if self.keys.get(key) == one:
                    del self.keys[key]

    def stands(self, number: int) -> bool:
        """Say whether a fence has not come back."""
        return number in self._by_number

    def sift(self, news: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Give those news that are of the tasks of now."""
        return (one for one in news if one[0] not in self.keys)
