"""The main job and what goes wrong with it, on a real Slurm and a real Grid Engine, as an unprivileged user.

The fixture sees to it that no job, no process and no run directory is left after any of these.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.real.conftest import RealBed
from tests.testbed.beds import wait_until

DATA = Path(__file__).parents[1] / "data" / "config"


def test_eight_jobs_compute(real: RealBed) -> None:
    said = real.run("""
        with make() as cluster:
            cluster.scale(jobs=8)
            cluster.wait_for_workers(8, timeout=60)
            with Client(cluster) as client:
                hosts = client.gather(client.map(where, range(200)))
            ids = [job["id"] for job in cluster.jobs()]
            submitted = (cluster.directory / "job.sh").read_text() == cluster.job_script()
            say(hosts=sorted(set(hosts)), count=len(hosts), ids=ids, same=submitted, table=str(cluster.jobs()))
    """)
    assert said["count"] == 200
    assert len(said["hosts"]) >= 2
    assert set(said["hosts"]) <= set(real.bed.nodes)
    assert len({re.split(r"[._]", job)[0] for job in said["ids"]}) == 1, "eight jobs are one submission"
    assert said["same"]
    assert said["table"].count("connected, reaching the head at") == 8


def test_scaling_down_cancels_and_up_again_submits(real: RealBed) -> None:
    said = real.run("""
        with make() as cluster:
            cluster.scale(jobs=3)
            cluster.wait_for_workers(3, timeout=60)
            cluster.scale(jobs=1)
            while len(cluster.workers()) > 1:
                time.sleep(0.1)
            cluster.scale(jobs=2)
            cluster.wait_for_workers(2, timeout=60)
            with Client(cluster) as client:
                say(total=sum(client.gather(client.map(double, range(100)))))
    """)
    assert said["total"] == 9900


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_when_the_owner_is_killed(real: RealBed, number: int) -> None:
    driver, hear = real.start("""
        cluster = make()
        cluster.scale(jobs=4)
        cluster.wait_for_workers(4, timeout=60)
        say(ready=True)
        time.sleep(600)
    """)
    hear()
    assert len(real.bed.jobs()) == 4
    driver.send_signal(number)
    driver.wait(30)
    wait_until(lambda: not real.bed.jobs(), "the jobs to go")
    wait_until(lambda: not real.bed.processes("hpclaunch"), "the processes to end")


def test_a_job_cancelled_from_outside_is_replaced(real: RealBed) -> None:
    driver, hear = real.start("""
        with make() as cluster, Client(cluster) as client:
            cluster.scale(jobs=2)
            cluster.wait_for_workers(2, timeout=60)
            futures = client.map(where, range(400))
            futures[0].result()
            say(ids=[job["id"] for job in cluster.jobs()])
            count = len(client.gather(futures))
            # Grid Engine tells a job to end before it says why: accounting has the last word.
            while not any(job["state"] == "ended" and "cancel" in job["reason"] for job in cluster.jobs()):
                time.sleep(0.1)
            cluster.wait_for_workers(2, timeout=60)
            ended = [job["reason"] for job in cluster.jobs() if job["state"] == "ended"]
            say(count=count, ended=ended, up=sum(job["state"] == "up" for job in cluster.jobs()))
    """)
    victim = hear()["ids"][0]
    real.cancel(victim)
    said = hear()
    assert said["count"] == 400
    assert said["up"] == 2
    assert len(said["ended"]) == 1
    assert "cancel" in said["ended"][0]
    assert driver.wait(60) == 0


def test_a_worker_killed_on_its_node_is_restarted(real: RealBed) -> None:
    driver, hear = real.start("""
        with make() as cluster, Client(cluster) as client:
            cluster.scale(jobs=2)
            cluster.wait_for_workers(2, timeout=60)
            pids = client.gather(client.map(lambda i: (time.sleep(0.05), os.getpid())[1], range(40)))
            futures = client.map(where, range(400))
            say(ready=True)
            say(count=len(client.gather(futures)), up=sum(job["state"] == "up" for job in cluster.jobs()))
    """)
    hear()
    import os

    victims = real.bed.processes(r"-m hpclaunch\.worker")
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in victims}
    worker = next(pid for pid in victims if parents[pid] in victims)
    os.kill(worker, signal.SIGKILL)
    said = hear()
    assert said == {"count": 400, "up": 2}
    assert driver.wait(60) == 0


def test_a_node_that_loses_its_power(real: RealBed) -> None:
    driver, hear = real.start("""
        with make() as cluster, Client(cluster) as client:
            cluster.scale(jobs=4)
            cluster.wait_for_workers(4, timeout=60)
            futures = client.map(where, range(1000))
            futures[0].result()
            say(nodes={job["host"]: job["id"] for job in cluster.jobs()})
            count = len(client.gather(futures))
            cluster.wait_for_workers(4, timeout=120)
            say(count=count, ended=[job["reason"] for job in cluster.jobs() if job["state"] == "ended"])
    """)
    node = sorted(hear()["nodes"])[-1]
    real.bed.power_cut(node)
    try:
        said = hear()
    finally:
        real.bed.power_on(node)
    assert said["count"] == 1000
    assert driver.wait(90) == 0, driver.stdout.read() if driver.stdout else ""


def test_a_queue_that_does_not_exist(real: RealBed) -> None:
    said = real.run("""
        with make(queue="nosuch") as cluster:
            try:
                cluster.scale(jobs=2)
            except SubmitError as error:
                say(text=str(error), argv=error.argv, code=error.exit_code, output=error.output, hint=error.hint)
    """)
    assert "nosuch" in said["output"]
    assert said["code"] == 1
    assert said["argv"][0] in ("sbatch", "qsub")
    assert said["argv"][0] in said["text"]
    assert "lists the" in said["hint"]


def test_memory_that_no_node_has(real: RealBed) -> None:
    said = real.run(
        """
        try:
            if MEMORY == "slurm":
                cluster = SLURMCluster(cores=1, memory="900 GB", interface="lo", walltime="00:05:00")
            else:
                cluster = SGECluster(cores=1, memory="900 GB", resource_spec="h_vmem=900G", walltime="00:05:00")
            with cluster:
                cluster.scale(jobs=1)
                cluster.wait_for_workers(1, timeout=6)
        except (SubmitError, WaitTimeoutError) as error:
            say(text=str(error), kind=type(error).__name__)
    """.replace("MEMORY", repr(real.name))
    )
    if real.name == "slurm":
        assert said["kind"] == "SubmitError"
        assert "Memory specification can not be satisfied" in said["text"]
        assert "sinfo" in said["text"]
    else:
        assert said["kind"] == "WaitTimeoutError"
        assert "offers only hc:h_vmem=4.000G" in said["text"]


def test_a_log_directory_that_the_nodes_cannot_write(real: RealBed) -> None:
    """/scratch is private to each node, so what is made on the login host is not there."""
    said = real.run("""
        os.makedirs("/scratch/logs-of-mine", exist_ok=True)
        try:
            with make(log_directory="/scratch/logs-of-mine") as cluster:
                cluster.scale(jobs=1)
                cluster.wait_for_workers(1, timeout=90)
        except JobsFailedError as error:
            say(text=str(error))
        finally:
            os.rmdir("/scratch/logs-of-mine")
    """)
    assert re.search(r"log file|open output file", said["text"]), said["text"]
    assert "scale() again" in said["text"]


def test_a_job_without_our_package_is_explained(real: RealBed) -> None:
    said = real.run("""
        try:
            with make(python="/usr/bin/python3") as cluster:
                cluster.scale(jobs=1)
                cluster.wait_for_workers(1, timeout=90)
        except JobsFailedError as error:
            say(text=str(error))
    """)
    assert "No module named" in said["text"]
    assert "`python`" in said["text"]


def test_a_job_ended_by_its_walltime_is_replaced(real: RealBed) -> None:
    # Slurm counts in minutes
    limits = {"slurm": "walltime='00:01:00', drain_margin=50", "sge": "walltime='00:00:08'"}[real.name]
    said = real.run(
        """
        with make(LIMITS) as cluster, Client(cluster) as client:
            cluster.scale(jobs=1)
            cluster.wait_for_workers(1, timeout=60)
            while not any(job["state"] == "ended" for job in cluster.jobs()):
                time.sleep(0.2)
            cluster.wait_for_workers(1, timeout=60)
            reasons = [job["reason"] for job in cluster.jobs() if job["state"] == "ended"]
            say(reasons=reasons, answer=client.submit(double, 21).result(30))
    """.replace("LIMITS", limits),
        timeout=180,
    )
    assert said["answer"] == 42
    assert "its walltime was to end in" in said["reasons"][0], "it was drained in time"


@pytest.mark.sge
def test_the_site_file_that_users_have(sge) -> None:  # type: ignore[no-untyped-def]
    real = RealBed(sge)
    home = sge.directory / "config" / "hpclaunch"
    home.mkdir(parents=True)
    (home / "jobqueue.yaml").write_text((DATA / "jobqueue-arc4.yaml").read_text())
    said = real.run(
        """
        os.environ["XDG_CONFIG_HOME"] = os.getcwd() + "/config"
        with SGECluster(
            walltime="00:05:00",
            memory="900 MB",
            resource_spec="h_vmem=900M",
            scheduler_options={"dashboard_address": ":2727"},
            job_extra=["-V", "-pe smp 1"],
            local_directory=os.getcwd() + "/dask-worker-space",
        ) as cluster:
            client = Client(cluster)
            cluster.scale(jobs=2)
            cluster.wait_for_workers(2, timeout=60)
            script = cluster.job_script()
            total = sum(client.gather(client.map(double, range(10))))
            client.close()
            say(script=script, total=total, addresses=cluster.facts["addresses"])
    """
    )
    assert said["total"] == 90
    assert "#$ -N dask-worker\n" in said["script"]
    assert said["script"].count("-pe ") == 1
    assert "no interface 'ib0'" in said["stderr"] or "10.77.0.1" in said["addresses"][0]


def test_jobs_of_several_cores(real: RealBed) -> None:
    options = {
        "slurm": "SLURMCluster(cores=2, processes=2, memory='800 MB', interface='lo', walltime='00:05:00')",
        "sge": "SGECluster(cores=4, processes=2, memory='3 GB', memory_resource='h_vmem', walltime='00:05:00')",
    }[real.name]
    said = real.run(
        """
        def look(i):
            time.sleep(0.05)
            return os.getpid(), os.environ["OMP_NUM_THREADS"], os.environ.get("NSLOTS")
        with CLUSTER as cluster, Client(cluster) as client:
            cluster.scale(cores=2 * cluster.config.cores)
            cluster.wait_for_workers(4, timeout=60)
            seen = client.gather(client.map(look, range(100)))
            threads = [worker["threads"] for worker in cluster.workers()]
            pids = len({pid for pid, *_ in seen})
            say(seen=seen[:1], pids=pids, jobs=len(cluster.jobs()), threads=threads, header=cluster.job_header)
    """.replace("CLUSTER", options)
    )
    assert said["jobs"] == 2
    assert said["pids"] >= 4
    assert said["seen"][0][1] == "1"
    if real.name == "sge":
        assert "#$ -pe smp 4" in said["header"]
        assert "h_vmem=732422K" in said["header"]  # 3 GB over four slots, rounded up to whole KiB
        assert said["threads"] == [2] * 4
        assert said["seen"][0][2] == "4"
    else:
        assert "#SBATCH --cpus-per-task=2" in said["header"]
        assert "#SBATCH --mem=763M" in said["header"]


def test_a_batch_system_that_does_not_answer_for_a_while(real: RealBed) -> None:
    driver, hear = real.start("""
        with make() as cluster, Client(cluster) as client:
            cluster.scale(jobs=2)
            cluster.wait_for_workers(2, timeout=60)
            say(ready=True)
            sys.stdin.readline()
            say(count=len(client.gather(client.map(where, range(100)))))
            say(states=sorted(job["state"] for job in cluster.jobs()))
        say(closed=True)
    """)
    hear()
    with real.silent_daemon():
        assert driver.stdin is not None
        driver.stdin.write("\n")
        driver.stdin.flush()
        assert hear() == {"count": 100}
        assert hear() == {"states": ["up", "up"]}
    assert hear() == {"closed": True}
    assert driver.wait(60) == 0
