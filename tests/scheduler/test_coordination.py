"""Named things: whatever client comes, waits or dies, each request is answered once and nothing is left."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from hpclaunch.scheduler.coordination import Answer, HandOver, Keep, NamedPrimitives, Release

CLIENTS = ["a", "b", "c"]
KEYS = ["k1", "k2", "k3"]
names = st.sampled_from(["one", "two"])
who = st.sampled_from(CLIENTS)
keys = st.lists(st.sampled_from(KEYS), max_size=2)


class NamedMachine(RuleBasedStateMachine):
    """A plain model of queues, locks and events beside the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.named = NamedPrimitives()
        self.ticket = 0
        self.open: set[tuple[str, int]] = set()
        self.answers: dict[tuple[str, int], Any] = {}
        self.leases: dict[str, list[tuple[str, int]]] = {}  # name -> held
        self.kept: set[str] = set()
        self.queued: dict[str, deque[bytes]] = {}

    def ask(self, client: str, kind: str, do: str, name: str, **how: Any) -> tuple[str, int]:
        self.ticket += 1
        one = client, self.ticket
        self.open.add(one)
        self.named.on_asked(client, self.ticket, kind, do, name, **how)
        self.settle()
        return one

    def settle(self) -> None:
        self.named.check()
        for command in self.named.take_commands():
            if isinstance(command, Answer):
                one = command.client, command.ticket
                assert one in self.open, "answered twice, or a client that has gone"
                self.open.discard(one)
                self.answers[one] = command.value
            elif isinstance(command, Keep):
                assert not self.kept & set(command.keys)
                self.kept |= set(command.keys)
            elif isinstance(command, Release):
                assert set(command.keys) <= self.kept
                self.kept -= set(command.keys)
            else:
                assert isinstance(command, HandOver)
                assert set(command.keys) <= self.kept, "an heir of what is gone"
        assert self.kept == set(self.named.kept)

    @rule(who=who, name=names, limit=st.integers(1, 2))
    def acquire(self, who: str, name: str, limit: int) -> None:
        primitive = self.named.primitives.get(("permit", name))
        agreed = {primitive.limit} if primitive is not None else set()
        one = self.ask(who, "permit", "acquire", name, limit=limit)
        was_refused = self.answers.get(one, [True])[0] == "refused"
        assert was_refused or agreed <= {limit}, "two numbers of permits at once"

    @rule(who=who, name=names)
    def close_permits(self, who: str, name: str) -> None:
        one = self.ask(who, "permit", "close", name)
        assert self.answers[one] == [True, None]
        assert name not in self.named.limits

    @rule(who=who, some=st.lists(st.sampled_from("wxyz"), min_size=1, max_size=4, unique=True), data=st.data())
    def take_locks(self, who: str, some: list[str], data: st.DataObject) -> None:
        self.ask(who, "locks", "acquire", "", names=some, count=data.draw(st.integers(1, len(some))))

    @rule(which=st.integers(0, 9))
    def give_locks_back(self, which: int) -> None:
        held = list(self.named.locks.held)
        if held:
            client, lease = held[which % len(held)]
            one = self.ask(client, "locks", "release", "", lease=lease)
            assert self.answers[one] == [True, True]
            again = self.ask(client, "locks", "release", "", lease=lease)
            assert self.answers[again] == [True, False]

    @rule()
    def let_all_have_their_locks(self) -> None:
        """Who waits for several locks comes to his turn, if only those who have some give them back."""
        for _ in range(len(self.named.locks.waiting) + 1):
            for client, lease in list(self.named.locks.held):
                self.ask(client, "locks", "release", "", lease=lease)
        assert not self.named.locks.waiting

    @rule(name=names, which=st.integers(0, 9))
    def release(self, name: str, which: int) -> None:
        primitive = self.named.primitives.get(("permit", name))
        if primitive is not None and primitive.holders:
            holder = list(primitive.holders)[which % len(primitive.holders)]
            one = self.ask(holder[0], "permit", "release", name, lease=holder[1])
            assert self.answers[one] == [True, True]
            again = self.ask(holder[0], "permit", "release", name, lease=holder[1])
            assert self.answers[again] == [True, False]

    @rule(who=who, name=names, do=st.sampled_from(["set", "clear", "is_set", "wait"]))
    def event(self, who: str, name: str, do: str) -> None:
        self.ask(who, "event", do, name)

    @rule(who=who, name=names, keys=keys, maxsize=st.integers(0, 2))
    def put(self, who: str, name: str, keys: list[str], maxsize: int) -> None:
        self.ask(who, "queue", "put", name, data=b"v%d" % self.ticket, keys=keys, maxsize=maxsize)

    @rule(who=who, name=names, opens=st.booleans())
    def close_queue(self, who: str, name: str, opens: bool) -> None:
        one = self.ask(who, "queue", "close", name, opens=opens)
        assert self.answers[one] == [True, None]

    @rule(who=who, name=names, batch=st.sampled_from([0, -1, 2]))
    def get(self, who: str, name: str, batch: int) -> None:
        self.ask(who, "queue", "get", name, batch=batch)

    @rule(who=who, name=names, keys=keys)
    def assign(self, who: str, name: str, keys: list[str]) -> None:
        self.ask(who, "variable", "put", name, data=b"v", keys=keys)

    @rule(who=who, name=names, do=st.sampled_from(["get", "delete"]))
    def variable(self, who: str, name: str, do: str) -> None:
        self.ask(who, "variable", do, name)

    @rule(who=who, name=names, keys=keys, override=st.booleans())
    def publish(self, who: str, name: str, keys: list[str], override: bool) -> None:
        one = self.ask(who, "dataset", "put", name, data=b"v", keys=keys, override=override)
        assert self.answers[one][0] in (True, "missing")

    @rule(who=who, name=names, do=st.sampled_from(["get", "delete", "list"]))
    def dataset(self, who: str, name: str, do: str) -> None:
        one = self.ask(who, "dataset", do, name)
        assert one in self.answers

    @rule(which=st.integers(0, 99))
    def give_up(self, which: int) -> None:
        if self.open:
            one = sorted(self.open)[which % len(self.open)]
            self.named.on_withdrawn(*one)
            self.settle()
            assert self.answers[one] == [False]
            self.named.on_withdrawn(*one)  # late: it has its answer
            self.settle()

    @rule(who=who)
    def leave(self, who: str) -> None:
        self.open = {one for one in self.open if one[0] != who}
        self.named.on_client_left(who)
        self.settle()
        assert not any(h[0] == who for t in self.named.primitives.values() for h in [*t.holders, *t.waiting])
        assert not any(h[0] == who for h in [*self.named.locks.held, *self.named.locks.waiting])

    def teardown(self) -> None:
        for client in CLIENTS:
            self.leave(client)
        for kind, name in list(self.named.primitives):
            if kind == "event":
                self.ask("z", kind, "clear", name)
            elif kind == "queue":
                self.ask("z", kind, "get", name, batch=-1)
            else:
                self.ask("z", kind, "delete", name)
        assert not self.named.primitives
        assert not self.named.limits
        assert not self.named.locks.held
        self.leave("z")
        assert not self.named.users
        assert not self.kept
        assert not self.open


