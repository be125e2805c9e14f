"""References that are in nobody's hands for a while: the head keeps what they name meanwhile.

Pure. Tasks that are named are kept

* by values that are kept by name (queues, variables, datasets), for as long as these are there;
* by a value that was given out, until the client that asked for it has made futures of what it names and says so,
  or is gone. What it says of earlier futures of the same keys, which it may let go meanwhile, changes nothing;
* by a task's result that has futures in it, for as long as that task is known. Results that name each other in a
  ring would keep themselves so: :mod:`hpclaunch.scheduler.reference_cycles` finds those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import client_events

if TYPE_CHECKING:
    from hpclaunch.scheduler.reactor import Reactor
    from hpclaunch.scheduler.state import Task

#: The client, in the scheduler's eyes, that wants all of this.
CLAIMANT = "(named)"


class Claims:
    """Whose tasks the head wants itself, and why."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()  # keys, by how many claims there are
        self.given: dict[tuple[str, int], list[str]] = {}  # client and ticket -> keys in what it was given
        self.named: dict[str, dict[str, None]] = {}  # a task -> keys in its result
        self.namers: dict[str, dict[str, None]] = {}  # a key -> tasks whose results name it
        self.suspects: set[str] = set()  # tasks that something less keeps: what is left may be a ring
        self.next_look = 0.0  # when to look for rings
        self._loose: list[str] = []  # claims that are to end

    def on_forgotten(self, keys: Iterable[str]) -> None:
        """These tasks are not known any more, or others have their keys: what they name goes with the round."""
        for key in keys:
            for one in self.named.pop(key, ()):
                self._loose.append(one)
                namers = self.namers[one]
                del namers[key]
                if not namers:
                    del self.namers[one]

    def on_released(self, tasks: Iterable[Task]) -> None:
        """Something keeps these tasks no longer."""
        if self.named:
            self.suspects.update(task.key for task in tasks)

    def take_loose(self) -> list[str]:
        """Return keys that lose a claim each."""
        loose, self._loose = self._loose, []
        return loose

    def check(self) -> None:
        """Assert that every claim has its reason; for tests."""
        reasons = Counter(key for keys in (*self.given.values(), *self.named.values()) for key in keys)
        reasons.update(self._loose)
        assert all(self.kept[key] >= count for key, count in reasons.items()), (self.kept, reasons)
        pairs = {(key, one) for key, ones in self.named.items() for one in ones}
        assert pairs == {(key, one) for one, keys in self.namers.items() for key in keys}


def keep(reactor: Reactor, keys: Iterable[str]) -> None:
    """Claim these tasks once more each."""
    some = list(keys)
    if not some:
        return
    if CLAIMANT not in reactor.state.clients:
        reactor.on_client_joined(CLAIMANT)
    reactor.claims.kept.update(some)
    wants, tasks = reactor.state.clients[CLAIMANT].wants, reactor.state.tasks
    client_events.on_keys_wanted(
        reactor, CLAIMANT, [key for key in dict.fromkeys(some) if key not in wants and key in tasks]
    )


def let_go(reactor: Reactor, keys: Sequence[str]) -> None:
    """End one claim each of these tasks."""
    if not keys:
        return
    kept = reactor.claims.kept
    kept.subtract(keys)
    gone = [key for key in dict.fromkeys(keys) if kept[key] <= 0]
    for key in gone:
        del kept[key]
    if reactor.claims.named:
        reactor.claims.suspects.update(keys)
    reactor.on_keys_released(CLAIMANT, gone)
    if not kept:
        reactor.on_client_left(CLAIMANT)


def settle(reactor: Reactor) -> None:
    """End the claims of results that are not known any more, and of those that only they named."""
    while loose := reactor.claims.take_loose():
        let_go(reactor, loose)


def on_given(reactor: Reactor, client: str, ticket: int, keys: Sequence[str]) -> None:
    """A client is about to be given a value that names these tasks."""
    if keys and client in reactor.state.clients:
        reactor.claims.given.setdefault((client, ticket), []).extend(keys)
        keep(reactor, keys)


def on_taken(reactor: Reactor, client: str, ticket: int) -> None:
    """A client has made futures of what it was given."""
    let_go(reactor, reactor.claims.given.pop((client, ticket), []))


def on_client_left(reactor: Reactor, client: str) -> None:
    """A client is gone: it will not make any."""
    for one in [one for one in reactor.claims.given if one[0] == client]:
        on_taken(reactor, *one)


def on_result_names(reactor: Reactor, message: m.ResultNames) -> None:
    """The result of a task, which runs or has just ended, has these futures in it."""
    if message.key in reactor.state.tasks:
        named = reactor.claims.named.setdefault(message.key, {})
        new = [key for key in dict.fromkeys(message.keys) if key not in named and key != message.key]
        named.update(dict.fromkeys(new))
        for key in new:
            reactor.claims.namers.setdefault(key, {})[message.key] = None
        keep(reactor, new)
