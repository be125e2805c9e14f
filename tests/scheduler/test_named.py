"""Named things: whoever comes, waits, gives up or dies, each question is answered once and nothing is left."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from hpclaunch.scheduler.named import Answer, HandOver, Keep, LetGo, NamedThings

CLIENTS = ["a", "b", "c"]
KEYS = ["k1", "k2", "k3"]
names = st.sampled_from(["one", "two"])
who = st.sampled_from(CLIENTS)
keys = st.lists(st.sampled_from(KEYS), max_size=2)


class NamedMachine(RuleBasedStateMachine):
    """A plain model of queues, locks and events beside the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.named = NamedThings()
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
                assert one in self.open, "answered twice, or somebody who has gone"
                self.open.discard(one)
                self.answers[one] = command.value
            elif isinstance(command, Keep):
                assert not self.kept & set(command.keys)
                self.kept |= set(command.keys)
            elif isinstance(command, LetGo):
                assert set(command.keys) <= self.kept
                self.kept -= set(command.keys)
            else:
                assert isinstance(command, HandOver)
                assert set(command.keys) <= self.kept, "an heir of what is gone"
        assert self.kept == set(self.named.kept)

    @rule(who=who, name=names, limit=st.integers(1, 2))
    def acquire(self, who: str, name: str, limit: int) -> None:
        self.ask(who, "permit", "acquire", name, limit=limit)

    @rule(name=names, which=st.integers(0, 9))
    def release(self, name: str, which: int) -> None:
        thing = self.named.things.get(("permit", name))
        if thing is not None and thing.holders:
            holder = list(thing.holders)[which % len(thing.holders)]
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
        assert self.answers[one][0] in (True, "error")

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
        assert not any(h[0] == who for t in self.named.things.values() for h in [*t.holders, *t.waiting])

    def teardown(self) -> None:
        for client in CLIENTS:
            self.leave(client)
        for kind, name in list(self.named.things):
            if kind == "event":
                self.ask("z", kind, "clear", name)
            elif kind == "queue":
                self.ask("z", kind, "get", name, batch=-1)
            else:
                self.ask("z", kind, "delete", name)
        assert not self.named.things
        assert not self.kept
        assert not self.open


TestNamed = NamedMachine.TestCase
TestNamed.settings = settings(stateful_step_count=50, deadline=None)


def answers(named: NamedThings) -> dict[tuple[str, int], Any]:
    return {(c.client, c.ticket): c.value for c in named.take_commands() if isinstance(c, Answer)}


def test_those_who_wait_are_served_in_their_order() -> None:
    named = NamedThings()
    for ticket in range(4):
        named.on_asked("a", ticket, "permit", "acquire", "lock", limit=1)
    assert answers(named) == {("a", 0): [True, 0]}
    for ticket in range(3):
        named.on_asked("a", 10 + ticket, "permit", "release", "lock", lease=ticket)
        assert answers(named)["a", ticket + 1] == [True, ticket + 1]


def test_a_full_queue_goes_on_when_there_is_room() -> None:
    named = NamedThings()
    for ticket in range(3):
        named.on_asked("a", ticket, "queue", "put", "q", data=b"%d" % ticket, keys=[], maxsize=1)
    assert answers(named) == {("a", 0): [True, None]}
    for ticket in range(3):
        named.on_asked("b", ticket, "queue", "get", "q", batch=0)
    got = [value[1][0].data for (client, _), value in sorted(answers(named).items()) if client == "b"]
    assert got == [b"0", b"1", b"2"]
    assert not named.things


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="nobody can explode a queue"):
        NamedThings().on_asked("a", 1, "queue", "explode", "q")
