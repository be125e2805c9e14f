"""Large results: where they stay, how they are fetched, passed on, made again, and freed."""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpclaunch
from hpclaunch.client.client import Client
from hpclaunch.comm import registry
from hpclaunch.errors import CommClosedError
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import request
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]
BIG = 200_000  # bytes: more than travels to the head


def holder_of(client: Client, value: Any) -> Any:
    """Return the directory entry of where a future's result is."""
    until(value.done)
    return value._data[0]


def test_a_large_result_is_fetched_from_its_worker(client: Client) -> None:
    future = client.submit(work.big, BIG)
    assert future.result(10) == work.big(BIG)
    assert future.status == "finished"
    assert client.scheduler_info()["held"] == 1
    assert future.result(10) == work.big(BIG)  # again
    assert client.gather([future, future]) == [work.big(BIG)] * 2


def test_a_hundred_megabytes(client: Client) -> None:
    def make() -> Any:
        return np.arange(100e6 / 8)

    array = client.submit(make).result(30)
    np.testing.assert_array_equal(array[::1000], np.arange(100e6 / 8)[::1000])
    array[0] = 1  # it is ours


@pytest.mark.slow
def test_a_result_of_very_many_arrays(client: Client) -> None:
    values = client.submit(lambda: [__import__("numpy").full(2, i) for i in range(100_000)]).result(20)
    assert len(values) == 100_000
    assert values[-1].tolist() == [99_999, 99_999]
    large = client.submit(lambda: [__import__("numpy").full(3000, i) for i in range(3000)])
    assert client.submit(lambda arrays: sum(a[0] for a in arrays), large).result(20) == sum(range(3000))


def test_many_large_results_at_once(client: Client) -> None:
    futures = client.map(work.big, [BIG + i for i in range(50)])
    assert [len(value) for value in client.gather(futures)] == [BIG + i for i in range(50)]
    mixed = client.gather({"small": client.submit(work.inc, 1), "large": futures[:2]})
    assert mixed["small"] == 2
    assert [len(value) for value in mixed["large"]] == [BIG, BIG + 1]


def test_large_inputs_go_from_worker_to_worker(client: Client, tmp_path: Path) -> None:
    futures = client.map(work.big, [BIG] * 8, range(8))
    sums = client.map(lambda *parts: sum(len(p) for p in parts), *[[f] * 8 for f in futures])
    assert client.gather(sums) == [8 * BIG] * 8


def test_each_task_may_change_its_own_copy(client: Client) -> None:
    def change(a: Any) -> float:
        a += 1
        return float(a.sum())

    zeros = client.submit(np.zeros, 50_000)
    assert client.gather(client.map(change, [zeros] * 10)) == [50_000.0] * 10
    assert zeros.result().sum() == 0


def test_large_results_are_freed_with_their_futures(client: Client) -> None:
    futures = client.map(work.big, [BIG] * 5)
    client.gather(futures)
    assert client.scheduler_info()["held"] == 5
    lengths = client.map(work.length, futures)
    del futures
    assert client.gather(lengths) == [BIG] * 5
    until(lambda: client.scheduler_info()["held"] == 0)


def test_an_intermediate_large_result_is_freed_when_it_has_been_used(client: Client) -> None:
    length = client.submit(work.length, client.submit(work.big, BIG))
    assert length.result(10) == BIG
    gc.collect()
    until(lambda: client.scheduler_info()["held"] == 0)
    assert client.scheduler_info()["tasks"] == 1


def test_a_timeout_while_fetching(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    future = client.submit(work.big, BIG)
    until(future.done)
    with pytest.raises(TimeoutError, match=r"1 large results, such as that of \S+, have not arrived within"):
        future.result(0.0)
    assert len(future.result(10)) == BIG


# --- no way to the worker


@pytest.mark.slow
def test_what_cannot_be_reached_is_fetched_through_the_head(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=2)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        request(client, "hide_workers", port=closed.getsockname()[1])
        futures = client.map(work.big, [BIG] * 6, range(6))
        assert client.gather(futures) == [work.big(BIG, i) for i in range(6)]
        # and so do workers among each other
        joined = client.map(lambda *parts: len(b"".join(parts)), *[[f] * 4 for f in futures])
        assert client.gather(joined) == [6 * BIG] * 4
        assert client.submit(np.zeros, 2_000_000).result(10).sum() == 0
    assert client.scheduler_info()["relays"] == 0


def be_far(port: int | None = None) -> None:
    """Have this worker share with no process; its offers name that port, if any is given."""
    from hpclaunch.comm import bulk, fetch

    fetch.node_id = str  # type: ignore[assignment]
    if port is not None:
        bulk.socket.socket.getsockname = lambda self: ("127.0.0.1", port)  # type: ignore[assignment,method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("is_open", [True, False])
def test_large_results_go_from_host_to_host_by_themselves(own_cluster: Make, is_open: bool) -> None:
    _, client = own_cluster(jobs=2)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client.run(be_far, None if is_open else closed.getsockname()[1])
        one, other = client.scheduler_info()["workers"]
        arrays = [client.submit(np.full, 1_000_000, i, dtype=float, workers=[one]) for i in range(6)]
        sums = [client.submit(np.sum, array, workers=[other]) for array in arrays]
        assert client.gather(sums) == [1e6 * i for i in range(6)]
        changed = client.submit(lambda a: a.__iadd__(1).sum(), arrays[1], workers=[other])
        assert changed.result(10) == 2e6
        assert client.submit(np.sum, arrays[1], workers=[other], pure=False).result(10) == 1e6, (
            "each task has its own"
        )


# --- holders that are gone


def kill_holder(cluster: MiniCluster, client: Client, future: Any) -> None:
    """Kill the whole job whose worker has a result."""
    until(future.done)
    holder = future._data.places[0]
    for job in cluster.jobs:
        if any(_listens(pid, holder) for pid in _children(job.pid)):
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            return
    raise AssertionError(f"no process listens at {holder}")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _listens(pid: int, address: str) -> bool:
    port = f":{int(address.rpartition(':')[2]):04X} "
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and port in line.split()[1] + " "
    }
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return any(f"socket:[{inode}]" in links for inode in inodes)


