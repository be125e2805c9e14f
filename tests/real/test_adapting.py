"""A cluster that follows the work on a real Slurm and a real Grid Engine."""

from __future__ import annotations

from tests.real.conftest import RealBed


def test_a_cluster_grows_and_shrinks_with_the_work(real: RealBed) -> None:
    said = real.run("""
        with make() as cluster, Client(cluster) as client:
            cluster.adapt(minimum_jobs=0, maximum_jobs=4, interval=0.2, idle_timeout=2, target_duration=2)
            hosts = client.gather(client.map(lambda i: (time.sleep(0.3), socket.gethostname())[1], range(120)))
            while any(job["state"] not in ("ended",) for job in cluster.jobs()):
                time.sleep(0.1)
            log = cluster.adapt_log()
            say(count=len(hosts), jobs=len(cluster.jobs()), most=max(row["wish"] for row in log), log=str(log))
    """)
    assert said["count"] == 120
    assert said["most"] == 4
    assert said["jobs"] == 4, said["log"]
    assert "4 jobs more" in said["log"]
    assert "idle for 2 s and retired: there is nothing to do" in said["log"]


def test_the_group_grows_that_the_work_asks_for(real: RealBed) -> None:
    said = real.run("""
        quick = dict(maximum_jobs=2, interval=0.2, wait_count=1, idle_timeout=1, target_duration=1)
        with make() as cluster, Client(cluster) as client:
            cluster.add_group("gpu", cores=1, resources={"GPU": 1})
            cluster.adapt(**quick)
            cluster.adapt(group="gpu", **quick)
            done = client.map(lambda i: (time.sleep(0.5), i)[1], range(8), resources={"GPU": 1})
            total = sum(client.gather(done))
            kinds = [job["group"] for job in cluster.jobs()]
            while cluster.workers():
                time.sleep(0.1)
            host = client.submit(where, 1).result()
            say(total=total, kinds=kinds, after=[job["group"] for job in cluster.jobs()][:1], host=host)
    """)
    assert said["total"] == 28
    assert said["kinds"] == ["gpu", "gpu"]
    assert said["after"] == [""]
    assert said["host"] in real.bed.nodes
