"""The life of jobs on the real batch systems: walltimes under work, many jobs at once, a master that is silent."""

from __future__ import annotations

from tests.real.conftest import RealBed
from tests.testbed.beds import SgeBed, wait_until


def test_work_goes_on_over_walltimes(real: RealBed) -> None:
    """200 tasks, 50 at a time, of a third of a job's walltime each: all right, none failed, jobs replaced."""
    life, seconds = {"slurm": ("00:01:00", 20), "sge": ("00:00:21", 7)}[real.name]  # Slurm counts in minutes
    said = real.run(
        """
        with make(walltime=LIFE, worker_extra_args=["--threads", "25"]) as cluster, Client(cluster) as client:
            cluster.scale(jobs=2)
            cluster.wait_for_workers(2, timeout=60)
            futures = client.map(lambda x: (time.sleep(SECONDS), x * x)[1], range(200))
            results = client.gather(futures)
            jobs = cluster.jobs()
            drained = sum("so it was drained" in " ".join(job["story"]) for job in jobs)
            say(right=results == [x * x for x in range(200)], jobs=len(jobs), drained=drained)
        """.replace("LIFE", repr(life)).replace("SECONDS", str(seconds)),
        timeout=400,
    )
    assert said["right"]
    assert said["drained"] >= 2
    assert said["jobs"] >= 4


def test_two_hundred_jobs_at_once_and_nothing_left(real: RealBed) -> None:
    said = real.run(
        """
        with make() as cluster, Client(cluster) as client:
            cluster.scale(jobs=200)
            cluster.wait_for_workers(4, timeout=60)
            total = sum(client.gather(client.map(double, range(1000))))
            ids = {job["id"].replace("_", ".").partition(".")[0] for job in cluster.jobs()}
            say(total=total, count=len(cluster.jobs()), submissions=len(ids))
        """,
        timeout=180,
    )
    assert said["total"] == 999_000
    assert said["count"] == 200
    assert said["submissions"] == 1
    wait_until(lambda: not real.bed.jobs(), "the jobs to go")


def test_a_job_that_is_put_back_by_the_operators(real: RealBed) -> None:
    """``scontrol requeue``, ``qmod -rj``: a user who lets his jobs be rerun is told, and the work is done."""
    # Grid Engine's notice may come before a listing shows that the job was put back: another is in its place then.
    told = {"slurm": "scontrol requeue", "sge": "qmod -rj"}[real.name]
    rerun = {"slurm": "['--requeue'], ['--no-requeue']", "sge": "['-r y'], ['-r n']"}[real.name]
    body = """
        more, less = RERUN
        with make(job_extra_directives=more, job_directives_skip=less) as cluster, Client(cluster) as client:
            cluster.scale(jobs=2)
            cluster.wait_for_workers(2, timeout=60)
            futures = client.map(where, range(300))
            futures[0].result()
            say(ids=[job["id"] for job in cluster.jobs()])
            count = len(client.gather(futures))
            late = time.monotonic() + 60
            is_told = lambda: TOLD in cluster.jobs().stories()
            while not is_told() and time.monotonic() < late:
                time.sleep(0.1)
            cluster.wait_for_workers(2, timeout=90)
            say(count=count, up=len(cluster.workers()), stories=cluster.jobs().stories())
    """
    driver, hear = real.start(body.replace("RERUN", rerun).replace("TOLD", repr(told)))
    victim = hear()["ids"][0]
    if isinstance(bed := real.bed, SgeBed):  # a job of whose start its master has not heard yet (t) just goes on
        wait_until(lambda: bed.states().get(victim) == "r", "the master to hear of the job's start")
    argv = ["scontrol", "requeue", victim] if real.name == "slurm" else ["qmod", "-rj", victim]
    done = real.bed.run(argv)
    assert done.exit_code == 0, done
    said = hear()
    assert said["count"] == 300
    assert said["up"] == 2, said["stories"]
    assert told in said["stories"], said["stories"]
    assert "from outside" not in said["stories"], said["stories"]
    assert driver.wait(60) == 0


def test_scaling_while_the_master_is_silent(real: RealBed) -> None:
    """What is wished for meanwhile is there afterwards, once."""
    driver, hear = real.start("""
        with make() as cluster, Client(cluster) as client:
            cluster.scale(jobs=1)
            cluster.wait_for_workers(1, timeout=60)
            say(ready=True)
            import threading
            def scale():
                while True:
                    try:
                        return cluster.scale(jobs=3)
                    except SubmitError:
                        time.sleep(1)
            thread = threading.Thread(target=scale)
            thread.start()
            total = sum(client.gather(client.map(double, range(100))))
            say(total=total)
            thread.join()
            cluster.wait_for_workers(3, timeout=120)
            time.sleep(2)
            say(jobs=len([job for job in cluster.jobs() if job["state"] == "up"]), workers=len(cluster.workers()))
    """)
    hear()
    with real.silent_daemon():
        assert hear()["total"] == 9900
    said = hear()
    assert said == {"jobs": 3, "workers": 3}
    assert driver.wait(60) == 0
