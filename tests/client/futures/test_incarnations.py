"""A key that is cancelled or released, and used again at once: news of the old task never reach the new future.

A real client and the real reactor of the head, with queues between them that are emptied in any order; what a task
returns says which submission it was.
"""

from __future__ import annotations

import gc
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from hpclaunch.client.client import Client
from hpclaunch.client.futures.future import Future
from hpclaunch.comm import messages as m
from hpclaunch.comm.serialize import dump_inline, load_call
from hpclaunch.scheduler import client_events, invariants
from hpclaunch.scheduler.commands import ToClient
from hpclaunch.scheduler.placement import place
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.state import Worker
from tests.client import work
from tests.client.inside import core_of
from tests.scheduler.world import through_the_wire
from tests.walks import seeds


class Wire:
    """The client's end of its connection: what it sends stays here until the head is made to hear it."""

    def __init__(self) -> None:
        self.sent: deque[m.Message] = deque()
        self.is_closed = False

    def send(self, message: m.Message) -> None:
        self.sent.append(through_the_wire(message))

    put = send

    def flush(self) -> None:
        pass


class Session:
    """A session without a network."""

    is_asking = False
    address = "nowhere"
    on_warning = None

    def __init__(self) -> None:
        self.comm = Wire()

    def listen(self, on_notice: Any) -> None:
        pass

    def close(self) -> None:
        self.comm.is_closed = True


class Head:
    """The real reactor, and a worker that runs what it is told to; the client takes this for a cluster."""

    facts: dict[str, Any] = {"id": "head", "security": False}
    directory = None

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.session = Session()
        self.news: deque[m.Message] = deque()  # on its way to the client
        self.queue: deque[tuple[str, Any]] = deque()  # the worker's
        self.reactor.on_worker_joined(Worker("w", "job", 1), 0.0)
        self.client = Client(self, set_as_default=False)
        # It is sent when the test says so.
        core_of(self.client).link._schedule_flush = lambda: None  # type: ignore[method-assign]
        self.name = self.client.name
        self.reactor.on_client_joined(self.name)

    async def open_session(self, **_: Any) -> Session:
        return self.session

    def hear(self) -> None:
        """Take the next message of the client's."""
        message = self.session.comm.sent.popleft()
        reactor, name = self.reactor, self.name
        if isinstance(message, m.DefineFunction):
            client_events.on_function_sent(reactor.lifecycle, name, message)
        elif isinstance(message, m.SubmitTasks):
            reactor.on_tasks_submitted(name, message)
        elif isinstance(message, m.ReleaseKeys):
            reactor.on_keys_released(name, message.keys)
        elif isinstance(message, m.CancelKeys):
            reactor.on_keys_cancelled(message.keys)
        elif isinstance(message, m.WantKeys):
            client_events.on_keys_wanted(reactor.lifecycle, name, message.keys)
        elif isinstance(message, m.Fence):
            client_events.on_fence(reactor.lifecycle, name, message.number)
        else:
            assert isinstance(message, m.RetryKeys)
            client_events.on_tasks_retried(reactor.lifecycle, name, message.keys)
        invariants.check(reactor.state)

    def round(self) -> None:
        for command in self.reactor.take_commands() + place(self.reactor.state, 0.0):
            if isinstance(command, ToClient):
                if command.client != self.name:
                    continue
                self.news.append(through_the_wire(command.message))
            elif isinstance(command.message, m.RunTasks):
                self.queue += zip(command.message.keys, command.message.args, strict=True)
            elif isinstance(command.message, m.DropTasks):
                for item in [item for item in self.queue if item[0] in command.message.keys]:
                    self.queue.remove(item)
                    self.reactor.on_tasks_returned("w", [item[0]])
        invariants.check(self.reactor.state)

    def run(self, *, well: bool = True) -> None:
        """The worker runs a task: it returns its argument, or fails with that."""
        key, args = self.queue.popleft()
        ((value,), _) = load_call(args, None)
        if well:
            self.reactor.on_tasks_done("w", m.TasksDone([key], [dump_inline(value)], [0.001]), 0.0)
        else:
            failure = m.Failure("TaskError", str(value))
            self.reactor.on_tasks_failed("w", m.TasksFailed([key], [failure], [0.001]), 0.0)
        invariants.check(self.reactor.state)

    def tell(self) -> None:
        """The client hears the next news."""
        core_of(self.client).on_messages([self.news.popleft()], [])

    def settle(self) -> None:
        """Let everything arrive, and everything run."""
        for _ in range(1000):
            gc.collect(0)
            core_of(self.client).link.flush()
            self.round()
            if not (self.session.comm.sent or self.queue or self.news):
                return
            while self.session.comm.sent:
                self.hear()
            self.round()
            while self.queue:
                self.run()
            self.round()
            while self.news:
                self.tell()
        raise AssertionError("it does not come to rest")


@pytest.fixture
def head() -> Iterator[Head]:
    head = Head()
    yield head
    head.client.close()


def arrive(head: Head) -> None:
    """Let the head hear all that the client has said so far."""
    core_of(head.client).link.flush()
    while head.session.comm.sent:
        head.hear()
    head.round()


