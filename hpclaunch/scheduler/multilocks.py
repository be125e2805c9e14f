"""Several locks that are taken at once: all that are asked for, or so many of them as are enough.

Pure. No client holds a part of what it waits for, so those that wait never wait for each other. They are served
in the order in which they came: a name that a client waits for is left to it by all that came later, so that one
that asks for many comes to its turn too. The names are their own: a ``Lock`` of the same name is another thing.
"""

from __future__ import annotations

from collections.abc import Iterable

Ticket = tuple[str, int]  # client, and its number


class MultiLocks:
    """All of them: who holds which names, and who waits for which."""

    def __init__(self) -> None:
        self.held: dict[Ticket, tuple[str, ...]] = {}
        self.waiting: dict[Ticket, tuple[tuple[str, ...], int]] = {}  # names, and how many of them are enough
        self._taken: set[str] = set()

    def acquire(self, one: Ticket, names: Iterable[str], count: int) -> None:
        """A client wants ``count`` of these names."""
        some = tuple(dict.fromkeys(names))
        self.waiting[one] = some, max(1, min(count, len(some)))

    def release(self, one: Ticket) -> bool:
        """A client gives back what it has, or waits no longer; False if there is no such thing."""
        names = self.held.pop(one, None)
        self._taken.difference_update(names or ())
        return self.waiting.pop(one, None) is not None or names is not None

    def on_client_left(self, client: str) -> None:
        """A client is gone, and with it what it held and waited for."""
        for one in [one for one in (*self.held, *self.waiting) if one[0] == client]:
            self.release(one)

    def serve(self) -> list[Ticket]:
        """Let those go on who can; return them."""
        served: list[Ticket] = []
        spoken_for = set(self._taken)
        for one, (names, count) in list(self.waiting.items()):
            free = [name for name in names if name not in spoken_for][:count]
            if len(free) < count:
                spoken_for.update(names)
                continue
            spoken_for.update(free)
            self._taken.update(free)
            self.held[one] = tuple(free)
            del self.waiting[one]
            served.append(one)
        return served

    def check(self) -> None:
        """Assert every rule of this state, after :meth:`serve`; for tests."""
        names = [name for held in self.held.values() for name in held]
        assert len(names) == len(set(names)), "a lock has two holders"
        assert set(names) == self._taken
        assert not self.held.keys() & self.waiting.keys()
        first = next(iter(self.waiting.values()), None)
        if first is not None:
            assert len(self._taken.intersection(first[0])) > len(first[0]) - first[1], "nothing stands in its way"
