"""What clients and tasks ask beyond the daily business, among all that can happen on a cluster."""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import precondition, rule

from hpclaunch.comm import messages as m
from hpclaunch.comm.serialize import Payload
from hpclaunch.scheduler import client_events, scattered
from hpclaunch.scheduler.state import ASSIGNED, FAILED
from tests.scheduler.test_machine import KEYS, ClusterMachine, pick
from tests.scheduler.world import FUNCTIONS, PENDING, World, value_of


class WishingMachine(ClusterMachine):
    """The machine of the daily business, and wishes."""

    @precondition(lambda self: self.world.workers)
    @rule(who=pick, which=pick, away=st.booleans())
    def task_steps_aside_or_is_back(self, who: int, which: int, away: bool) -> None:
        worker = self.a_worker(who)
        key = worker.running[which % len(worker.running)] if worker.running else KEYS[which % len(KEYS)]
        client_events.on_task_seceded(self.world.reactor.lifecycle, worker.name, m.TaskSeceded(key, away))
        self.world.check()

    @rule(which=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3))
    def what_has_not_begun_is_cancelled(self, which: list[str]) -> None:
        world = self.world
        asked = client_events.on_unstarted_cancelled(world.reactor.lifecycle, which)
        world.check()
        for name, keys in asked.items():
            worker = world.workers[name]
            taken = [key for key in keys if key in worker.queue and not worker.inbox]
            for key in taken:
                worker.queue.remove(key)
                worker.owed.remove(key)
            world.reactor.on_tasks_returned(name, taken)
            world.check()
        cancelled = client_events.on_unstarted_settled(world.reactor.lifecycle, which)
        assert not world.state.cancelled_unstarted
        running = {key for worker in world.workers.values() for key in worker.running}
        assigned = {k for k, t in world.state.tasks.items() if t.state == ASSIGNED}
        assert not running & assigned & set(cancelled)
        world.check()

    @rule(who=pick, which=st.sampled_from(KEYS))
    def client_wants_what_others_have(self, who: int, which: str) -> None:
        client = self.a_client(who)
        if which not in client.futures and which in self.world.state.tasks:
            client.futures[which] = PENDING
            client_events.on_keys_wanted(self.world.reactor.lifecycle, client.name, [which])
            self.world.check()

    @rule(who=pick, which=pick)
    def client_retries(self, who: int, which: int) -> None:
        client = self.a_client(who)
        failed = [key for key, how in client.futures.items() if how == "failed"]
        if failed:
            key = failed[which % len(failed)]
            client.futures[key] = PENDING
            client_events.on_tasks_retried(self.world.reactor.lifecycle, client.name, [key])
            self.world.check()

    @precondition(lambda self: self.world.workers)
    @rule(who=pick, which=pick, key=st.sampled_from(["value-0", "value-1"]), stays=st.booleans())
    def client_has_brought_a_value(self, who: int, which: int, key: str, stays: bool) -> None:
        world, worker, client = self.world, self.a_worker(which), self.a_client(who)
        world.submitted[key] = {frozenset()}
        new = stays and key not in client.futures
        if new:
            client.futures[key] = PENDING
        if not bring(world, worker.name, key, client.name if stays else "gone") and new:
            del client.futures[key]

    def end(self) -> None:
        """As there; but a retried task may have lost its inputs since."""
        world = self.world
        world.settle("small")
        for client in list(world.clients.values()):
            world.leave_client(client)
        world.settle()
        world.check_empty()


