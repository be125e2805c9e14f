"""References under way: whichever release comes first, what a client holds is kept, and nothing else is."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import precondition, rule

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import client_events, references
from tests.scheduler.test_machine import ClusterMachine, pick
from tests.scheduler.world import PENDING, FakeClient, World


def held_by_somebody(world: World) -> set[str]:
    """Return the tasks that can be reached: from clients, and from claims that are no task's result."""
    state, known = world.state, world.reactor.lifecycle.references
    clients = [client for client in state.clients.values() if client.name in world.clients]
    todo = [key for client in clients for key in client.wants]
    by_results = Counter(key for keys in known.named.values() for key in keys)
    todo += [key for key, count in known.kept.items() if count > by_results[key]]
    reached: set[str] = set()
    while todo:
        key = todo.pop()
        if key in state.tasks and key not in reached:
            reached.add(key)
            todo += [*known.named.get(key, ()), *(source.key for source in state.tasks[key].inputs)]
    return reached


class WatchedWorld(World):
    """Sees to it that all tasks are known that can be reached, and after a tick no others."""

    def tick(self) -> None:
        self.round()  # ends what is to end anyway
        before = held_by_somebody(self)
        super().tick()
        self.round()
        while self.reactor.lifecycle.references.suspects:  # that ring had kept another
            super().tick()
            self.round()
        assert held_by_somebody(self) == before == self.state.tasks.keys()

    def check_empty(self) -> None:
        self.tick()
        self.settle()
        super().check_empty()


class ClaimingMachine(ClusterMachine):
    """The machine of the daily business, in which references go from client to client, and into results."""

    def __init__(self) -> None:
        super().__init__()
        self.world = WatchedWorld(allowed_failures=1)
        self.world.join_client()
        self.under_way: dict[tuple[str, int], list[str]] = {}
        self.ticket = 0

    def held(self) -> list[str]:
        """Keys that a client could pass on."""
        return [key for key, task in self.world.state.tasks.items() if task.wanted_by]

    @precondition(lambda self: self.held())
    @rule(who=pick, which=st.lists(pick, min_size=1, max_size=3))
    def a_value_is_given_out(self, who: int, which: list[int]) -> None:
        held, client = self.held(), self.a_client(who)
        keys = [held[n % len(held)] for n in which]
        self.ticket += 1
        self.under_way[client.name, self.ticket] = keys
        references.on_given(self.world.reactor.lifecycle, client.name, self.ticket, keys)
        check(self.world)

    @precondition(lambda self: self.under_way)
    @rule(which=pick, is_read=st.booleans())
    def a_value_is_taken(self, which: int, is_read: bool) -> None:
        name, ticket = list(self.under_way)[which % len(self.under_way)]
        keys = self.under_way.pop((name, ticket))
        client = self.world.clients.get(name)
        if client is None:
            return
        assert self.world.state.tasks.keys() >= set(keys), "it was lost on the way"
        new = [key for key in dict.fromkeys(keys) if key not in client.futures] if is_read else []
        client.futures.update(dict.fromkeys(new, PENDING))
        client_events.on_keys_wanted(self.world.reactor.lifecycle, name, new)
        references.on_taken(self.world.reactor.lifecycle, name, ticket)
        check(self.world)

    @precondition(lambda self: self.held())
    @rule(whose=pick, which=st.lists(pick, min_size=1, max_size=3))
    def a_result_names(self, whose: int, which: list[int]) -> None:
        held, known = self.held(), list(self.world.state.tasks)
        names = m.ResultNames(known[whose % len(known)], [held[n % len(held)] for n in which])
        references.on_result_names(self.world.reactor.lifecycle, names)
        check(self.world)

    def end(self) -> None:
        while self.under_way:
            self.a_value_is_taken(0, is_read=True)
        super().end()
        assert not self.world.reactor.lifecycle.references.kept
        assert not self.world.reactor.lifecycle.references.named
        assert not self.world.reactor.lifecycle.references.namers


TestClaims = ClaimingMachine.TestCase
TestClaims.settings = settings(stateful_step_count=60, deadline=None)


@pytest.fixture
def world() -> World:
    return World()


def submit(world: World, client: FakeClient, *keys: str) -> None:
    world.submit(client, keys)
    world.settle()


def check(world: World) -> None:
    world.check()
    world.reactor.lifecycle.references.check()


def settled(world: World) -> None:
    world.settle()
    check(world)


def test_what_was_given_out_outlives_an_earlier_reference_of_the_same_client(world: World) -> None:
    client = world.join_client()
    submit(world, client, "x")
    references.on_given(world.reactor.lifecycle, client.name, 7, ["x"])
    world.release(client, "x")  # sent before the client saw what it was given
    check(world)
    client_events.on_keys_wanted(world.reactor.lifecycle, client.name, ["x"])
    client.futures["x"] = PENDING
    references.on_taken(world.reactor.lifecycle, client.name, 7)
    settled(world)
    assert client.futures == {"x": "done"}
    world.release(client, "x")
    world.check_empty()
    assert not world.reactor.lifecycle.references.kept


