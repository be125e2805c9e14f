"""Dask's collections on our client: compute, persist, and as Dask's default."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import hpclaunch
from hpclaunch import futures_of, progress, wait
from hpclaunch.client.client import Client
from hpclaunch.client.futures.future import Future
from hpclaunch.errors import UserError
from tests.client import work
from tests.comm.minihead import MiniCluster

if TYPE_CHECKING:
    import dask
    import dask.array as da
    import dask.bag as db
    import dask.dataframe as dd
    import pandas as pd

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _dask() -> None:
    """Import Dask for the first test: every process of the tests reads this file, and few run tests of it."""
    names = {"dask": "dask", "da": "dask.array", "db": "dask.bag", "dd": "dask.dataframe", "pd": "pandas"}
    globals().update({short: pytest.importorskip(name) for short, name in names.items()})


@pytest.fixture
def frame() -> Any:
    return pd.DataFrame({"a": range(100), "b": [i % 3 for i in range(100)], "c": ["x", "y"] * 50})


# --- compute


@pytest.mark.parametrize("optimize_graph", [True, False])
def test_compute_gives_a_future_of_the_value(client: Client, optimize_graph: bool) -> None:
    x = da.arange(100, chunks=10)
    future = client.compute(x.sum(), optimize_graph=optimize_graph)
    assert isinstance(future, Future)
    assert future.result(30) == 4950
    whole = client.compute(x + 1, optimize_graph=optimize_graph).result(30)
    np.testing.assert_array_equal(whole, np.arange(100) + 1)


def test_compute_several(client: Client, frame: Any) -> None:
    lazy = dask.delayed(work.inc)(1)
    futures = client.compute([da.ones(10, chunks=5).sum(), lazy, 7, db.from_sequence(range(5)).sum()])
    assert futures[2] == 7
    assert client.gather([futures[0], futures[1], futures[3]]) == [10, 2, 10]
    assert client.compute((lazy, "plain"), sync=True) == [2, "plain"]
    assert client.compute(lazy, sync=True) == 2


def test_compute_a_frame(client: Client, frame: Any) -> None:
    lazy = dd.from_pandas(frame, npartitions=4)
    result = client.compute(lazy[lazy.a > 10].groupby(["b", "c"]).a.sum()).result(30)
    expected = frame[frame.a > 10].groupby(["b", "c"]).a.sum()
    pd.testing.assert_series_equal(result.sort_index(), expected, check_dtype=False, check_index_type=False)


def test_futures_inside_dask(client: Client) -> None:
    future = client.submit(work.inc, 1)
    assert dask.delayed(work.add)(future, 5).compute() == 7
    large = client.submit(np.ones, 50_000)
    x = da.from_delayed(dask.delayed(large), (50_000,), float)
    assert x.sum().compute() == 50_000


# --- persist


def test_persist_an_array(client: Client, tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    x = da.ones((400, 400), chunks=200).map_blocks(lambda block: work.note(notes, block + 1))
    calls = work.times_called(notes)
    kept = client.persist(x)
    assert kept.sum().compute() == 320_000
    assert (kept @ kept).max().compute() == 1600
    assert work.times_called(notes) - calls == 4
    again = kept.persist()
    assert again.mean().compute() == 2
    assert client.scheduler_info()["tasks"] <= 8


def test_persist_a_frame_and_a_bag(client: Client, frame: Any) -> None:
    lazy = dd.from_pandas(frame, npartitions=4)
    kept, bag = client.persist([lazy[lazy.b == 1], db.from_sequence(range(10), npartitions=3).map(work.inc)])
    assert len(kept) == 33
    assert kept.a.max().compute() == 97
    assert bag.sum().compute() == 55
    assert dask.delayed(work.inc)(1).persist().compute() == 2


# --- the default


def test_the_newest_client_is_dasks_default(client: Client, cluster: MiniCluster) -> None:
    x = da.arange(10, chunks=5).map_blocks(lambda block: block * 0 + work.pid(), dtype=int)
    pids = set(client.gather(client.map(lambda _: work.pid(), range(50))))
    assert set(x.compute()) <= pids
    with Client(cluster.directory, set_as_default=False) as other:
        assert not other.futures
        with other.as_default():
            kept = x.persist()
            assert other.futures
            del kept
        y = x.persist()
        assert set(y.compute()) <= pids
    client.close()
    assert dask.config.get("scheduler", None) is None


def test_what_dask_was_told_before_comes_back(cluster: MiniCluster) -> None:
    with dask.config.set(scheduler="synchronous"):
        with Client(cluster.directory):
            assert dask.delayed(work.pid)().compute() != dask.delayed(work.pid)().compute(scheduler="sync")
        assert dask.config.get("scheduler") == "synchronous"


def test_other_schedulers_by_name(client: Client) -> None:
    assert dask.delayed(work.pid)().compute(scheduler="sync") == work.pid()
    assert dask.delayed(work.pid)().compute(scheduler=client) != work.pid()


def test_dask_may_be_imported_later(cluster: MiniCluster) -> None:
    program = f"""
        import os, sys
        from hpclaunch import Client
        with Client({str(cluster.directory)!r}) as client:
            assert "dask" not in sys.modules
            import dask
            assert dask.delayed(os.getpid)().compute() != os.getpid()
        assert dask.delayed(os.getpid)().compute() == os.getpid()
        with Client({str(cluster.directory)!r}, set_as_default=False) as client:
            assert dask.delayed(os.getpid)().compute() == os.getpid()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)