TestWishes = WishingMachine.TestCase
TestWishes.settings = settings(stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("how", ["small", "large"])
def test_a_failed_task_is_retried_though_nobody_has_its_inputs(how: str) -> None:
    world = a_world()
    (client,) = world.clients.values()
    world.join()
    world.submit(client, ["a", "b", "c"], [[], ["a"], ["a", "b"]])
    run_until(world, "c", how, "failed")
    world.submit(client, ["d"], [["c"]])
    world.release(client, "a", "b", "c")
    world.settle(how)
    assert client.futures == {"d": "failed"}
    assert not any(worker.holds for worker in world.state.workers.values()), "what is not needed now is not kept"
    client.futures["d"] = PENDING
    client_events.on_tasks_retried(world.reactor.lifecycle, client.name, ["d"])
    world.check()
    world.settle(how)
    assert client.futures["d"] != "failed"
    world.release(client, "d")
    world.settle()
    world.check_empty()


def test_everybody_hears_that_a_task_is_run_once_more() -> None:
    world = a_world()
    (one,) = world.clients.values()
    two = world.join_client()
    world.join()
    world.submit(one, ["a"])
    run_until(world, "a", "small", "failed")
    world.submit(two, ["b"], [["a"]])
    world.settle()
    assert (one.futures, two.futures) == ({"a": "failed"}, {"b": "failed"})
    two.futures["b"] = PENDING
    client_events.on_tasks_retried(world.reactor.lifecycle, two.name, ["b"])
    world.settle()
    assert (one.futures, two.futures) == ({"a": "done"}, {"b": "done"})
    two.futures["b"] = one.futures["a"] = PENDING
    client_events.on_tasks_retried(world.reactor.lifecycle, two.name, ["b"])  # a client was quicker
    client_events.on_tasks_retried(world.reactor.lifecycle, one.name, ["a", "unknown"])
    world.settle()
    assert (one.futures, two.futures) == ({"a": "done"}, {"b": "done"})


def test_a_retry_waits_for_an_input_that_is_not_known() -> None:
    world = a_world()
    (client,) = world.clients.values()
    world.join()
    world.submit(client, ["b"], [["a"]])
    for _ in range(2):
        world.settle()
        assert client.futures == {"b": "failed"}
        assert "its input a is not known" in client.errors["b"].text
        client.futures["b"] = PENDING
        client_events.on_tasks_retried(world.reactor.lifecycle, client.name, ["b"])
    world.settle()
    world.submit(client, ["a"])
    client_events.on_tasks_retried(world.reactor.lifecycle, client.name, ["b"])
    world.settle()
    assert client.futures == {"a": "done", "b": "done"}


def test_a_retry_that_needs_what_nobody_can_make_again() -> None:
    world = a_world()
    (client,) = world.clients.values()
    worker = world.join()
    client.futures["large"] = PENDING
    assert (
        client_events.on_data_put(world.reactor.lifecycle, client.name, m.Put("large", 100_000), None)
        == worker.name
    )
    worker.reactor.on_result_stored("large", Payload(value_of("large"), []))
    world.reactor.on_tasks_stored(worker.name, m.TasksStored(["large"], [100_000], [0.0]), 0.0)
    world.submit(client, ["use"], [["large"]])
    run_until(world, "use", "small", "failed")
    world.release(client, "large")
    world.settle()
    client.futures["use"] = PENDING
    client_events.on_tasks_retried(world.reactor.lifecycle, client.name, ["use"])
    world.settle()
    assert client.futures == {"use": "failed"}
    assert "was scattered" in client.errors["use"].text


def run_until(world: World, key: str, before: str, how: str) -> None:
    """Let everything run and end, and this task end otherwise than the rest."""
    while world.state.tasks[key].state != ASSIGNED or not any(key in w.running for w in world.workers.values()):
        world.round()
        for worker in world.workers.values():
            while worker.inbox:
                worker.receive()
            while worker.start():
                pass
            for one in [one for one in worker.running if one != key]:
                worker.finish(one, before)
            for command in list(worker.fetches):
                worker.end_fetch(command, reachable=True)
            while worker.outbox:
                world.hear(worker)
    for worker in world.workers.values():
        if key in worker.running:
            worker.finish(key, how)
            world.hear(worker)


def a_world() -> World:
    world = World()
    world.join_client()
    return world


def test_a_task_that_is_aside_makes_room() -> None:
    world = a_world()
    (client,) = world.clients.values()
    worker = world.join(1)
    world.submit(client, [f"t{i}" for i in range(10)])
    world.round()
    first = len(world.state.workers[worker.name].assigned)
    for i in range(first):
        client_events.on_task_seceded(world.reactor.lifecycle, worker.name, m.TaskSeceded(f"t{i}", True))
    assert world.state.workers[worker.name].threads == 1 + first
    world.round()
    assert len(world.state.workers[worker.name].assigned) > first
    world.settle("small")
    assert world.state.workers[worker.name].threads == 1


def test_a_value_that_is_put() -> None:
    world = a_world()
    (client,) = world.clients.values()
    reactor = world.reactor
    assert client_events.on_data_put(reactor.lifecycle, client.name, m.Put("small", 3), b"abc") is None
    client.futures["small"] = "done"
    worker = world.join(1)
    client.futures["large"] = PENDING
    assert client_events.on_data_put(reactor.lifecycle, client.name, m.Put("large", 100_000), None) == worker.name
    world.check()
    world.submitted["large"] = {frozenset()}
    worker.reactor.on_result_stored("large", Payload(value_of("large"), []))
    reactor.on_tasks_stored(worker.name, m.TasksStored(["large"], [100_000], [0.0]), 0.0)
    world.check()
    assert client_events.on_data_put(reactor.lifecycle, client.name, m.Put("large", 100_000), None) is None
    world.submit(client, ["use"], [["large", "small"]])
    world.lose(worker)
    assert world.state.tasks["large"].state == FAILED
    assert world.state.tasks["use"].state == FAILED
    assert "was scattered" in world.state.tasks["use"].failure.text  # type: ignore[union-attr]


def bring(world: World, name: str, key: str, client: str) -> bool:
    """A client brings a value to a worker; say whether that keeps it."""
    worker = world.workers[name]
    chosen = scattered.assign_values(world.state, [5], [name])
    if not chosen:
        return False
    ((_, order),) = chosen
    is_kept = worker.reactor.on_value_brought(key, order, Payload(value_of(key), []), client)
    worker.carry_out()
    while worker.outbox:
        world.hear(worker)
    return is_kept


def test_a_value_that_is_brought_to_a_worker() -> None:
    world = a_world()
    (client,) = world.clients.values()
    one, other = world.join(1), world.join(1)
    client.futures["value"] = PENDING
    assert bring(world, one.name, "value", client.name)
    assert not bring(world, one.name, "value", client.name)  # it is there already
    world.settle_clients()
    assert client.futures["value"] == ("stored", [one.address])
    world.submitted["value"] = {frozenset()}
    assert bring(world, other.name, "value", client.name)  # once more, elsewhere
    world.submit(client, ["use"], [["value"]])
    world.settle("small")
    assert client.futures["use"] == "done"
    assert "value" not in other.reactor.state.store
    world.release(client, "value", "use")
    world.settle("small")
    assert not one.reactor.state.store


def test_a_value_whose_client_is_gone_is_let_go_of() -> None:
    world = a_world()
    worker = world.join(1)
    bring(world, worker.name, "value", "none")
    world.settle("small")
    assert not world.state.tasks
    assert not worker.reactor.state.store


def test_values_go_where_there_are_least() -> None:
    world = a_world()
    (client,) = world.clients.values()
    workers = [world.join(1) for _ in range(3)]
    names = [worker.name for worker in workers]
    bring(world, names[0], "value", client.name)
    world.settle_clients()
    chosen = scattered.assign_values(world.state, [1] * 5, names)
    addresses = [address for address, _ in chosen]
    assert [addresses.count(worker.address) for worker in workers] == [1, 2, 2]
    assert len({order for _, order in chosen}) == 5
    assert {address for address, _ in scattered.assign_values(world.state, [1] * 2, names[:1])} == {
        workers[0].address
    }
    assert scattered.assign_values(world.state, [1] * 2, []) == []
    world.state.workers[names[1]].address = ""  # it can't be reached
    assert "" not in {address for address, _ in scattered.assign_values(world.state, [1] * 9, names)}


def test_a_value_that_nobody_can_keep() -> None:
    world = a_world()
    (client,) = world.clients.values()
    assert client_events.on_data_put(world.reactor.lifecycle, client.name, m.Put("large", 100_000), None) is None
    world.check()
    assert "no worker to keep" in world.state.tasks["large"].failure.text  # type: ignore[union-attr]


def test_everything_is_forgotten() -> None:
    world = a_world()
    (client,) = world.clients.values()
    world.join(1)
    world.submit(client, ["a", "b", "c"], [[], ["a"], ["b"]])
    world.round()
    client_events.on_restarted(world.reactor.lifecycle)
    world.check()
    assert not world.state.tasks


def test_functions_of_clients_that_are_gone_are_forgotten_and_their_tasks_run_on() -> None:
    world = World()
    first, second = world.join_client(), world.join_client()
    for name, function in ((first.name, b"own"), (first.name, b"both"), (second.name, b"both")):
        client_events.on_function_sent(world.reactor.lifecycle, name, m.DefineFunction(function, "f", b"bytes"))
    world.submit(first, ["a"], function=b"own")
    client_events.on_keys_wanted(world.reactor.lifecycle, second.name, ["a"])
    second.futures["a"] = PENDING
    world.leave_client(first)
    assert b"own" not in world.state.functions
    assert b"both" in world.state.functions
    world.settle()
    assert second.futures == {"a": "done"}
    world.leave_client(second)
    assert b"both" not in world.state.functions
    world.check_empty()


def test_functions_that_a_client_will_send_again_are_forgotten_everywhere_but_by_its_tasks() -> None:
    world = World()
    first, second = world.join_client(), world.join_client()
    function, other = FUNCTIONS
    worker = world.join(1)
    world.submit(first, ["a"], function=function)
    world.round()
    world.submit(first, ["b"], function=function)
    world.forget(first, function, b"never sent")
    assert function in world.state.functions, "the other client has sent it, too"
    world.forget(second, function)
    assert world.state.functions.keys() == {other}
    world.settle()
    assert first.futures == {"a": "done", "b": "done"}
    world.submit(second, ["c"], function=function)
    world.settle()
    assert second.futures == {"c": "done"}
    assert worker.known == {function}


def test_what_was_retried_by_somebody_else_is_told() -> None:
    world = World()
    (one, other), worker = (world.join_client(), world.join_client()), world.join()
    for client in (one, other):
        world.submit(client, ["a"])
    while "failed" not in one.futures.values():
        world.step("failed")
    for client in (one, other):
        client.futures["a"] = PENDING
        client_events.on_tasks_retried(world.reactor.lifecycle, client.name, ["a"])
        world.settle("small")
    assert one.futures == other.futures == {"a": "done"}
    assert worker.name in world.workers


def test_a_value_that_is_lost_is_not_run_when_it_is_retried() -> None:
    world = a_world()
    (client,) = world.clients.values()
    client_events.on_data_put(
        world.reactor.lifecycle, client.name, m.Put("data", 100_000), None
    )  # there is no worker to keep it
    world.submit(client, ["use"], [["data"]])
    for key in ("data", "use", "unheard of"):
        client.futures[key] = PENDING
    client_events.on_tasks_retried(world.reactor.lifecycle, client.name, ["use", "data", "unheard of"])
    world.join()
    world.settle_clients()
    assert set(client.futures.values()) == {"failed"}
    kinds = {key: failure.kind for key, failure in client.errors.items()}
    assert kinds.pop("unheard of") == "UnknownTaskError"
    assert set(kinds.values()) == {"LostResultError"}


def test_a_task_whose_inputs_are_gone_never_runs_without_them() -> None:
    world = a_world()
    (client,) = world.clients.values()
    world.join()
    world.submit(client, ["use"], [["gone"]])
    for _ in range(3):
        world.settle_clients()
        assert client.errors.pop("use").kind == "LostResultError"
        client.futures["use"] = PENDING
        client_events.on_tasks_retried(world.reactor.lifecycle, client.name, ["use"])
        world.check()