TestNamed = NamedMachine.TestCase
TestNamed.settings = settings(stateful_step_count=50, deadline=None)


def answers(named: NamedPrimitives) -> dict[tuple[str, int], Any]:
    return {(c.client, c.ticket): c.value for c in named.take_commands() if isinstance(c, Answer)}


def test_those_who_wait_are_served_in_their_order() -> None:
    named = NamedPrimitives()
    for ticket in range(4):
        named.on_asked("a", ticket, "permit", "acquire", "lock", limit=1)
    assert answers(named) == {("a", 0): [True, 0]}
    for ticket in range(3):
        named.on_asked("a", 10 + ticket, "permit", "release", "lock", lease=ticket)
        assert answers(named)["a", ticket + 1] == [True, ticket + 1]


def test_a_full_queue_goes_on_when_there_is_room() -> None:
    named = NamedPrimitives()
    for ticket in range(3):
        named.on_asked("a", ticket, "queue", "put", "q", data=b"%d" % ticket, keys=[], maxsize=1)
    assert answers(named) == {("a", 0): [True, None]}
    for ticket in range(3):
        named.on_asked("b", ticket, "queue", "get", "q", batch=0)
    got = [value[1][0].data for (client, _), value in sorted(answers(named).items()) if client == "b"]
    assert got == [b"0", b"1", b"2"]
    assert not named.primitives


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="no client can explode a queue"):
        NamedPrimitives().on_asked("a", 1, "queue", "explode", "q")