@pytest.mark.slow
@pytest.mark.parametrize("as_input", [False, True])
def test_a_result_whose_holder_is_gone_is_made_again(own_cluster: Make, tmp_path: Path, as_input: bool) -> None:
    cluster, client = own_cluster(jobs=2)
    notes = tmp_path / "notes"
    future = client.submit(lambda p: work.note(p, bytes(BIG)), str(notes))
    until(future.done)
    kill_holder(cluster, client, future)
    if as_input:
        assert client.submit(work.length, future).result(20) == BIG
    else:
        assert len(future.result(20)) == BIG
    assert work.times_called(notes) == 2


@pytest.mark.slow
def test_a_lost_result_is_made_again_from_the_beginning(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=2)
    first = client.submit(work.big, BIG)
    middle = client.submit(lambda x: x + b"2", first)
    last = client.submit(lambda x: x + b"3", middle)
    until(last.done)
    del first, middle
    kill_holder(cluster, client, last)
    assert last.result(20) == work.big(BIG) + b"23"


@pytest.mark.slow
def test_a_copy_elsewhere_saves_the_work(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=2)
    notes = tmp_path / "notes"
    future = client.submit(lambda p: work.note(p, bytes(BIG)), str(notes))
    until(future.done)
    gate = tmp_path / "gate"
    using = client.map(lambda data, p: work.wait_for(p, len(data)), [future] * 4, [str(gate)] * 4)
    until(lambda: client.scheduler_info()["held"] == 2)
    gate.touch()
    assert client.gather(using) == [BIG] * 4
    kill_holder(cluster, client, future)
    assert len(future.result(20)) == BIG
    assert work.times_called(notes) == 1


@pytest.mark.slow
def test_results_that_are_lost_with_the_head(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=1)
    future = client.submit(work.big, BIG)
    until(future.done)
    cluster.head.kill()
    cluster.head.wait()
    os.killpg(cluster.jobs[0].pid, signal.SIGKILL)
    cluster.jobs[0].wait()
    for _ in range(2):
        with pytest.raises(CommClosedError):
            future.result(20)


def test_a_large_array_is_mapped_and_not_copied_on_one_host(client: Client) -> None:
    made = client.submit(work.big_array, 20_000_000)
    value = made.result(20)
    assert work.memory_of(value) == "OwnPages"
    value[0] = 7  # ours alone
    elsewhere = client.map(work.memory_of, [made] * 8)
    assert "OwnPages" in client.gather(elsewhere)
    assert made.result(20)[0] == 1


def test_more_inputs_than_are_fetched_at_once(client: Client) -> None:
    made = client.map(work.big, [100_000] * 60, range(60))
    assert client.submit(work.total_length, made).result(20) == 6_000_000


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_registered_type_goes_to_tasks_and_comes_back(client: Client, size: int) -> None:
    hpclaunch.register_serialization(work.Guarded, work.dump_guarded, work.load_guarded)
    try:
        first = client.submit(work.same, work.Guarded(bytes(size)))
        assert client.submit(work.guarded_bytes, first).result(20) == bytes(size)
        assert bytes(first.result(20).data) == bytes(size)
    finally:
        del registry.table[work.Guarded]


def test_a_type_can_be_registered_on_the_workers(client: Client) -> None:
    client.run(hpclaunch.register_serialization, work.OtherGuarded, work.dump_guarded, work.load_guarded)
    made = client.map(work.OtherGuarded, [bytes(10), bytes(1_000_000)])
    assert client.gather(client.map(work.guarded_bytes, made)) == [bytes(10), bytes(1_000_000)]