@pytest.mark.parametrize("how", ["done", "failed", "cancelled"])
@pytest.mark.parametrize("is_kept", [False, True])
def test_news_of_the_old_task_that_are_under_way(head: Head, how: str, is_kept: bool) -> None:
    first = head.client.submit(work.same, "first", key="k")
    arrive(head)
    if how == "cancelled":
        first.cancel()
        arrive(head)  # the head says of it that it is cancelled
    else:
        head.run(well=how == "done")
        head.round()  # its end is told
        first.cancel()
    kept = [first] if is_kept else []
    del first
    second = head.client.submit(work.same, "second", key="k")
    assert second not in kept
    while head.news:
        head.tell()
    assert second.status == "pending"
    head.settle()
    assert second.result(0) == "second"
    assert all(one.cancelled() for one in kept)


def test_the_first_task_of_a_client_may_have_a_name(head: Head) -> None:
    future = head.client.submit(work.same, "first", key="k")
    head.settle()
    assert future.result(0) == "first"


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_key_that_was_let_go_names_another_task(head: Head, is_sent: bool) -> None:
    first = head.client.submit(work.same, "first", key="k")
    arrive(head)
    head.run()
    head.round()
    del first
    if is_sent:
        core_of(head.client).link.flush()
    (second,) = head.client.map(work.same, ["second"], key=["k"])
    head.settle()
    assert second.result(0) == "second"


def test_a_key_is_used_again_while_others_still_have_the_cancelled_future(head: Head) -> None:
    head.reactor.on_client_joined("other")
    first = head.client.submit(work.same, "first", key="k")
    arrive(head)
    client_events.on_keys_wanted(head.reactor.lifecycle, "other", ["k"])
    first.cancel()
    second = head.client.submit(work.same, "second", key="k")
    head.settle()
    assert second.result(0) == "second"
    head.reactor.on_client_left("other")
    invariants.check(head.reactor.state)


def test_one_call_of_map_may_name_a_task_twice(head: Head) -> None:
    before = head.client.submit(work.same, 0, key="a")
    futures = head.client.map(work.same, [1, 2, 3], key=["a", "b", "b"])
    assert futures[0] is before
    assert futures[1] is futures[2]
    arrive(head)
    assert len(head.queue) == 2
    head.settle()
    assert head.client.gather(futures) == [0, 2, 2]


class Walk:
    """Random steps of a program that uses few keys again and again."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.head = Head()
        self.current: dict[str, Future] = {}
        self.old: list[Future] = []  # futures that a client still has, though their keys are used again
        self.numbers: dict[Future, int] = {}
        self.cancelled: set[int] = set()
        self.failed: set[int] = set()
        self.count = 0

    def take(self, steps: int) -> None:
        head, rng = self.head, self.rng
        ways = [
            self.submit,
            self.submit,
            self.drop,
            self.cancel,
            self.retry,
            self.forget,
            core_of(head.client).link.flush,
        ]
        for _ in range(steps):
            rng.choice(ways)()
            for go_on, queue in (
                (head.hear, head.session.comm.sent),
                (self.run, head.queue),
                (head.tell, head.news),
            ):
                for _ in range(min(len(queue), rng.choice((0, 0, 1, 3)))):
                    go_on()
            if rng.random() < 0.5:
                head.round()
            self.check()
        head.settle()
        self.check()
        for future, number in self.numbers.items():
            assert future.done(), (future, number)
        core_of(head.client).link.flush()
        head.settle()
        assert not core_of(head.client).table._fences.keys
        head.client.close()

    def check(self) -> None:
        """A future that has ended has ended as its own task did."""
        for future, number in self.numbers.items():
            if future.status == "finished":
                assert future.result(0) == number
            elif future.status == "error":
                assert str(number) in str(future.exception(0))
                assert number in self.failed
            elif future.cancelled():
                assert number in self.cancelled

    def submit(self) -> None:
        self.count += 1
        key = self.rng.choice("abc")
        before = self.current.get(key)
        future = self.head.client.submit(work.same, self.count, key=key)
        if future not in self.numbers:
            self.numbers[future] = self.count
            if before is not None and self.rng.random() < 0.5:
                self.old.append(before)
            elif before is not None:
                del self.numbers[before]
        self.current[key] = future

    def drop(self) -> None:
        if self.current:
            _, future = self.current.popitem()
            if future not in self.old:
                del self.numbers[future]

    def forget(self) -> None:
        if self.old:
            future = self.old.pop()
            if future not in self.current.values() and future not in self.old:
                self.numbers.pop(future, None)

    def cancel(self) -> None:
        if self.current:
            future = self.rng.choice(list(self.current.values()))
            if not future.done():
                self.cancelled.add(self.numbers[future])
            future.cancel()

    def retry(self) -> None:
        for future in [*self.current.values(), *self.old]:
            if future.status == "error":
                future.retry()

    def run(self) -> None:
        _, args = self.head.queue[0]
        ((number,), _) = load_call(args, None)
        well = self.rng.random() < 0.7
        if not well:
            self.failed.add(number)
        self.head.run(well=well)


@pytest.mark.parametrize("seed", seeds(40, quick=10))
def test_each_future_has_what_its_own_task_returned(seed: int) -> None:
    Walk(seed).take(150)