def test_who_asks_for_many_locks_is_not_overtaken_by_those_who_ask_for_one() -> None:
    named = NamedPrimitives()

    def take(ticket: int, *names: str, count: int | None = None) -> None:
        named.on_asked("a", ticket, "locks", "acquire", "", names=list(names), count=count or len(names))

    take(0, "x")
    take(1, "x", "y")  # has to wait for x, and has y left to it
    take(2, "y")
    take(3, "x", "y", "z", count=1)  # z will do
    assert answers(named) == {("a", 0): [True, 0], ("a", 3): [True, 3]}
    assert named.locks.held["a", 3] == ("z",)
    named.on_asked("a", 4, "locks", "release", "", lease=0)
    assert answers(named) == {("a", 4): [True, True], ("a", 1): [True, 1]}
    named.on_client_left("a")
    assert not named.locks.held
    assert not named.locks.waiting


def test_one_that_gives_up_makes_room_for_those_behind_it() -> None:
    named = NamedPrimitives()
    for ticket, names in enumerate([["x"], ["x", "y"], ["y"]]):
        named.on_asked("a", ticket, "locks", "acquire", "", names=names, count=len(names))
    named.on_withdrawn("a", 1)
    assert answers(named) == {("a", 0): [True, 0], ("a", 1): [False], ("a", 2): [True, 2]}


def test_a_number_of_permits_is_agreed_on_while_somebody_is_there() -> None:
    named = NamedPrimitives()
    named.on_asked("a", 1, "permit", "acquire", "s", limit=3)
    named.on_asked("a", 2, "permit", "release", "s", lease=1)
    named.on_asked("b", 3, "permit", "acquire", "s", limit=2)
    assert answers(named)["b", 3][0] == "refused"
    named.on_client_left("a")
    named.on_asked("b", 4, "permit", "acquire", "s", limit=2)
    assert answers(named) == {("b", 4): [True, 4]}
    named.on_asked("a", 5, "permit", "acquire", "s", limit=1)
    assert answers(named)["a", 5][0] == "refused"
    named.on_asked("a", 6, "permit", "close", "s")
    named.on_asked("a", 7, "permit", "acquire", "s", limit=1)
    named.on_asked("b", 8, "permit", "release", "s", lease=4)
    assert answers(named) == {("a", 6): [True, None], ("a", 7): [True, 7], ("b", 8): [True, False]}


def test_values_of_a_queue_go_with_the_last_that_closes_it() -> None:
    named = NamedPrimitives()

    def ask(client: str, ticket: int, do: str, **how: Any) -> None:
        named.on_asked(client, ticket, "queue", do, "q", **how)

    ask("a", 1, "size", opens=True)  # the queue is empty, and its user is known
    ask("b", 2, "put", data=b"v", keys=["k"], maxsize=0, opens=True)
    ask("b", 3, "close")
    assert named.kept == {"k": 1}
    ask("a", 4, "close")
    assert not named.kept
    assert not named.primitives
    assert not named.users
    ask("a", 5, "put", data=b"v", keys=["k"], maxsize=0, opens=True)
    named.on_client_left("a")
    ask("b", 6, "close", opens=True)  # who has put it in has not said that it is not needed
    assert named.kept == {"k": 1}
    ask("b", 7, "get", batch=0)
    assert not named.users