# --- what is wished for a graph's tasks


def fail_twice_there(path: str) -> int:
    work.note(path)
    if work.times_called(path) < 3:
        raise ValueError("not yet")
    return 7


def test_retries_reach_each_way_of_computing(client: Client, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"calls{i}") for i in range(6)]
    fail_twice = dask.delayed(fail_twice_there)
    assert client.compute(fail_twice(paths[0]), retries=2).result(20) == 7
    assert client.persist(fail_twice(paths[1]), retries=2).compute() == 7
    with client.as_default():
        assert fail_twice(paths[2]).compute(retries=2) == 7
        assert dask.compute(fail_twice(paths[3]), scheduler=client.get, retries=2) == (7,)
        with pytest.raises(ValueError, match="not yet"):
            fail_twice(paths[4]).compute(retries=1)
        with dask.annotate(retries=2):
            assert fail_twice(paths[5]).compute() == 7


def test_annotations_belong_to_their_tasks(client: Client, tmp_path: Path) -> None:
    first, second = list(client.nthreads())
    with dask.annotate(workers=[first], retries=2):
        here = dask.delayed(work.worker_name)()
        stubborn = dask.delayed(fail_twice_there)(str(tmp_path / "calls"))
    with dask.annotate(workers=second):
        there = dask.delayed(work.worker_name)()
    with dask.annotate(resources={"no such thing": 1}):
        never = client.compute(dask.delayed(work.inc)(1))
    assert client.gather(client.compute([here, there, stubborn])) == [first, second, 7]
    assert "no such thing" in client.why(never)
    with dask.annotate(workers=[second]):
        blocks = da.ones(4, chunks=1).map_blocks(lambda block: np.array([work.worker_name()]), dtype="U20")
    assert set(client.compute(blocks, optimize_graph=False).result(20)) == {second}


def test_workers_reach_the_tasks_of_a_graph(client: Client) -> None:
    for name in client.nthreads():
        lazy = [dask.delayed(work.worker_name)() for _ in range(4)]
        assert set(client.gather(client.compute(lazy, workers=name))) == {name}
        assert set(dask.compute(*client.persist(lazy, workers=[name]))) == {name}
        assert client.get({"x": (work.worker_name,)}, "x", workers=[name]) == name
    with pytest.raises(UserError, match="actors= is not there for graphs"):
        client.compute(dask.delayed(work.inc)(1), actors=True)
    with pytest.raises(UserError, match="actors= is not there for graphs"):
        client.compute(lazy := dask.delayed(work.inc)(1), actors=lazy)


def test_collections_inside_lists_and_dicts(client: Client) -> None:
    x = da.ones(10, chunks=5)
    future = client.compute({"x": [x.sum(), 1], "y": "text"})
    assert future.result(20) == {"x": [10, 1], "y": "text"}
    assert client.compute([[x.sum()], {"z": 3}], sync=True) == [[10], {"z": 3}]


def test_waiting_for_what_was_persisted(client: Client) -> None:
    x, lazy = client.persist([da.ones(10, chunks=5), hpclaunch.delayed(work.inc)(1)])
    held = futures_of([x, lazy, 5, None])
    assert len(held) == 3
    done, not_done = wait([x, lazy])
    assert done == set(held)
    assert not not_done
    assert futures_of(da.ones(10, chunks=5)) == []
    progress(x, transient=True)
    client.cancel(x)
    assert futures_of(da.Array) == []


class Tally:
    """A target to store into: fails if two blocks are written at once, by whatever processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __setitem__(self, where: Any, block: Any) -> None:
        with (self.path / "writing").open("x"):
            time.sleep(0.01)
            (self.path / f"{where[0].start}").write_text(str(block.sum()))
        (self.path / "writing").unlink()


def test_what_is_stored_from_several_processes_is_guarded(client: Client, tmp_path: Path) -> None:
    from dask.base import get_scheduler
    from dask.utils import SerializableLock, get_scheduler_lock

    array = da.ones((12, 2), chunks=(1, 2))
    da.store(array, Tally(tmp_path))
    da.store(array, Tally(tmp_path), scheduler=client.get)
    assert sorted(int(one.name) for one in tmp_path.iterdir()) == list(range(12))
    assert isinstance(get_scheduler_lock(scheduler="threads"), SerializableLock)
    assert get_scheduler() is not None


def test_frames_are_shuffled_by_tasks_and_not_by_files_of_one_host(
    cluster: MiniCluster, frame: Any, client: Client
) -> None:
    from dask.utils import get_default_shuffle_method

    lazy = dd.from_pandas(frame, npartitions=4)
    assert get_default_shuffle_method() == "tasks"  # the client is Dask's default
    client.close()
    before = get_default_shuffle_method()
    assert before != "tasks"
    with Client(cluster.directory, set_as_default=False) as other:
        assert other.compute(lazy.shuffle("b").a.sum()).result(30) == frame.a.sum()
        kept = other.persist(lazy.shuffle("b"))
        assert not [key for key in dict(kept.__dask_graph__()) if "partd" in str(key) or "zpartd" in str(key)]
        assert get_default_shuffle_method() == before
        with dask.config.set({"dataframe.shuffle.method": "disk"}):
            with other.as_default():
                assert get_default_shuffle_method() == "disk"
            assert get_default_shuffle_method() == "disk"
