"""What tasks are given, on workers with little memory: refused if it fits none, admitted by size if it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hpclaunch.client.client import Client
from hpclaunch.errors import TooLargeError
from tests.client import work
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]
MB = 1_000_000
#: What workers have here, and levels as they are by default.
LITTLE = {
    "memory_limit": 200 * MB,
    "memory": {"target": 0.6, "spill": 0.7, "pause": 0.8, "terminate": 0.95},
}


@pytest.mark.filterwarnings("ignore:a call of")
@pytest.mark.slow
def test_arguments_that_fit_no_worker_are_refused_and_hurt_nobody(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1, **LITTLE)
    pid = client.submit(work.pid).result(10)
    large = client.submit(work.length, bytes(120 * MB))
    assert client.gather(client.map(work.inc, range(50))) == list(range(1, 51))
    with pytest.raises(TooLargeError, match=r"has 120 MB of arguments.*has a limit of 200 MB"):
        large.result(10)
    with pytest.raises(TooLargeError, match="a value of 250 MB is to be put on a worker"):
        client.scatter(bytes(250 * MB))
    assert client.submit(work.pid).result(10) == pid


@pytest.mark.filterwarnings("ignore:a call of")
@pytest.mark.slow
def test_many_large_arguments_end_no_worker(own_cluster: Make) -> None:
    _, client = own_cluster(jobs=1, **LITTLE)
    pid = client.submit(work.pid).result(10)
    calls = [client.submit(work.length, bytes([i]) * (40 * MB)) for i in range(8)]
    assert [call.result(60) for call in calls] == [40 * MB] * 8
    assert client.submit(work.pid).result(10) == pid


@pytest.mark.slow
def test_many_large_results_end_no_worker(own_cluster: Make) -> None:
    """They are made faster than they are written; and all of them are no input for one task."""
    _, client = own_cluster(jobs=1, **LITTLE)
    pid = client.submit(work.pid).result(10)
    made = client.map(work.big, [40 * MB] * 8, range(8))
    with pytest.raises(TooLargeError, match="8 inputs of 320 MB together"):
        client.submit(work.total_length, made).result(60)
    assert client.gather(client.map(work.length, made)) == [40 * MB] * 8
    assert client.submit(work.pid).result(10) == pid


@pytest.mark.filterwarnings("ignore:a call of")
@pytest.mark.slow
def test_a_death_while_arguments_arrive_counts_for_their_task(own_cluster: Make) -> None:
    """The worker has less room than it said: an earlier task has left something behind."""
    _, client = own_cluster(jobs=1, memory_limit=400 * MB, memory=LITTLE["memory"])
    said = ""
    for _ in range(8):  # the process may also end a moment later, when the task has begun
        first = client.submit(work.pid).result(10)
        client.submit(work.take_ballast, 260 * MB).result(10)
        call = client.submit(work.length, bytes(150 * MB))
        assert call.result(60) == 150 * MB
        assert client.submit(work.pid).result(10) != first
        said = client.why(call)
        if f"while it received what {call.key} needs" in said:
            return
    raise AssertionError(said)
