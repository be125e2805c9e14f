"""Tasks that take much memory for what they are given: who gets them and when, and which are refused."""

from __future__ import annotations

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.errors import TooLargeError
from hpclaunch.scheduler import client_events, scattered
from hpclaunch.scheduler.function import LARGE_BYTES
from hpclaunch.scheduler.state import READY
from hpclaunch.scheduler.why import why
from tests.scheduler.world import FUNCTIONS, PENDING, FakeClient, FakeWorker, World

#: Arguments of a task that is placed by size; a worker has them twice.
LARGE = bytes(LARGE_BYTES)
#: What the world's large results count.
RESULT = 1_000_000


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> FakeClient:
    return world.join_client()


def assigned(world: World, worker: FakeWorker) -> list[str]:
    return list(world.state.workers[worker.name].assigned)


def run(world: World, how: str = "small", steps: int = 100) -> None:
    """Let everything come to rest, with the workers that there are."""
    for _ in range(steps):
        if not world.step(how):
            return
        world.tick()


def make_results(world: World, client: FakeClient, *keys: str) -> None:
    world.submit(client, keys)
    run(world, "large")
    assert all(client.futures[key][0] == "stored" for key in keys)


def test_large_arguments_go_to_a_worker_as_it_has_room_for_them(world: World, client: FakeClient) -> None:
    worker = world.join(threads=4, memory=5 * LARGE_BYTES)
    world.submit(client, ["a", "b", "c"], args=LARGE)
    world.round()
    assert assigned(world, worker) == ["a", "b"]
    run(world)
    assert set(client.futures.values()) == {"done"}


def test_small_tasks_pass_those_that_wait_for_room(world: World, client: FakeClient) -> None:
    worker = world.join(threads=4, memory=3 * LARGE_BYTES)
    world.submit(client, ["a", "b"], args=LARGE)
    world.submit(client, ["small"])
    world.round()
    assert assigned(world, worker) == ["a", "small"]


def test_large_arguments_spread_over_workers(world: World, client: FakeClient) -> None:
    workers = [world.join(threads=4, memory=3 * LARGE_BYTES) for _ in range(3)]
    world.submit(client, ["a", "b", "c"], args=LARGE)
    world.round()
    assert [len(assigned(world, worker)) for worker in workers] == [1, 1, 1]


def test_a_worker_without_a_limit_takes_any(world: World, client: FakeClient) -> None:
    worker = world.join(threads=4)
    world.submit(client, ["a", "b", "c"], args=LARGE)
    world.round()
    assert len(assigned(world, worker)) == 3


def test_arguments_that_fit_no_worker_are_refused_with_sizes(world: World, client: FakeClient) -> None:
    world.join(memory=LARGE_BYTES)
    world.submit(client, ["large", "other"], args=LARGE)
    world.submit(client, ["small"])
    run(world)
    assert client.futures == {"large": "failed", "other": "failed", "small": "done"}
    error = client.errors["large"]
    assert error.kind == "TooLargeError"
    assert "4 MB of arguments" in error.text
    assert "has a limit of 4 MB" in error.text


def test_the_older_and_larger_is_not_overtaken_for_ever(world: World, client: FakeClient) -> None:
    """Younger tasks by size would keep the worker busy: what is reserved goes to the oldest."""
    worker = world.join(threads=2, memory=5 * LARGE_BYTES)
    world.submit(client, ["first"], args=LARGE)
    world.round()
    world.submit(client, ["whole"], args=LARGE * 2, function=FUNCTIONS[1])
    world.submit(client, [f"k{i}" for i in range(20)], args=LARGE)
    for _ in range(20):
        world.step()
        if client.futures["whole"] == "done":
            break
        world.tick()
    assert client.futures["whole"] == "done"
    assert PENDING in client.futures.values()
    run(world)
    assert set(client.futures.values()) == {"done"}
    assert worker.name in world.workers


def test_large_inputs_are_placed_by_size_too(world: World, client: FakeClient) -> None:
    make = world.join(threads=8)
    make_results(world, client, "a", "b", "c")
    world.drain(make)
    worker = world.join(threads=8, memory=5 * RESULT)
    world.submit(client, ["ab", "bc", "ca"], [["a", "b"], ["b", "c"], ["c", "a"]])
    world.round()
    assert assigned(world, worker) == ["ab"]
    run(world)
    assert [client.futures[key] for key in ("ab", "bc", "ca")] == ["done"] * 3


def test_many_inputs_of_quick_tasks_are_not_sent_for_all_at_once(world: World, client: FakeClient) -> None:
    """Each is small for the worker; a hundred of them are not, however quick their function is known to be."""
    make = world.join(threads=8)
    keys = [f"k{i}" for i in range(100)]
    make_results(world, client, *keys)
    world.submit(client, ["one"], [["k0"]], function=FUNCTIONS[1])
    run(world)
    world.drain(make)
    worker = world.join(memory=10 * RESULT)
    world.submit(client, [f"use-{key}" for key in keys], [[key] for key in keys], function=FUNCTIONS[1])
    world.round()
    assert 0 < len(assigned(world, worker)) <= 5
    run(world, steps=1000)
    assert all(client.futures[f"use-{key}"] == "done" for key in keys)


def test_inputs_that_together_fit_no_worker_are_refused_with_sizes(world: World, client: FakeClient) -> None:
    workers = [world.join(memory=2 * RESULT) for _ in range(2)]
    make_results(world, client, "a", "b", "c")
    world.submit(client, ["all"], [["a", "b", "c"]])
    world.submit(client, ["after"], [["all"]])
    run(world)
    assert client.futures["all"] == client.futures["after"] == "failed"
    text = client.errors["all"].text
    assert "3 inputs of 3 MB together" in text
    assert "has a limit of 2 MB" in text
    assert all(not assigned(world, worker) for worker in workers)