def test_what_was_given_out_goes_with_who_does_not_take_it(world: World) -> None:
    one, two = world.join_client(), world.join_client()
    submit(world, one, "x")
    references.on_given(world.reactor.lifecycle, two.name, 1, ["x", "x"])
    world.release(one, "x")
    assert "x" in world.state.tasks
    world.leave_client(two)
    settled(world)
    world.check_empty()
    references.on_given(world.reactor.lifecycle, two.name, 2, ["x"])  # it is gone
    references.on_taken(world.reactor.lifecycle, two.name, 2)
    assert not world.reactor.lifecycle.references.kept


def test_it_may_be_taken_and_given_in_any_order(world: World) -> None:
    client = world.join_client()
    submit(world, client, "x", "y")
    for ticket, keys in enumerate((["x"], ["x", "y"], ["y"])):
        references.on_given(world.reactor.lifecycle, client.name, ticket, keys)
    world.release(client, "x", "y")
    for ticket in (1, 0):
        assert world.state.tasks.keys() == {"x", "y"}
        references.on_taken(world.reactor.lifecycle, client.name, ticket)
        settled(world)
    assert world.state.tasks.keys() == {"y"}
    references.on_taken(world.reactor.lifecycle, client.name, 2)
    settled(world)
    world.check_empty()


def test_a_result_keeps_the_futures_in_it(world: World) -> None:
    outside, inside = world.join_client(), world.join_client()
    world.submit(outside, ["x"])
    submit(world, inside, "y", "z")
    references.on_result_names(world.reactor.lifecycle, m.ResultNames("x", ["y"]))
    references.on_result_names(
        world.reactor.lifecycle, m.ResultNames("x", ["y", "x"])
    )  # pickled twice; and itself
    world.release(inside, "y", "z")
    settled(world)
    assert world.state.tasks.keys() == {"x", "y"}
    world.release(outside, "x")
    settled(world)
    world.check_empty()


def test_a_long_chain_of_results_that_name_each_other(world: World) -> None:
    client = world.join_client()
    keys = [f"t{i}" for i in range(3000)]
    for key in keys:
        world.reactor.on_tasks_submitted(client.name, m.SubmitTasks(b"function-1", [key], [b""]))
    for one, following in pairwise(keys):
        references.on_result_names(world.reactor.lifecycle, m.ResultNames(one, [following]))
    world.reactor.on_keys_released(client.name, keys[1:])
    world.round()
    assert len(world.state.tasks) == 3000
    world.reactor.on_keys_released(client.name, keys[:1])
    world.round()
    check(world)
    world.check_empty()


def test_a_result_of_a_task_that_is_not_known_keeps_nothing(world: World) -> None:
    client = world.join_client()
    submit(world, client, "y")
    references.on_result_names(world.reactor.lifecycle, m.ResultNames("gone", ["y"]))
    assert not world.reactor.lifecycle.references.kept
    submit(world, client, "x")
    references.on_result_names(world.reactor.lifecycle, m.ResultNames("x", ["unknown"]))
    settled(world)
    world.release(client, "x", "y")
    settled(world)
    world.check_empty()


def test_a_key_that_is_used_again_does_not_keep_what_its_old_result_named(world: World) -> None:
    client, other = world.join_client(), world.join_client()
    submit(world, client, "y")
    world.submit(client, ["x"])
    world.submit(other, ["x"])
    references.on_result_names(world.reactor.lifecycle, m.ResultNames("x", ["y"]))
    world.release(client, "y")
    world.cancel(client, "x")
    world.release(client, "x")
    submit(world, client, "x")
    check(world)
    assert world.state.tasks.keys() == {"x"}


def test_what_is_claimed_is_forgotten_by_a_restart(world: World) -> None:
    client = world.join_client()
    submit(world, client, "x")
    references.on_given(world.reactor.lifecycle, client.name, 1, ["x"])
    client_events.on_restarted(world.reactor.lifecycle)
    world.round()
    check(world)
    assert not world.state.tasks
    client.futures.clear()
    submit(world, client, "x")
    references.on_given(world.reactor.lifecycle, client.name, 2, ["x"])
    world.release(client, "x")
    references.on_taken(world.reactor.lifecycle, client.name, 1)
    settled(world)
    assert world.state.tasks.keys() == {"x"}
    references.on_taken(world.reactor.lifecycle, client.name, 2)
    settled(world)
    world.check_empty()


INDEXES = st.integers(0, 3)


