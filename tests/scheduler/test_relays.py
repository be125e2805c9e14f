"""Results that go through the head: each is answered once, and a slow asker does not fill the head's memory."""

from __future__ import annotations

from typing import Any

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.relays import AT_ONCE, MOST_BYTES, Relays


class FakeComm:
    def __init__(self) -> None:
        self.sent: list[m.Message] = []
        self.backlog_bytes = 0
        self.is_closed = False

    def send(self, message: m.Message) -> None:
        self.sent.append(message)

    def send_buffers(self, message: m.Message, buffers: Any) -> None:
        self.sent.append(message)
        self.backlog_bytes += sum(len(one) for one in buffers)


class FakePeer:
    def __init__(self) -> None:
        self.comm = FakeComm()
        self.relays: dict[int, Any] = {}

    def asked(self) -> list[m.Fetch]:
        """Return the questions that it got, and has not answered."""
        return [one for one in self.comm.sent if isinstance(one, m.Fetch) and one.request in self.relays]


@pytest.fixture
def asker() -> Any:
    return FakePeer()


@pytest.fixture
def holder() -> Any:
    return FakePeer()


@pytest.fixture
def relays(holder: Any) -> Relays:
    return Relays({"h": holder}.get)


def ask(relays: Relays, asker: Any, count: int, via: str = "h") -> None:
    for i in range(count):
        relays.fetch(asker, m.Fetch(i, [f"k{i}"], via))


def answer(relays: Relays, holder: Any, size: int) -> None:
    question = holder.asked()[0]
    relays.answer(holder, m.Data(question.request, question.keys[0], 1), [bytes(size)])


def test_all_are_answered_a_few_at_a_time(relays: Relays, asker: Any, holder: Any) -> None:
    ask(relays, asker, 50)
    for _ in range(50):
        assert len(holder.asked()) <= AT_ONCE
        answer(relays, holder, 10)
    assert [(one.request, one.key) for one in asker.comm.sent] == [(i, f"k{i}") for i in range(50)]
    assert not relays._waiting
    assert not relays._under_way


def test_who_does_not_take_what_it_asked_for_gets_no_more_until_it_does(
    relays: Relays, asker: Any, holder: Any
) -> None:
    ask(relays, asker, 50)
    while holder.asked():
        answer(relays, holder, MOST_BYTES)
    assert len(asker.comm.sent) == AT_ONCE
    relays.on_tick()
    assert not holder.asked()
    asker.comm.backlog_bytes = 0
    relays.on_tick()
    assert len(holder.asked()) == AT_ONCE


def test_another_asker_goes_on(relays: Relays, asker: Any, holder: Any) -> None:
    asker.comm.backlog_bytes = MOST_BYTES
    other: Any = FakePeer()
    ask(relays, asker, 5)
    ask(relays, other, 1)
    answer(relays, holder, 10)
    assert len(other.comm.sent) == 1


def test_a_holder_that_is_lost_has_answered_everything(relays: Relays, asker: Any, holder: Any) -> None:
    relays = Relays(lambda address: holder if not holder.comm.is_closed else None)
    ask(relays, asker, 10)
    holder.comm.is_closed = True
    relays.lose(holder)
    relays.on_tick()
    assert sorted((one.request, one.buffers) for one in asker.comm.sent) == [(i, -1) for i in range(10)]
    assert not relays._under_way


def test_nobody_there_is_an_answer_too(relays: Relays, asker: Any) -> None:
    ask(relays, asker, 10, via="elsewhere")
    assert [one.buffers for one in asker.comm.sent] == [-1] * 10


def test_an_asker_that_is_gone_is_forgotten(relays: Relays, asker: Any, holder: Any) -> None:
    ask(relays, asker, 10)
    asker.comm.is_closed = True
    for _ in range(AT_ONCE):
        answer(relays, holder, 10)
    relays.on_tick()
    assert not relays._waiting
    assert not relays._under_way
    assert not asker.comm.sent