def test_small_results_count_as_inputs(world: World, client: FakeClient) -> None:
    world.join(memory=1000)
    keys = [f"k{i}" for i in range(100)]
    world.submit(client, keys)
    run(world)
    world.submit(client, ["all"], [keys])
    run(world)
    assert "100 inputs" in client.errors["all"].text


def test_what_fits_a_worker_that_may_come_waits_for_it(world: World, client: FakeClient) -> None:
    world.coming = [LARGE_BYTES, 4 * LARGE_BYTES]
    world.join(memory=LARGE_BYTES)
    world.submit(client, ["large", "other"], args=LARGE)
    run(world)
    assert client.futures == {"large": PENDING, "other": PENDING}
    assert len(world.warnings) == 1
    assert "waits for one that has" in world.warnings[0]
    text = why(world.state, "large", world.now)
    assert "the task is given 8 MB, and it has 4 MB free for that at most" in text
    large = world.join(memory=4 * LARGE_BYTES)
    run(world)
    assert set(client.futures.values()) == {"done"}
    assert large.name in world.workers


def test_workers_of_the_same_limit_that_may_come_change_nothing(world: World, client: FakeClient) -> None:
    world.coming = [3 * LARGE_BYTES]
    worker = world.join(memory=3 * LARGE_BYTES)
    world.state.workers[worker.name].room = LARGE_BYTES  # its process has the rest already
    world.submit(client, ["large"], args=LARGE)
    run(world)
    assert client.futures["large"] == "failed"


def test_only_workers_that_a_task_may_use_count(world: World, client: FakeClient) -> None:
    world.join(memory=4 * LARGE_BYTES, name="roomy")
    world.join(memory=LARGE_BYTES, name="small")
    world.submit(client, ["large"], args=LARGE, terms=m.Terms(workers=["small"]))
    world.submit(client, ["either"], args=LARGE, terms=m.Terms(workers=["small"], allow_others=True))
    run(world)
    assert client.futures == {"large": "failed", "either": "done"}


def test_nothing_is_refused_before_a_worker_has_come(world: World, client: FakeClient) -> None:
    world.submit(client, ["large"], args=LARGE)
    run(world)
    assert world.state.tasks["large"].state == READY
    world.join(memory=3 * LARGE_BYTES)
    run(world)
    assert client.futures["large"] == "done"


def test_a_task_that_waits_for_others_leaves_its_room_to_them(world: World, client: FakeClient) -> None:
    worker = world.join(memory=3 * LARGE_BYTES)
    world.submit(client, ["parent"], args=LARGE)
    world.round()
    client_events.on_task_seceded(world.reactor.lifecycle, worker.name, m.TaskSeceded("parent", away=True))
    world.submit(client, ["child"], args=LARGE)
    world.round()
    assert assigned(world, worker) == ["parent", "child"]


def test_the_order_of_one_message_stays(world: World, client: FakeClient) -> None:
    """A message is cut where large arguments begin and end, and its columns with it."""
    world.join()
    world.submit(client, ["a"])
    run(world, "large")
    args = [b"", LARGE, LARGE, b"", LARGE]
    keys = ["k0", "k1", "k2", "k3", "k4"]
    for key in keys:
        world.submitted.setdefault(key, set()).update([frozenset(["a"]), frozenset()])
        client.futures[key] = PENDING
    inputs = [["a"], [], ["a"], [], ["a"]]
    world.reactor.on_tasks_submitted(client.name, m.SubmitTasks(FUNCTIONS[0], keys, args, inputs))
    world.check()
    tasks = [world.state.tasks[key] for key in keys]
    assert [task.order for task in tasks] == sorted(task.order for task in tasks)
    assert [task.args for task in tasks] == args
    assert [[source.key for source in task.inputs] for task in tasks] == inputs
    assert [task.requirements is not None and task.requirements.by_size for task in tasks] == [
        len(one) > 0 for one in args
    ]
    run(world)
    assert all(client.futures[key] == "done" for key in keys)


def test_a_loss_counts_for_a_task_that_received_much(world: World, client: FakeClient) -> None:
    """Its worker never ran it; after four of them it is given up, and what waited there is not."""
    world.submit(client, ["large"], args=LARGE)
    world.submit(client, ["small"])
    for _ in range(4):
        worker = world.join(threads=2)
        world.round()
        assert set(assigned(world, worker)) == {"large", "small"}
        world.lose(worker, receiving=["large", "small"], how="it died while it received what large needs")
    assert client.futures["small"] == PENDING
    world.settle_clients()
    assert client.futures["large"] == "failed"
    assert "4 workers died while they ran task large (f), or received what it needs" in client.errors["large"].text
    run(world)
    world.join()
    run(world)
    assert client.futures["small"] == "done"


def test_values_go_to_workers_that_have_room_for_them(world: World, client: FakeClient) -> None:
    small, large = world.join(memory=100), world.join(memory=1000)
    names = [small.name, large.name]
    chosen = scattered.assign_values(world.state, [500, 50, 500], names)
    assert [address for address, _ in chosen] == [large.address, small.address, large.address]
    with pytest.raises(TooLargeError, match="a value of 0 MB is to be put on a worker"):
        scattered.assign_values(world.state, [50, 5000], names)
    client.futures["value"] = PENDING
    assert client_events.on_data_put(world.reactor.lifecycle, client.name, m.Put("value", 5000), None) is None
    world.settle_clients()
    assert client.errors["value"].kind == "TooLargeError"
    client.futures["other"] = PENDING
    assert client_events.on_data_put(world.reactor.lifecycle, client.name, m.Put("other", 500), None) == large.name