@given(
    inputs=st.lists(st.frozensets(INDEXES, max_size=2), min_size=4, max_size=4),
    naming=st.lists(st.tuples(INDEXES, INDEXES), min_size=2, max_size=8),
    given_out=st.lists(INDEXES, max_size=2),
    steps=st.lists(
        st.tuples(st.sampled_from(["release"] * 4 + ["take", "name"]), INDEXES, INDEXES), min_size=3, max_size=12
    ),
    how=st.sampled_from(["large", "small"]),
)
def test_after_each_step_all_that_can_be_reached_is_there_and_nothing_else(
    inputs: list[frozenset[int]],
    naming: list[tuple[int, int]],
    given_out: list[int],
    steps: list[tuple[str, int, int]],
    how: str,
) -> None:
    """A few tasks, made from each other, that name each other as they like."""
    world = WatchedWorld()
    client, other = world.join_client(), world.join_client()
    for i, some in enumerate(inputs):
        world.submit(client, [f"t{i}"], [[f"t{j}" for j in sorted(some) if j < i]])
    world.settle(how)
    for ticket, i in enumerate(given_out):
        references.on_given(world.reactor.lifecycle, other.name, ticket, [f"t{i}"])
    for one, following in naming:
        names(world, f"t{one}", f"t{following}")
    for do, i, j in steps:
        if do == "release" and f"t{i}" in client.futures:
            world.release(client, f"t{i}")
        elif do == "take":
            references.on_taken(world.reactor.lifecycle, other.name, i)
        elif f"t{j}" in world.state.tasks:
            names(world, f"t{i}", f"t{j}")
        world.tick()
        check(world)
    world.release(client, *list(client.futures))
    world.leave_client(other)
    world.check_empty()


def names(world: World, task: str, *keys: str) -> None:
    references.on_result_names(world.reactor.lifecycle, m.ResultNames(task, list(keys)))


def ticked(world: World) -> None:
    world.tick()
    settled(world)


def test_results_that_only_name_each_other_go(world: World) -> None:
    client, other = world.join_client(), world.join_client()
    submit(world, client, "a", "b", "c", "apart")
    for one, following in pairwise("abca"):
        names(world, one, following)
    names(world, "c", "apart")
    world.release(client, "a", "b", "c")
    references.on_given(world.reactor.lifecycle, other.name, 1, ["b"])
    ticked(world)
    assert world.state.tasks.keys() == {"a", "b", "c", "apart"}
    references.on_taken(world.reactor.lifecycle, other.name, 1)  # it has not read what it was given
    ticked(world)
    assert world.state.tasks.keys() == {"apart"}
    world.release(client, "apart")
    world.check_empty()
    assert not world.reactor.lifecycle.references.kept


def test_a_result_that_names_a_task_which_uses_it_goes_with_that(world: World) -> None:
    client = world.join_client()
    world.submit(client, ["source"])
    world.submit(client, ["user"], [["source"]])
    world.settle("large")
    names(world, "source", "user")
    world.release(client, "source")
    ticked(world)
    assert world.state.tasks.keys() == {"source", "user"}
    world.release(client, "user")
    ticked(world)
    world.check_empty()


def test_a_ring_that_another_task_uses_goes_when_that_goes(world: World) -> None:
    client = world.join_client()
    submit(world, client, "a", "b")
    world.submit(client, ["user"], [["a"]])
    world.settle("large")
    names(world, "a", "b")
    names(world, "b", "a")
    world.release(client, "a", "b")
    ticked(world)
    assert world.state.tasks.keys() >= {"a", "b", "user"}
    world.release(client, "user")
    ticked(world)
    world.check_empty()


def test_a_ring_that_a_task_needs_goes_when_that_has_a_small_result(world: World) -> None:
    client = world.join_client()
    submit(world, client, "a", "b")
    world.submit(client, ["user"], [["a"]])
    names(world, "a", "b")
    names(world, "b", "a")
    world.release(client, "a", "b")
    world.tick()
    assert world.state.tasks.keys() == {"a", "b", "user"}
    world.settle("small")
    ticked(world)
    assert world.state.tasks.keys() == {"user"}
    world.release(client, "user")
    world.check_empty()


def test_looking_for_rings_is_no_work_where_there_can_be_none(world: World) -> None:
    client = world.join_client()
    submit(world, client, "x", "y")
    world.release(client, "x")
    assert not world.reactor.lifecycle.references.suspects
    names(world, "y", "unknown")
    world.tick()
    assert not world.reactor.lifecycle.references.suspects
    world.release(client, "y")
    world.tick()
    world.check_empty()


@pytest.mark.parametrize("ends", ["first", "last"])
def test_a_long_ring_is_looked_through_once(world: World, ends: str) -> None:
    """As is a chain whose end is held: what keeps a task is found out for all of them together."""
    client = world.join_client()
    keys = [f"t{i}" for i in range(3000)]
    for key in keys:
        world.reactor.on_tasks_submitted(client.name, m.SubmitTasks(b"function-1", [key], [b""]))
    for one, following in pairwise([*keys, keys[0]] if ends == "first" else keys):
        names(world, one, following)
    kept = keys[:1]
    world.reactor.on_keys_released(client.name, keys[1:])
    world.tick()
    check(world)
    assert len(world.state.tasks) == 3000
    assert world.reactor.lifecycle.references.next_look <= world.now + 1.0
    world.reactor.on_keys_released(client.name, kept)
    world.tick()
    world.round()
    check(world)
    world.check_empty()
