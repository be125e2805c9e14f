"""A local cluster is ready when it is made: set-up that is run then reaches all workers."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from hpclaunch import Client, LocalCluster
from hpclaunch.errors import JobsFailedError


def mark() -> None:
    os.environ["READY_MARK"] = "yes"


def mark_seen() -> str | None:
    time.sleep(0.01)
    return os.environ.get("READY_MARK")


def test_set_up_at_once_reaches_all_workers() -> None:
    with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
        assert len(cluster.workers()) == len(client.nthreads()) == len(client.run(mark) or {}) == 2
        assert client.gather(client.map(lambda _: mark_seen(), range(8))) == ["yes"] * 8
        assert client.get_executor()._max_workers == 2


@pytest.mark.slow
@pytest.mark.parametrize("processes", [True, False])
def test_a_client_with_a_cluster_of_its_own_is_ready(processes: bool) -> None:
    with Client(n_workers=2, processes=processes) as client:
        assert len(client.nthreads()) == len(client.scheduler_info()["workers"]) == 2


@pytest.mark.slow
def test_asynchronous_ones_are_ready_when_awaited() -> None:
    async def main() -> None:
        async with Client(n_workers=2, asynchronous=True) as client:
            assert len(await client.nthreads()) == 2
        cluster = await LocalCluster(n_workers=2, asynchronous=True)
        assert len(await cluster.workers()) == 2
        await cluster.scale(0)
        async with cluster, Client(cluster, asynchronous=True) as client:  # waits once only
            assert not cluster._awaited
        async with Client(LocalCluster(n_workers=2, asynchronous=True), asynchronous=True) as client:
            assert len(await client.nthreads()) == 2
            await client.cluster.close()

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True])
def test_workers_that_cannot_start_are_an_error_in_the_constructor(asynchronous: bool) -> None:
    async def main() -> None:
        cluster = LocalCluster(n_workers=2, job_script_prologue=["exit 3"], asynchronous=asynchronous)
        await cluster

    with pytest.raises(JobsFailedError, match=r"(?s)ended early 3 times.*exit code 3"):
        asyncio.run(main())
