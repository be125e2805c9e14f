"""Jobs that reach their walltime while they work, on the local batch system: no loss, no task blamed."""

from __future__ import annotations

import time

import pytest

from hpclaunch import Client, LocalCluster
from tests.client.work import make_bytes, nap

pytestmark = pytest.mark.slow


def test_work_goes_on_over_many_jobs() -> None:
    with LocalCluster(2, walltime=8, drain_margin=3) as cluster, Client(cluster) as client:
        futures = client.map(nap, [0.5] * 60)
        assert client.gather(futures) == [0.5] * 60
        jobs = cluster.jobs()
        drained = [job for job in jobs if "so it was drained" in "".join(job["story"])]
        assert len(drained) >= 2
        assert not [job for job in jobs if "walltime reached" in job["reason"]], "each ended before it was ended"
        assert len(jobs) <= 12


def test_results_outlive_the_jobs_that_made_them(tmp_path) -> None:
    count = tmp_path / "calls"
    with LocalCluster(1, walltime=6, drain_margin=3) as cluster, Client(cluster) as client:
        future = client.submit(make_bytes, 1_000_000, str(count))
        assert len(future.result(10)) == 1_000_000
        first = cluster.jobs()[0]["id"]
        end = time.monotonic() + 30
        while cluster.jobs()[0]["state"] != "ended":
            assert time.monotonic() < end
            time.sleep(0.1)
        assert {one["job_id"] for one in cluster.workers()} - {first}
        assert len(future.result(10)) == 1_000_000
        assert len(count.read_text()) == 1, "it was moved, not made again"
