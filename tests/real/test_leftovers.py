"""What is left on real batch systems when a head is killed together with its owner."""

from __future__ import annotations

from tests.real.conftest import RealBed
from tests.testbed.beds import wait_until

DIE = """
    cluster = make(death_timeout=6)
    cluster.scale(jobs=JOBS)
    cluster.wait_for_workers(JOBS, timeout=60)
    say(directory=str(cluster.directory), head=cluster.facts["pid"])
    os.kill(cluster.facts["pid"], signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_that_leave_at_once_remove_the_directory(real: RealBed) -> None:
    """On other hosts than the head's, which see its end by its beats and addresses alone."""
    driver, hear = real.start(DIE.replace("JOBS", "3"))
    directory = hear()["directory"]
    driver.wait(30)
    wait_until(lambda: real.bed.run(["test", "-e", directory]).exit_code == 1, f"{directory} to go", 90)
    wait_until(lambda: not real.bed.jobs(), "the jobs to end")


def test_a_job_that_waits_keeps_what_cancels_it_and_no_keys(real: RealBed) -> None:
    held = {"slurm": "['--hold']", "sge": "['-h']"}[real.name]
    body = f"""
        cluster = make(death_timeout=6, groups={{"held": dict(job_extra_directives={held})}})
        cluster.scale(jobs=1)
        cluster.scale(jobs=1, group="held")
        cluster.wait_for_workers(1, timeout=60)
        say(directory=str(cluster.directory))
        while len(cluster.jobs()) < 2 or not all(job["id"] for job in cluster.jobs()):
            time.sleep(0.1)
        os.kill(cluster.facts["pid"], signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    driver, hear = real.start(body)
    directory = hear()["directory"]
    driver.wait(60)
    gone = f"{directory}/head-gone"
    wait_until(lambda: real.bed.run(["test", "-e", gone]).exit_code == 0, "the head's end to be seen", 90)
    names = set(real.bed.run(["ls", directory]).stdout.split())
    assert not {name for name in names if name.endswith(".pem")}
    assert {"head.json", "job-held.sh"} <= names
    done = real.bed.run([real.bed.python, "-m", "hpclaunch", "ps"], timeout=120)
    assert f"cancelled what the dead cluster {directory.rpartition('/')[2]} has left" in done.stderr, done
    wait_until(lambda: not real.bed.jobs(), "the held job to go")
    assert real.bed.run(["test", "-e", directory]).exit_code == 1
