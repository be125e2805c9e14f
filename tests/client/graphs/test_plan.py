"""Graphs: plain dicts as Dask documents them, and Dask's own collections, through ``client.get``."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from hpclaunch.client.client import Client
from hpclaunch.client.graphs import plan as graph
from hpclaunch.comm import serialize
from tests.client import work
from tests.client.conftest import until

dask = pytest.importorskip("dask")

Get = Callable[[Any, Any], Any]


def run_plan(dsk: Any, keys: Any) -> Any:
    """Carry out a plan here, through the real pickles, in the order in which it is submitted."""
    plan = graph.plan(dsk, keys, run="r")
    results: dict[str, bytes] = {}
    for batch in plan.batches:
        function = serialize.load_value(batch.function.data)
        for key, args, inputs in zip(batch.keys, batch.args, batch.inputs, strict=True):
            assert key not in results
            assert set(inputs) <= results.keys(), "it is submitted before its inputs"
            call, kwargs = serialize.load_call(args, {one: results[one] for one in inputs})
            results[key] = serialize.dump_inline(function(*call, **kwargs))
    values = {key: serialize.load_value(results[name]) for key, name in plan.wanted.items()}
    return graph.rebuild(keys, values)


@pytest.fixture(params=["here", "on the cluster"])
def get(request: pytest.FixtureRequest, client: Client) -> Get:
    return run_plan if request.param == "here" else client.get


def load(name: str) -> list[int]:
    return [len(name)]


def clean(data: list[int]) -> list[int]:
    return [x * 10 for x in data]


def analyze(sequence: list[list[int]]) -> int:
    return sum(x for data in sequence for x in data)


def store(result: int) -> str:
    return f"stored {result}"


LOAD_CLEAN_ANALYZE_STORE = {
    "load-1": (load, "a.csv"),
    "load-2": (load, "bb.csv"),
    "load-3": (load, "ccc.csv"),
    "clean-1": (clean, "load-1"),
    "clean-2": (clean, "load-2"),
    "clean-3": (clean, "load-3"),
    "analyze": (analyze, [f"clean-{i}" for i in [1, 2, 3]]),
    "store": (store, "analyze"),
}


def test_the_pipeline_of_the_documentation(get: Get) -> None:
    assert get(LOAD_CLEAN_ANALYZE_STORE, "store") == "stored 180"


@pytest.mark.parametrize(
    ("dsk", "keys", "expected"),
    [
        pytest.param({"x": 1}, "x", 1, id="value"),
        pytest.param({"x": 1, "y": "x", "z": "y"}, ["z", "x"], [1, 1], id="alias"),
        pytest.param(
            {"x": 1, "y": (add, "x", 2)}, [["y"], ["x", ["y"]], []], [[3], [1, [3]], []], id="nested keys"
        ),
        pytest.param({("a", 0): 1, ("a", 1): (add, ("a", 0), 10)}, ("a", 1), 11, id="tuples"),
        pytest.param({1: 10, "1": 20, ("x", 1): (add, 1, "1")}, [("x", 1), 1, "1"], [30, 10, 20], id="1 and '1'"),
        pytest.param({1.5: 1, b"b": 2, "s": (add, 1.5, b"b")}, "s", 3, id="odd keys"),
        pytest.param({"x": (add, (add, 1, 2), (add, 3, 4))}, "x", 10, id="nested calls"),
        pytest.param({"a": 1, "x": (sum, ["a", (add, "a", 1), [3][0]])}, "x", 6, id="call in list"),
        pytest.param({"a": 1, "x": (work.same, {"k": "a"})}, "x", {"k": "a"}, id="dict"),
        pytest.param({"a": 1, "x": (work.same, ["a", {"k": ["a"]}])}, "x", [1, {"k": ["a"]}], id="dict in list"),
        pytest.param({"a": 1, "x": (work.same, ("a", "b"))}, "x", (1, "b"), id="tuple"),
        pytest.param({"a": 1, "x": (work.same, {"a"})}, "x", {1}, id="set"),
        pytest.param({"a": 1, "x": ["a", ["a", 2]]}, "x", [1, [1, 2]], id="list of keys"),
        pytest.param({"a": "text", "x": (work.same, "no key")}, ["x", "a"], ["no key", "text"], id="text"),
        pytest.param({"x": (dict,)}, "x", {}, id="no arguments"),
        pytest.param({"x": (work.same, [])}, "x", [], id="empty list"),
        pytest.param({"a": None, "x": (work.same, "a")}, "x", None, id="none"),
        pytest.param({"é ☃\n'": 1, "x": (add, "é ☃\n'", 1)}, "x", 2, id="unicode"),
        pytest.param({"k" * 5000: 1, "k" * 5000 + "2": (add, "k" * 5000, 1)}, "k" * 5000 + "2", 2, id="long"),
        pytest.param({"a": 1, "unused": (work.fail,)}, "a", 1, id="unused"),
    ],
)
def test_graphs(get: Get, dsk: Any, keys: Any, expected: Any) -> None:
    assert get(dsk, keys) == expected


def test_a_graph_is_not_changed(get: Get) -> None:
    dsk = dict(LOAD_CLEAN_ANALYZE_STORE)
    get(dsk, "store")
    assert dsk == LOAD_CLEAN_ANALYZE_STORE


def test_a_missing_key(get: Get) -> None:
    with pytest.raises(KeyError, match="the graph has no task 'y'"):
        get({"x": 1}, ["x", "y"])


@pytest.mark.parametrize(
    "dsk",
    [
        {"x": (work.same, "x")},
        {"x": (work.same, "y"), "y": (work.same, "x")},
        {"x": (work.same, "a"), "a": (work.same, "b"), "b": (add, 1, "c"), "c": (work.same, "a")},
        {"x": "x"},
    ],
)
@pytest.mark.parametrize("with_dask", [True, False])
def test_a_cycle(dsk: Any, with_dask: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_dask:
        monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ValueError, match=r"[Cc]ycle"):
        run_plan(dsk, "x")


def test_without_dask_plain_graphs_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    assert run_plan(LOAD_CLEAN_ANALYZE_STORE, "store") == "stored 180"


def test_each_task_of_a_graph_runs_once(client: Client, tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    dsk = {
        "a": (work.note, notes, 1),
        "b": (add, "a", 1),
        "c": (add, "a", 2),
        "d": (add, "b", "c"),
    }
    assert client.get(dsk, ["d", "a", "d"]) == [5, 1, 5]
    assert work.times_called(notes) == 1


def test_two_runs_of_a_graph_do_not_mix(client: Client) -> None:
    assert [client.get({"x": (add, 1, i)}, "x") for i in range(5)] == [1, 2, 3, 4, 5]


def test_an_error_in_a_graph(client: Client) -> None:
    dsk = {"a": (work.fail, "in the graph"), "b": (work.inc, "a"), "c": (work.inc, "b")}
    with pytest.raises(ValueError, match="in the graph") as caught:
        client.get(dsk, "c")
    assert "in fail" in str(caught.value.__cause__)


@pytest.mark.slow
def test_a_deep_graph(client: Client) -> None:
    dsk: dict[Any, Any] = {("x", 0): 0}
    dsk.update({("x", i): (work.inc, ("x", i - 1)) for i in range(1, 2000)})
    assert client.get(dsk, ("x", 1999)) == 1999


def test_intermediate_results_go_as_a_graph_is_worked_off(client: Client) -> None:
    dsk: dict[Any, Any] = {f"big-{i}": (work.big, 200_000) for i in range(30)}
    dsk.update({f"length-{i}": (work.length, f"big-{i}") for i in range(30)})
    dsk["total"] = (sum, [f"length-{i}" for i in range(30)])
    assert client.get(dsk, "total") == 30 * 200_000
    until(lambda: client.scheduler_info()["tasks"] == 0)


@st.composite
def random_graph(draw: st.DrawFn) -> dict[Any, Any]:
    rng = random.Random(draw(st.integers(0, 10_000)))
    keys: list[Any] = [f"k{i}" if rng.random() < 0.5 else ("k", i) for i in range(draw(st.integers(1, 30)))]
    dsk: dict[Any, Any] = {}
    for i, key in enumerate(keys):
        some = [keys[rng.randrange(i)] for _ in range(rng.randrange(4))] if i else []
        dsk[key] = rng.choice([(sum, [*some, i]), (max, [[*some, i, 0], [0]][0]), i, (add, (sum, some), i)])
    items = list(dsk.items())
    rng.shuffle(items)
    return dict(items)


@given(random_graph(), st.booleans())
def test_any_graph_gives_what_dask_gives(dsk: dict[Any, Any], with_dask: bool) -> None:
    keys = list(dsk)
    expected = list(dask.get(dsk, keys))
    with pytest.MonkeyPatch.context() as patch:
        if not with_dask:
            patch.setitem(sys.modules, "dask", None)
        assert run_plan(dsk, keys) == expected


def test_tasks_of_one_kind_share_a_function_and_its_run_time() -> None:
    plan = graph.plan(LOAD_CLEAN_ANALYZE_STORE, "store", run="r")
    assert {batch.function.name for batch in plan.batches} == {"load", "clean", "analyze", "store"}


# --- Dask's collections


def test_dask_delayed(client: Client) -> None:
    inc = dask.delayed(work.inc)
    total = dask.delayed(sum)([inc(i) for i in range(10)])
    assert total.compute(scheduler=client.get) == 55
    assert dask.compute(total, inc(1), scheduler=client.get) == (55, 2)
    with pytest.raises(ValueError, match="bad input"):
        dask.delayed(work.fail)().compute(scheduler=client.get)


def test_dask_array(client: Client) -> None:
    import dask.array as da

    x = da.random.default_rng(1).random((200, 200, 10), chunks=(100, 100, 5))
    y = da.random.default_rng(2).random((200, 200, 10), chunks=(100, 100, 5))
    z = (np.arcsin(x) + np.arccos(y)).sum(axis=(1, 2))
    result = z.compute(scheduler=client.get)
    np.testing.assert_allclose(result, z.compute(scheduler="sync"))
    with dask.config.set(scheduler=client.get):
        assert da.arange(1000, chunks=10).sum().compute() == 499_500
        np.testing.assert_array_equal(da.ones((100, 100), chunks=10).T.compute(), np.ones((100, 100)))


def test_dask_array_with_large_chunks(client: Client) -> None:
    import dask.array as da

    x = da.ones((1000, 1000), chunks=(500, 500))
    assert (x @ x.T).sum().compute(scheduler=client.get) == 1e9
    y = x.persist(scheduler=client.get)
    assert y.sum().compute(scheduler=client.get) == 1e6


def test_dask_bag(client: Client, tmp_path: Path) -> None:
    db = pytest.importorskip("dask.bag")
    assert db.from_sequence(range(10)).map(work.inc).compute(scheduler=client.get) == list(range(1, 11))
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("to be or not\nto be\n" * (i + 1))
    words = db.read_text(str(tmp_path / "*.txt")).str.split().flatten()
    counts = dict(words.frequencies().compute(scheduler=client.get))
    assert counts == {"to": 12, "be": 12, "or": 6, "not": 6}
    assert db.from_sequence(range(100)).filter(lambda x: x % 2).sum().compute(scheduler=client.get) == 2500


@pytest.mark.slow
def test_dask_dataframe(client: Client) -> None:
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame({"a": range(100), "b": [i % 3 for i in range(100)]})
    lazy = dd.from_pandas(frame, npartitions=4)
    assert lazy[lazy.a > 10].groupby("b").a.sum().compute(scheduler=client.get).sum() == sum(range(11, 100))


def test_dask_does_not_order_a_large_graph_in_which_all_hangs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    dask_order = pytest.importorskip("dask.order")
    layers = [[f"x-{level}-{i}" for i in range(10)] for level in range(5)]
    inputs: dict[Any, list[Any]] = {key: [] for key in layers[0]}
    for before, after in itertools.pairwise(layers):
        inputs |= {key: [before[i], before[i - 1], before[i - 2]] for i, key in enumerate(after)}
    asked: list[int] = []
    order = dask_order.order
    monkeypatch.setattr(dask_order, "order", lambda *args, **named: asked.append(1) or order(*args, **named))
    for limit, times in ((100, 1), (1, 0)):
        asked.clear()
        monkeypatch.setattr(graph, "_SMALL", 10)
        monkeypatch.setattr(graph, "_ROOTS_PER_TASK", limit)
        keys = graph._order(dict.fromkeys(inputs, 0), inputs)
        assert len(asked) == times
        assert sorted(keys) == sorted(inputs)
        assert all(keys.index(one) < keys.index(key) for key in inputs for one in inputs[key])


# --- names that mean other work than before


def test_large_results_under_a_name_of_quick_work_are_not_all_made_ahead(client: Client, tmp_path: Path) -> None:
    quick: dict[str, Any] = {f"part-{i}": (work.inc, i) for i in range(3000)}
    assert client.get(quick | {"all": (sum, list(quick))}, "all") == sum(range(3001))
    gate, calls = tmp_path / "gate", tmp_path / "calls"
    parts: dict[str, Any] = {f"part-{i}": (work.large_at_first, 20, str(calls), str(gate)) for i in range(100)}
    sizes = {f"size-{i}": (work.length, f"part-{i}") for i in range(100)}
    ends = client.get(parts | sizes, list(sizes), sync=False)
    try:
        # 50 go to each worker at once, and one of them ends at least ten of the large ones. Then most of what it
        # has is taken back, and it gets no more of them, though neither is idle. All that is left has to wait.
        until(lambda: calls.exists() and work.times_called(calls) >= 22, "the end of the large ones")
        until(lambda: min(len(keys) for keys in client.processing().values()) <= 8, "taking back")
        assert sum(end.done() for end in ends) <= 20
    finally:
        gate.touch()
    assert sorted(client.gather(ends)) == [2] * 80 + [4_000_000] * 20
