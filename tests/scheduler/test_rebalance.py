"""Results are spread evenly over workers, and none is lost on the way."""

from __future__ import annotations

from hypothesis import given, strategies as st

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import invariants
from hpclaunch.scheduler.function import Function
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.rebalance import TOLERANCE, Move, free_moved, plan
from hpclaunch.scheduler.state import DONE, SchedulerState, Task, Worker

FUNCTION = Function(m.DefineFunction(b"f", "f", b""))


def state_of(*held: dict[str, int], memory: tuple[int, ...] = ()) -> SchedulerState:
    """Return a state whose workers w0, w1... hold results of these sizes, all of them wanted by a client."""
    reactor = Reactor()
    reactor.on_client_joined("c")
    state = reactor.state
    client = state.clients["c"]
    for i, results in enumerate(held):
        worker = Worker(f"w{i}", "job", 1, memory_limit=memory[i] if memory else 0)
        reactor.on_worker_joined(worker, 0.0)
        for key, size in results.items():
            task = state.tasks.get(key)
            if task is None:
                task = state.tasks[key] = client.wants[key] = Task(key, FUNCTION, b"", 0, client.alone, 0)
                task.state, task.size, task.holders = DONE, size, {}
            assert task.holders is not None
            task.holders[worker] = None
            worker.holds[key] = task
    invariants.check(state)
    return state


def apply(state: SchedulerState, moves: list[Move]) -> None:
    """Let every taker have its copy, and the givers release theirs."""
    for key, _, taker in moves:
        task, worker = state.tasks[key], state.workers[taker]
        assert task.holders is not None
        assert worker not in task.holders, "it was given what it had"
        task.holders[worker] = None
        worker.holds[key] = task
    free_moved(state, moves)
    invariants.check(state)


def held(state: SchedulerState) -> list[int]:
    return [sum(task.size for task in worker.holds.values()) for worker in state.workers.values()]


def names(state: SchedulerState) -> list[str]:
    return list(state.workers)


def test_one_that_has_all_shares_with_those_that_have_nothing() -> None:
    state = state_of({f"k{i}": 100 for i in range(9)}, {}, {})
    apply(state, plan(state, names(state)))
    assert held(state) == [300, 300, 300]
    assert plan(state, names(state)) == []


def test_shares_are_of_memory() -> None:
    state = state_of({f"k{i}": 100 for i in range(12)}, {}, memory=(1000, 2000))
    apply(state, plan(state, names(state)))
    assert held(state) == [400, 800]


def test_what_can_not_be_better_stays() -> None:
    assert plan(state_of({"one": 500}, {}), ["w0", "w1"]) == []
    assert plan(state_of({"a": 100}, {"b": 100}), ["w0", "w1"]) == []
    assert plan(state_of({"a": 100, "b": 100}, {"a": 100, "b": 100}, {}), ["w0", "w1"]) == []
    assert plan(state_of(), []) == []
    assert plan(state_of({}, {}), ["w0", "w1", "gone"]) == []


def test_only_these_results_and_only_between_these_workers() -> None:
    state = state_of({"a": 100, "b": 100, "c": 100, "d": 100}, {}, {})
    assert plan(state, names(state), {"b"}) == [Move("b", "w0", "w1")]
    assert {move.taker for move in plan(state, ["w0", "w2"])} == {"w2"}


def test_actors_stay_and_a_paused_worker_gets_nothing() -> None:
    state = state_of({"a": 100, "b": 100, "actor": 100}, {}, {})
    state.tasks["actor"].actor = 0
    state.workers["w1"].refuses = 1
    state.index(state.workers["w1"])
    moves = plan(state, names(state))
    assert moves
    assert {move.taker for move in moves} == {"w2"}
    assert "actor" not in {move.key for move in moves}


def test_who_has_no_copy_yet_leaves_the_old_holder_its_own() -> None:
    state = state_of({"a": 100, "b": 100}, {})
    (move,) = plan(state, names(state))
    assert free_moved(state, [move]) == []
    del state.workers[move.taker]
    assert free_moved(state, [move, Move("unknown", "w0", "w0")]) == []
    assert held(state) == [200]


@given(
    st.lists(st.dictionaries(st.sampled_from([f"k{i}" for i in range(12)]), st.just(0)), min_size=1, max_size=6),
    st.lists(st.integers(1, 1000), min_size=12, max_size=12),
)
def test_nothing_is_lost_and_the_fullest_never_has_more(some: list[dict[str, int]], sizes: list[int]) -> None:
    state = state_of(*({key: sizes[int(key[1:])] for key in one} for one in some))
    before, copies = held(state), {key: len(task.holders or ()) for key, task in state.tasks.items()}
    apply(state, plan(state, names(state)))
    after = held(state)
    assert {key: len(task.holders or ()) for key, task in state.tasks.items()} == copies
    assert sum(after) == sum(before)
    assert max(after) <= max(before)
    mean = sum(after) / len(after)
    assert max(after) - min(after) <= max(max(before) - min(before), mean * TOLERANCE)
