"""Results that go through the head: each is answered once, and a slow asker does not fill the head's memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.peers import Peer
from hpclaunch.scheduler.relays import LEAST_BYTES, MOST_BYTES, MOST_BYTES_IN_ALL, Relays


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


class FakePeer(Peer):
    def __init__(self) -> None:
        super().__init__(FakeComm(), m.Hello(m.PROTOCOL_VERSION, "client", "c", "cluster"), 0.0)

    def asked(self) -> list[m.Fetch]:
        """Return the questions that it got, and has not answered."""
        return [one for one in self.comm.sent if isinstance(one, m.Fetch) and one.request in self.relays]


@pytest.fixture
def asker() -> Any:
    return FakePeer()


@pytest.fixture
def holder() -> Any:
    return FakePeer()


#: Of how many results that count the least there is room for.
AT_ONCE = MOST_BYTES // LEAST_BYTES
#: How large results are, where a test says nothing.
SMALL = 10


@pytest.fixture
def sizes() -> dict[str, int]:
    return {}


@pytest.fixture
def relays(holder: Any, sizes: dict[str, int]) -> Relays:
    return Relays({"h": holder}.get, lambda key: sizes.get(key, SMALL))


def ask(relays: Relays, asker: Any, count: int, via: str = "h") -> None:
    for i in range(count):
        relays.fetch(asker, m.Fetch(i, [f"k{i}"], via))


def answer(relays: Relays, holder: Any, size: int = SMALL) -> None:
    question = holder.asked()[0]
    relays.answer(holder, m.Data(question.request, question.keys[0], 1), [bytes(size)])


def asked(holder: Any) -> list[str]:
    return [key for question in holder.asked() for key in question.keys]


def is_settled(relays: Relays) -> bool:
    return not (relays._waiting or relays._under_way or relays._in_all)


def test_all_are_answered_some_at_a_time(relays: Relays, asker: Any, holder: Any) -> None:
    count = 2 * AT_ONCE
    ask(relays, asker, count)
    assert len(holder.asked()) == AT_ONCE
    for _ in range(count):
        assert len(holder.asked()) <= AT_ONCE
        answer(relays, holder)
        asker.comm.backlog_bytes = 0
    assert [(one.request, one.key) for one in asker.comm.sent] == [(i, f"k{i}") for i in range(count)]
    assert is_settled(relays)


def test_large_results_come_by_their_bytes(relays: Relays, asker: Any, holder: Any, sizes: dict[str, int]) -> None:
    third = MOST_BYTES // 3
    sizes.update({f"k{i}": third for i in range(10)})
    ask(relays, asker, 10)
    assert asked(holder) == ["k0", "k1", "k2"]
    answer(relays, holder, third)  # it waits here until the asker takes it
    assert asked(holder) == ["k1", "k2"]
    asker.comm.backlog_bytes = 0
    relays.on_timer()
    assert asked(holder) == ["k1", "k2", "k3"]


def test_what_is_larger_than_all_that_may_wait_comes_alone(
    relays: Relays, asker: Any, holder: Any, sizes: dict[str, int]
) -> None:
    sizes.update({f"k{i}": 2 * MOST_BYTES_IN_ALL for i in range(3)})
    ask(relays, asker, 3)
    other: Any = FakePeer()
    ask(relays, other, 3)
    for key in ("k0", "k0", "k1", "k1", "k2", "k2"):  # in turns
        assert asked(holder) == [key]
        answer(relays, holder)
        for peer in (asker, other):
            peer.comm.backlog_bytes = 0
        relays.on_timer()
    assert len(asker.comm.sent) == len(other.comm.sent) == 3
    assert is_settled(relays)


def test_small_results_do_not_overtake_a_large_one_for_ever(
    relays: Relays, holder: Any, sizes: dict[str, int]
) -> None:
    sizes.update({f"k{i}": MOST_BYTES for i in range(50)})
    many: list[Any] = [FakePeer() for _ in range(12)]
    for one in many:
        ask(relays, one, 50)
    sizes["large"] = 2 * MOST_BYTES_IN_ALL
    patient: Any = FakePeer()
    relays.fetch(patient, m.Fetch(1, ["large"], "h"))
    assert len(holder.asked()) == MOST_BYTES_IN_ALL // MOST_BYTES
    for _ in range(50):
        answer(relays, holder)
        assert relays._in_all <= MOST_BYTES_IN_ALL or asked(holder) == ["large"]
        if patient.comm.sent:
            break
    assert patient.comm.sent


def test_who_does_not_take_what_it_asked_for_gets_no_more_until_it_does(
    relays: Relays, asker: Any, holder: Any
) -> None:
    ask(relays, asker, 2 * AT_ONCE)
    while holder.asked():
        answer(relays, holder, LEAST_BYTES)
    assert asker.comm.backlog_bytes == MOST_BYTES
    relays.on_timer()
    assert not holder.asked()
    asker.comm.backlog_bytes = 0
    relays.on_timer()
    assert len(holder.asked()) == AT_ONCE


def test_another_asker_goes_on(relays: Relays, asker: Any, holder: Any) -> None:
    asker.comm.backlog_bytes = MOST_BYTES
    other: Any = FakePeer()
    ask(relays, asker, 5)
    ask(relays, other, 1)
    answer(relays, holder)
    assert len(other.comm.sent) == 1


def test_a_holder_that_is_lost_has_answered_everything(asker: Any, holder: Any) -> None:
    relays = Relays(lambda address: holder if not holder.comm.is_closed else None, lambda key: MOST_BYTES)
    ask(relays, asker, 10)
    relays.call(asker, m.ActorCall(10, "actor", "add", None, "h"))
    holder.comm.is_closed = True
    relays.lose(holder)
    relays.on_timer()
    answers = {one.request: one for one in asker.comm.sent}
    assert sorted(answers) == list(range(11))
    assert all(answers[i].buffers == -1 for i in range(10))
    assert answers[10].is_lost
    assert is_settled(relays)


def test_nobody_there_is_an_answer_too(relays: Relays, asker: Any) -> None:
    ask(relays, asker, 10, via="elsewhere")
    assert [one.buffers for one in asker.comm.sent] == [-1] * 10
    assert is_settled(relays)


def test_an_asker_that_is_gone_is_forgotten(relays: Relays, asker: Any, holder: Any) -> None:
    ask(relays, asker, 2 * AT_ONCE)
    asker.comm.is_closed = True
    while holder.asked():
        answer(relays, holder)
    relays.on_timer()
    assert is_settled(relays)
    assert not asker.comm.sent


SIZES = st.sampled_from([1, LEAST_BYTES, MOST_BYTES // 2, 2 * MOST_BYTES, 2 * MOST_BYTES_IN_ALL])


def calls(holder: Any) -> list[int]:
    """Return the calls of actors that a holder has not answered."""
    sent = [one for one in holder.comm.sent if isinstance(one, m.ActorCall)]
    return [one.request for one in sent if one.request in holder.relays and not holder.relays[one.request].size]


def wanted(holder: Any) -> list[int]:
    """Return the answers that are to be sent now."""
    sent = [one for one in holder.comm.sent if isinstance(one, m.SendAnswer)]
    return [one.request for one in sent if one.is_wanted and one.request in holder.relays]


def test_large_answers_of_actors_wait_where_they_are_until_there_is_room(
    relays: Relays, asker: Any, holder: Any
) -> None:
    half = MOST_BYTES // 2
    for i in range(6):
        relays.call(asker, m.ActorCall(i, "actor", "all", None, "h"))
    relays.answer(holder, m.ActorReply(calls(holder)[0], b"small"), [])
    assert [(one.request, one.data) for one in asker.comm.sent] == [(0, b"small")]
    for number in calls(holder):
        relays.answer(holder, m.ActorReply(number, waits=half), [])
    assert len(wanted(holder)) == 2
    for _ in range(5):
        relays.answer(holder, m.ActorReply(wanted(holder)[0], buffers=1), [range(half)])  # type: ignore[list-item]
        assert len(wanted(holder)) * half + asker.comm.backlog_bytes <= MOST_BYTES
        asker.comm.backlog_bytes = 0
        relays.on_timer()
    assert [one.request for one in asker.comm.sent] == [0, 1, 2, 3, 4, 5]
    assert is_settled(relays)


def test_an_answer_that_waits_for_somebody_who_is_gone_is_let_go(relays: Relays, asker: Any, holder: Any) -> None:
    asker.comm.backlog_bytes = MOST_BYTES
    relays.call(asker, m.ActorCall(1, "actor", "all", None, "h"))
    (number,) = calls(holder)
    relays.answer(holder, m.ActorReply(number, waits=5 * LEAST_BYTES), [])
    asker.comm.is_closed = True
    relays.on_timer()
    assert holder.comm.sent[-1] == m.SendAnswer(number, is_wanted=False)
    assert is_settled(relays)


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_an_answer_that_waits_is_lost_with_its_worker(
    relays: Relays, asker: Any, holder: Any, is_asked_for: bool
) -> None:
    asker.comm.backlog_bytes = 0 if is_asked_for else MOST_BYTES
    relays.call(asker, m.ActorCall(1, "actor", "all", None, "h"))
    relays.answer(holder, m.ActorReply(calls(holder)[0], waits=5 * LEAST_BYTES), [])
    assert bool(wanted(holder)) == is_asked_for
    holder.comm.is_closed = True
    relays.lose(holder)
    asker.comm.backlog_bytes = 0
    relays.on_timer()
    assert [(one.request, one.is_lost) for one in asker.comm.sent] == [(1, True)]
    assert is_settled(relays)


@given(st.lists(st.tuples(st.sampled_from("ffccctaaal"), st.integers(0, 3), SIZES), max_size=60))
def test_whatever_comes_all_are_answered_and_the_head_keeps_little(steps: list[tuple[str, int, int]]) -> None:
    sizes: dict[str, int] = {}
    holder: Any = FakePeer()
    askers: list[Any] = [FakePeer() for _ in range(4)]
    relays = Relays({"h": holder}.get, lambda key: sizes[key])

    answers: dict[int, int] = {}  # of actors, by the call's number: bytes

    def respond() -> None:
        if calls(holder):
            number = calls(holder)[0]
            size = answers[number] = sizes[f"k{holder.relays[number].request}"]
            relays.answer(holder, m.ActorReply(number, waits=size if size > LEAST_BYTES else 0), [])
        elif wanted(holder):
            number = wanted(holder)[0]
            relays.answer(holder, m.ActorReply(number, buffers=1), [range(answers[number])])  # type: ignore[list-item]
        elif holder.asked():
            question = holder.asked()[0]
            # a FakeComm counts the lengths of buffers; nothing of that size is made
            relays.answer(holder, m.Data(question.request, question.keys[0], 1), [range(sizes[question.keys[0]])])

    def check() -> None:
        coming = [question for question in holder.relays.values() if question.size]
        assert relays._in_all <= MOST_BYTES_IN_ALL or len(coming) == 1
        assert relays._in_all == sum(relays._under_way.values()) == sum(question.size for question in coming)
        for asker in askers:
            count = sum(question.asker is asker for question in coming)
            assert relays._under_way.get(asker, 0) + asker.comm.backlog_bytes <= MOST_BYTES or count <= 1

    for number, (what, who, size) in enumerate(steps):
        if what == "f":
            sizes[f"k{number}"] = size
            relays.fetch(askers[who], m.Fetch(number, [f"k{number}"], "h"))
        elif what == "c":
            sizes[f"k{number}"] = size
            relays.call(askers[who], m.ActorCall(number, "actor", "all", None, "h"))
        elif what == "t":
            askers[who].comm.backlog_bytes = 0
            relays.on_timer()
        elif what == "a":
            respond()
        elif what == "l":
            relays.lose(holder)
        check()
    for _ in range(4 * len(steps)):
        for asker in askers:
            asker.comm.backlog_bytes = 0
        relays.on_timer()
        respond()
        check()
    assert is_settled(relays)
    assert sorted(one.request for asker in askers for one in asker.comm.sent) == [
        number for number, (what, *_) in enumerate(steps) if what in "fc"
    ]
