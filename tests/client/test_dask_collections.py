"""Dask's collections on our client: compute, persist, and as Dask's default."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest

from hpclaunch.client.client import Client
from hpclaunch.client.future import Future
from tests.client import work
from tests.comm.minihead import MiniCluster

pd = pytest.importorskip("pandas")
dd = pytest.importorskip("dask.dataframe")


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
        assert not other._futures
        with other.as_default():
            kept = x.persist()
            assert other._futures
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


@pytest.mark.slow
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
