"""Which tasks are kept because a value names them; :mod:`hpclaunch.scheduler.references` has the rules. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hpclaunch.scheduler.state import Task


class ReferenceCounts:
    """Which tasks the head keeps for references in values, and why."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()  # keys, by how many references there are
        self.given: dict[
            tuple[str, int], list[str]
        ] = {}  # client and ticket -> keys in the value that it was given
        self.named: dict[str, dict[str, None]] = {}  # a task -> keys in its result
        self.namers: dict[str, dict[str, None]] = {}  # a key -> tasks whose results name it
        self.suspects: set[str] = set()  # tasks that have lost a keeper: what is left may be a cycle
        self.next_look = 0.0  # when to look for cycles
        self.dropped: list[str] = []  # references that are to be released

    def on_forgotten(self, keys: Iterable[str]) -> None:
        """These tasks are not known any more, or others have their keys: their references go with the tick."""
        for key in keys:
            for one in self.named.pop(key, ()):
                self.dropped.append(one)
                namers = self.namers[one]
                del namers[key]
                if not namers:
                    del self.namers[one]

    def on_released(self, tasks: Iterable[Task]) -> None:
        """These tasks have lost a keeper."""
        if self.named:
            self.suspects.update(task.key for task in tasks)

    def take_dropped(self) -> list[str]:
        """Return keys that lose a reference each."""
        dropped, self.dropped = self.dropped, []
        return dropped

    def check(self) -> None:
        """Assert that every reference has its reason; for tests."""
        reasons = Counter(key for keys in (*self.given.values(), *self.named.values()) for key in keys)
        reasons.update(self.dropped)
        assert all(self.kept[key] >= count for key, count in reasons.items()), (self.kept, reasons)
        pairs = {(key, one) for key, ones in self.named.items() for one in ones}
        assert pairs == {(key, one) for one, keys in self.namers.items() for key in keys}
