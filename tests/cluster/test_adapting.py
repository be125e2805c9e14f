"""Clusters on this machine that grow and shrink by themselves, and that have several kinds of jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import Client, LocalCluster
from hpclaunch.errors import ConfigError, UserError
from tests.testbed.beds import wait_until

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"interval": 0.05, "wait_count": 1, "idle_timeout": 0.3, "target_duration": 0.5}


def nap(number: int) -> int:
    time.sleep(0.1)
    return number


def gone(cluster: LocalCluster) -> Callable[[], bool]:
    return lambda: not any(job["state"] in ("up", "starting", "queued") for job in cluster.jobs())


@pytest.mark.parametrize("processes", [True, False])
def test_a_cluster_follows_the_work(processes: bool) -> None:
    with LocalCluster(n_workers=0, processes=processes) as cluster, Client(cluster) as client:
        cluster.adapt(maximum=2, **QUICK)
        for _ in range(2):
            assert client.gather(client.map(nap, range(20))) == list(range(20))
            wait_until(gone(cluster), "idle jobs to go")
        text = str(cluster.adapt_log())
        assert "the maximum is 2" in text
        assert "idle for 0.3 s and retired: there is nothing to do" in text
        assert max(row["wish"] for row in cluster.adapt_log()) == 2

        cluster.adapt(minimum_jobs=1, maximum_jobs=1, **QUICK)  # replaces what was said
        wait_until(lambda: len(cluster.workers()) == 1, "the minimum to be there")
        with pytest.raises(ConfigError, match="contradict"):
            cluster.adapt(minimum=5, maximum=2)
        cluster.scale(0)  # ends it
        wait_until(lambda: not cluster.workers(), "the workers to go")
        assert "the minimum is 1" in str(cluster.adapt_log())


def note(path: str, number: int) -> bytes:
    """A large result; how often it was made is noted."""
    with Path(path).open("a") as file:
        file.write(f"{number}\n")
    time.sleep(0.1)
    return bytes([number]) * 300_000


@pytest.mark.parametrize("how", ["adapt", "scale"])
def test_results_of_jobs_that_go_are_moved_first(how: str, tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    with LocalCluster(n_workers=3) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(3, timeout=60)
        futures = [client.submit(note, notes, number, pure=False) for number in range(9)]
        wait_until(lambda: all(future.done() for future in futures), "the results to be there")
        if how == "adapt":
            cluster.adapt(maximum=3, **QUICK)
        else:
            cluster.scale(1)
        wait_until(lambda: len(cluster.workers()) == 1, "the idle jobs to go")
        assert [future.result() for future in futures] == [bytes([number]) * 300_000 for number in range(9)]
        assert sorted((tmp_path / "notes").read_text().split()) == [str(number) for number in range(9)]
        if how == "adapt":
            assert "idle for 0.3 s and retired" in str(cluster.adapt_log())


def test_results_that_are_nowhere_else_keep_their_job() -> None:
    with LocalCluster(n_workers=0) as cluster, Client(cluster) as client:
        cluster.adapt(maximum=2, **QUICK)
        large = client.submit(bytes, 1_000_000)
        small = client.map(nap, range(10))
        client.gather(small)
        wait_until(lambda: len(cluster.workers()) <= 1, "the other job to go")
        assert len(large.result()) == 1_000_000


def test_groups_take_what_asks_for_them() -> None:
    with LocalCluster(n_workers=0, name="two-kinds") as cluster, Client(cluster) as client:
        cluster.add_group("gpu", resources={"GPU": 1})
        cluster.adapt(maximum=1, **QUICK)
        cluster.adapt(group="gpu", maximum=1, **QUICK)
        assert "--resources GPU=1" in cluster.job_script("gpu")
        assert "--resources" not in cluster.job_script()
        assert client.submit(nap, 1, resources={"GPU": 1}).result() == 1
        assert {job["group"] for job in cluster.jobs()} == {"gpu"}
        assert client.submit(nap, 2).result() == 2
        wait_until(gone(cluster), "idle jobs to go")
        cluster.scale(1, group="gpu")
        wait_until(lambda: len(cluster.workers()) == 1, "the group to be scaled")
        assert str(cluster.jobs()).startswith("group")
        for call in (cluster.scale, cluster.adapt_log, cluster.adapt):
            with pytest.raises(UserError, match="there is no group 'tpu'; there are 'gpu'"):
                call(*([1] if call == cluster.scale else []), group="tpu")
        with pytest.raises(ConfigError, match="there is a group 'gpu' already"):
            cluster.add_group("gpu")
        with pytest.raises(ConfigError, match="the name of a group"):
            cluster.add_group("../gpu")


def test_groups_of_the_configuration_are_there() -> None:
    groups = {"big": {"cores": 2, "resources": {"BIG": 1}}}
    with LocalCluster(n_workers=0, groups=groups) as cluster, Client(cluster) as client:
        cluster.scale(1, group="big")
        assert client.submit(nap, 3, resources={"BIG": 1}).result() == 3
        assert [worker["threads"] for worker in cluster.workers()] == [2]
