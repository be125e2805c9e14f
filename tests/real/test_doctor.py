"""``hpclaunch doctor`` on the real batch systems, with the faults that a new site has."""

from __future__ import annotations

import signal

import pytest

from tests.real.conftest import RealBed
from tests.testbed.beds import Result, wait_until

SMALL = ("--cores", "1", "--memory", "200 MB")


def doctor(real: RealBed, *words: str) -> Result:
    """Run it for a small job; return what it said. The bed's fixture looks for what is left."""
    command = [real.bed.python, "-m", "hpclaunch", "doctor", real.name, *SMALL, *words]
    done = real.bed.run(command, timeout=200)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "Traceback" not in done.stderr
    return done


def test_all_is_well(real: RealBed) -> None:
    done = doctor(real)
    assert done.exit_code == 0, done
    assert "Jobs work here." in done.stdout
    for subject in (
        "queue",
        "a job as configured",
        "shared directory",
        "Python in the job",
        "node to head",
        "clocks",
    ):
        assert f"ok   {subject} " in done.stdout, done.stdout
    assert {"slurm": "walltime-limit: '01:00:00'", "sge": "memory-resource: h_vmem"}[real.name] in done.stdout


FAULTS = {
    "unshared directory": (
        ["--shared-temp-directory", "/scratch/mine"],
        "BAD  shared directory",
        "shared-temp-directory:",
    ),
    "no Python": (["--python", "/nowhere/python"], "BAD  Python in the job", "python: /path"),
    "Python without hpclaunch": (["--python", "/usr/bin/python3"], "BAD  Python in the job", "python: /path"),
    "wrong queue": (["--queue", "nosuch"], "BAD  queue", "queue: "),
    "prologue": (["--job-script-prologue", "source /nowhere/init.sh"], "BAD  prologue", "source /nowhere/init.sh"),
    "log directory": (["--log-directory", "/scratch/logs"], "BAD  shared directory", "log-directory"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(real: RealBed, name: str) -> None:
    words, named, advised = FAULTS[name]
    done = doctor(real, *words)
    assert done.exit_code == 1, done
    assert named in done.stdout, done.stdout
    assert advised in " ".join(done.stdout.split()), done.stdout
    assert done.stdout.count("BAD  ") == 1, done.stdout


def test_a_blocked_address(real: RealBed) -> None:
    if real.name == "slurm":
        pytest.skip("this bed's nodes share the loopback of the login host")
    done = doctor(real, "--interface", "lo")
    assert done.exit_code == 1, done
    assert "BAD  node to head" in done.stdout
    assert "Connection refused" in " ".join(done.stdout.split())
    assert "interface: br0" in done.stdout  # the bed's network


def test_what_the_environment_does_is_told(real: RealBed) -> None:
    """Variables of sbatch or a file of default requests, a locale that is not there, an old PYTHONPATH."""
    env = {"LC_ALL": "xx_XX.UTF-8", "PYTHONPATH": "/old", "SBATCH_PARTITION": "short"}
    requests = real.bed.home / ".sge_request"
    if real.name == "sge":
        requests.write_text("-q short.q\n-V\n")
    try:
        command = [real.bed.python, "-m", "hpclaunch", "doctor", real.name, *SMALL, "--walltime", "4m"]
        done = real.bed.run(command, timeout=200, env=env)
    finally:
        requests.unlink(missing_ok=True)
    said = " ".join(done.stdout.split())
    assert done.exit_code == 0, done
    assert {"slurm": "$SBATCH_PARTITION adds --partition=short", "sge": ".sge_request:1 adds -q short.q"}[
        real.name
    ] in said
    assert f"ok queue {'short' if real.name == 'slurm' else 'short.q'}" in said
    assert "unset PYTHONPATH" in said
    assert "export LC_ALL=C.UTF-8" in said


HOLD = {"slurm": ("--hold", "it is held"), "sge": ("-h", "hold state")}


def test_a_job_that_never_starts(real: RealBed) -> None:
    directive, reason = HOLD[real.name]
    done = doctor(real, "--job-extra-directives", directive, "--timeout", "6s")
    assert done.exit_code == 1, done
    assert "BAD  job" in done.stdout
    assert reason in " ".join(done.stdout.split())


def test_ctrl_c_leaves_nothing(real: RealBed) -> None:
    words = [real.name, *SMALL, "--job-extra-directives", HOLD[real.name][0]]
    driver = real.bed.popen([real.bed.python, "-m", "hpclaunch", "doctor", *words])
    wait_until(real.bed.jobs, "the job to be submitted")
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "its job and files are gone" in said
    assert not real.bed.jobs()
    assert not real.bed.run_directories()


SLOW = """#!/bin/bash
case "$*" in *--test-only*|*"-w v"*) exec /usr/bin/{command} "$@" ;; esac
touch {started}
while [ ! -e {go} ]; do sleep 0.05; done
exec /usr/bin/{command} "$@"
"""


def test_ctrl_c_while_a_job_is_being_submitted(real: RealBed) -> None:
    """The batch system has it a moment later: the doctor waits for its number, and cancels it."""
    command = {"slurm": "sbatch", "sge": "qsub"}[real.name]
    tools, started, go = real.bed.directory, real.bed.directory / "started", real.bed.directory / "go"
    (tools / command).write_text(SLOW.format(command=command, started=started, go=go))
    (tools / command).chmod(0o755)
    words = [real.name, *SMALL, "--job-extra-directives", HOLD[real.name][0]]
    driver = real.bed.popen(
        [real.bed.python, "-m", "hpclaunch", "doctor", *words], env={"PATH": f"{tools}:/usr/bin:/bin"}
    )
    wait_until(started.exists, "the submission to begin")
    driver.send_signal(signal.SIGINT)
    assert driver.stderr is not None
    assert "cancelling its job" in driver.stderr.readline()
    go.touch()
    driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert not real.bed.jobs()
    assert not real.bed.run_directories()


def test_more_than_the_site_allows(real: RealBed) -> None:
    """Found without a wait in the queue, and with what to write instead."""
    words = {
        "slurm": ["--walltime", "3-00:00:00"],
        "sge": ["--queue", "short.q", "--walltime", "03:00:00"],
    }[real.name]
    done = doctor(real, *words)
    assert done.exit_code == 1, done
    assert "BAD  limits" in done.stdout
    assert {"slurm": "walltime: '01:00:00'", "sge": "walltime: '00:05:00'"}[real.name] in done.stdout
