"""What a worker does about each thing. Above all: every task that it is sent gets one answer."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from hpclaunch.comm import messages as m
from hpclaunch.comm.serialize import Payload
from hpclaunch.worker.commands import Command, DeleteFile, Execute, FetchInput, TakeBack, ToHead, WriteResult
from hpclaunch.worker.memory import Limits
from hpclaunch.worker.reactor import WorkerReactor

BIG = Payload(b"pickle", [b"buffer"])


def small(key: str) -> m.Input:
    return m.Input(key, b"value of " + key.encode())


def large(key: str) -> m.Input:
    return m.Input(key, None, ["w9:1"])


@pytest.fixture
def reactor() -> WorkerReactor:
    reactor = WorkerReactor()
    reactor.on_function_defined(b"f", b"f")
    return reactor


def send(reactor: WorkerReactor, key: str, *inputs: m.Input) -> list[Command]:
    reactor.on_task_sent(m.RunTask(b"f", key, b"args", list(inputs)))
    reactor.state.check()
    return reactor.take_commands()


def test_tasks_without_inputs_are_executed_as_they_come(reactor: WorkerReactor) -> None:
    reactor.on_tasks_sent(m.RunTasks(b"f", ["a", "b"], [b"1", b"2"]))
    assert reactor.take_commands() == [Execute(b"f", ["a", "b"], [b"1", b"2"], None)]


def test_a_function_is_forgotten_but_not_by_a_task_that_fetches_its_input(reactor: WorkerReactor) -> None:
    assert send(reactor, "t", large("a")) == [FetchInput("a", ["w9:1"], 0)]
    reactor.on_functions_forgotten(m.ForgetFunctions([b"f", b"unknown"]))
    assert not reactor.state.functions
    reactor.on_input_arrived("a", 0, BIG)
    assert Execute(b"f", ["t"], [b"args"], {"a": BIG}) in reactor.take_commands()


def test_small_inputs_come_along(reactor: WorkerReactor) -> None:
    assert send(reactor, "t", small("a"), small("b")) == [
        Execute(b"f", ["t"], [b"args"], {"a": b"value of a", "b": b"value of b"})
    ]


def test_what_is_here_is_not_fetched(reactor: WorkerReactor) -> None:
    reactor.on_result_stored("a", BIG)
    assert send(reactor, "t", large("a")) == [Execute(b"f", ["t"], [b"args"], {"a": BIG})]


def test_a_large_input_is_fetched_once_and_kept_as_a_copy(reactor: WorkerReactor) -> None:
    assert send(reactor, "t", large("a"), small("s")) == [FetchInput("a", ["w9:1"], 0)]
    assert send(reactor, "u", large("a"), large("b")) == [FetchInput("b", ["w9:1"], 0)]
    reactor.on_input_arrived("a", 0, BIG)
    reactor.state.check()
    assert reactor.take_commands() == [
        ToHead(m.CopiesHeld(["a"], [0])),
        Execute(b"f", ["t"], [b"args"], {"a": BIG, "s": b"value of s"}),
    ]
    assert list(reactor.state.fetching) == ["u"]
    reactor.on_input_arrived("b", 0, BIG)
    reactor.state.check()
    assert reactor.take_commands()[-1] == Execute(b"f", ["u"], [b"args"], {"a": BIG, "b": BIG})
    reactor.on_results_freed(m.FreeResults(["a", "never here"]))
    assert list(reactor.state.store) == ["b"]


def test_tasks_are_given_back_when_nobody_has_their_input(reactor: WorkerReactor) -> None:
    send(reactor, "t", large("a"), large("b"))
    send(reactor, "u", large("a"))
    send(reactor, "v", large("b"))
    reactor.on_input_missing("a", 0, ["w9:1", "w8:1"])
    reactor.state.check()
    assert reactor.take_commands() == [
        ToHead(m.InputMissing("t", ["a"], ["w9:1", "w8:1"])),
        ToHead(m.InputMissing("u", ["a"], ["w9:1", "w8:1"])),
    ]
    assert list(reactor.state.fetching) == ["v"]


def test_recalled_are_first_those_that_fetch_the_last_first(reactor: WorkerReactor) -> None:
    for key in ("t", "u", "v"):
        send(reactor, key, large(f"input of {key}"))
    reactor.on_recall(2)
    reactor.state.check()
    assert reactor.take_commands() == [ToHead(m.TasksReturned(["u", "v"])), TakeBack(0, frozenset())]
    reactor.on_recall(5)
    assert reactor.take_commands() == [ToHead(m.TasksReturned(["t"])), TakeBack(4, frozenset())]
    reactor.on_recall(1)
    assert reactor.take_commands() == [TakeBack(1, frozenset())]  # and so the head gets an answer


def test_dropped_are_those_that_fetch_and_those_that_are_queued(reactor: WorkerReactor) -> None:
    send(reactor, "t", large("a"))
    reactor.on_drop(["t", "queued"])
    reactor.state.check()
    assert reactor.take_commands() == [ToHead(m.TasksReturned(["t"])), TakeBack(0, frozenset({"queued"}))]
    assert not reactor.state.waiting_for


def test_a_copy_of_an_earlier_task_of_the_key_is_not_used(reactor: WorkerReactor) -> None:
    old, new = Payload(b"old", []), Payload(b"new", [])
    send(reactor, "t", m.Input("a", None, ["w9:1"], 1))
    reactor.on_drop(["t"])
    reactor.take_commands()
    assert send(reactor, "u", m.Input("a", None, ["w8:1"], 2)) == [FetchInput("a", ["w8:1"], 2)]
    reactor.on_input_arrived("a", 1, old)
    assert reactor.take_commands() == [ToHead(m.CopiesHeld(["a"], [1]))]
    assert send(reactor, "v", m.Input("a", None, ["w8:1"], 2)) == []
    reactor.on_input_arrived(
        "a", 2, new
    )  # it is used, and not kept, for the head will say what to do with the other
    reactor.state.check()
    assert reactor.take_commands() == [Execute(b"f", [key], [b"args"], {"a": new}) for key in ("u", "v")]
    reactor.on_copies_wanted(m.KeepCopies(["a"], [["w8:1"]], [2]))
    assert reactor.take_commands() == [FetchInput("a", ["w8:1"], 2)]
    reactor.on_results_freed(m.FreeResults(["a"], [2]))
    assert list(reactor.state.store) == ["a"]
    reactor.on_results_freed(m.FreeResults(["a"], [1]))
    reactor.state.check()
    assert not reactor.state.store


def test_a_copy_does_not_take_the_place_of_what_was_made_here(reactor: WorkerReactor) -> None:
    own = Payload(b"own", [])
    send(reactor, "t", m.Input("a", None, ["w9:1"], 1))
    reactor.on_result_stored("a", own)
    reactor.take_commands()
    reactor.on_input_arrived("a", 1, BIG)
    assert reactor.take_commands() == [Execute(b"f", ["t"], [b"args"], {"a": BIG})]
    reactor.on_results_freed(m.FreeResults(["a"], [1]))
    reactor.state.check()
    assert reactor.state.store == {"a": own}


@pytest.mark.parametrize("arrives", [True, False])
def test_an_input_that_nobody_waits_for_any_more(reactor: WorkerReactor, arrives: bool) -> None:
    send(reactor, "t", large("a"))
    reactor.on_drop(["t"])
    reactor.take_commands()
    if arrives:
        reactor.on_input_arrived("a", 0, BIG)
        assert reactor.take_commands() == [ToHead(m.CopiesHeld(["a"], [0]))]  # the head will free it, or use it
    else:
        reactor.on_input_missing("a", 0, [])
        assert reactor.take_commands() == []
    reactor.state.check()


KEYS = ["a", "b", "c", "d"]
INPUTS = ["x", "y", "z"]


class WorkerMachine(RuleBasedStateMachine):
    """The head may send, recall, drop and free what it likes, in any order; fetches end as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.reactor = WorkerReactor()
        self.reactor.on_function_defined(b"f", b"f")
        self.owed: set[str] = set()
        self.queued: list[str] = []
        self.fetches: list[FetchInput] = []

    @rule(
        key=st.sampled_from(KEYS), inputs=st.lists(st.sampled_from(INPUTS), unique=True), sizes=st.integers(0, 7)
    )
    def task_comes(self, key: str, inputs: list[str], sizes: int) -> None:
        if key in self.owed:
            return
        self.owed.add(key)
        if not inputs:
            self.reactor.on_tasks_sent(m.RunTasks(b"f", [key], [b""]))
        else:
            some = [large(one) if sizes >> i & 1 else small(one) for i, one in enumerate(inputs)]
            self.reactor.on_task_sent(m.RunTask(b"f", key, b"", some))
        self.carry_out()

    @rule(count=st.integers(0, 5))
    def recall(self, count: int) -> None:
        self.reactor.on_recall(count)
        self.carry_out()

    @rule(keys=st.lists(st.sampled_from(KEYS)))
    def drop(self, keys: list[str]) -> None:
        self.reactor.on_drop(keys)
        self.carry_out()

    @rule(keys=st.lists(st.sampled_from(INPUTS)))
    def free(self, keys: list[str]) -> None:
        self.reactor.on_results_freed(m.FreeResults(keys))
        self.carry_out()

    @rule(which=st.integers(0, 9), arrives=st.booleans())
    def fetch_ends(self, which: int, arrives: bool) -> None:
        if self.fetches:
            fetch = self.fetches.pop(which % len(self.fetches))
            if arrives:
                self.reactor.on_input_arrived(fetch.key, fetch.order, BIG)
            else:
                self.reactor.on_input_missing(fetch.key, fetch.order, fetch.holders)
            self.carry_out()

    @rule()
    def task_ends(self) -> None:
        if self.queued:
            self.owed.remove(self.queued.pop(0))

    def carry_out(self) -> None:
        self.reactor.state.check()
        for command in self.reactor.take_commands():
            if isinstance(command, Execute):
                self.queued += command.keys
            elif isinstance(command, FetchInput):
                self.fetches.append(command)
            elif isinstance(command, TakeBack):
                for key in [k for k in self.queued if k in command.keys]:
                    self.queued.remove(key)
                    self.owed.remove(key)
            else:
                message = command.message
                keys = message.keys if isinstance(message, m.TasksReturned) else []
                for key in [message.key] if isinstance(message, m.InputMissing) else keys:
                    self.owed.remove(key)  # KeyError: it was answered twice
        assert self.owed == set(self.queued) | set(self.reactor.state.fetching)
        assert not set(self.queued) & set(self.reactor.state.fetching)

    def teardown(self) -> None:
        while self.fetches:
            self.fetch_ends(0, False)
        while self.queued:
            self.task_ends()
        assert not self.owed


TestWorker = WorkerMachine.TestCase


def test_a_write_that_ends_after_its_result_was_freed_and_has_come_again() -> None:
    reactor = WorkerReactor(Limits(memory=100, target=10))
    payload = Payload(bytes(50), [])
    reactor.on_result_stored("a", payload)
    (write,) = (command for command in reactor.take_commands() if isinstance(command, WriteResult))
    reactor.on_results_freed(m.FreeResults(["a"]))
    reactor.state.ledger.disk_trouble, reactor.state.ledger._retry_at = "full", 1e9  # so it stays in memory
    reactor.on_input_arrived("a", 1, payload)
    reactor.on_result_written("a", payload, "file")
    assert DeleteFile("file") in reactor.take_commands()
    assert reactor.state.store["a"] is payload
    reactor.on_result_not_written("a", payload, "no space")
    reactor.state.check()
    assert write.key == "a"
