"""The test beds do what the tests that use them rely on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import pytest

from .beds import Bed, SgeBed, wait_until

SLEEPER = "#!/bin/bash\nsleep 300\n"


@pytest.fixture(
    params=[pytest.param("slurm", marks=pytest.mark.slurm), pytest.param("sge", marks=pytest.mark.sge)]
)
def bed(request: pytest.FixtureRequest) -> Bed:
    """Each bed in turn."""
    found: Bed = request.getfixturevalue(request.param)
    return found


def submit_sleepers(bed: Bed, count: int) -> None:
    """Submit an array of jobs that last longer than any test."""
    script = bed.directory / "sleeper.sh"
    script.write_text(SLEEPER)
    array = {"slurm": ["sbatch", f"--array=1-{count}"], "sge": ["qsub", "-cwd", "-t", f"1-{count}"]}[bed.name]
    done = bed.run([*array, script])
    assert done.exit_code == 0, done


def test_commands_run_as_the_user_on_the_login_host(bed: Bed) -> None:
    done = bed.run(
        ["sh", "-c", 'id -un; pwd; echo "$HOME"; echo "$EXTRA"; echo words >&2; exit 3'], env={"EXTRA": "1 2"}
    )
    assert done == (3, f"{bed.user_name}\n{bed.directory}\n/home/{bed.user_name}\n1 2\n", "words\n")


def test_environment_is_clean(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRAY", "1")
    names = {line.partition("=")[0] for line in bed.run(["env"]).stdout.splitlines()}
    assert names == set(bed.environment)


def test_a_command_that_takes_too_long_is_killed_with_its_children(bed: Bed) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        bed.run(["sh", "-c", "sleep 1234.5 & sleep 1234.5"], timeout=0.5)
    wait_until(lambda: not bed.processes("sleep 1234.5"), "the sleeps to die")


def test_python_has_the_project_from_a_wheel(bed: Bed) -> None:
    code = "import hpclaunch, numpy, dask.array; print(hpclaunch.__file__)"
    done = bed.run([bed.python, "-c", code])
    assert done.exit_code == 0, done
    assert done.stdout.startswith(str(Path(bed.python).parents[1]))


def test_jobs_are_listed_by_element_and_cancelled(bed: Bed) -> None:
    submit_sleepers(bed, 3)
    jobs = bed.jobs()
    assert len(jobs) == 3
    assert {job[-2:] for job in jobs} == ({"_1", "_2", "_3"} if bed.name == "slurm" else {".1", ".2", ".3"})
    bed.cancel_all()
    assert bed.jobs() == []


def test_processes_of_jobs_are_seen_and_no_others(bed: Bed) -> None:
    submit_sleepers(bed, 1)
    (pid,) = wait_until(lambda: bed.processes("^sleep 300"), "the job to start")
    other = subprocess.Popen(["sleep", "300"])
    assert bed.processes("^sleep 300") == [pid]
    other.kill()
    other.wait()
    bed.cancel_all()
    wait_until(lambda: not bed.processes("^sleep 300"), "the job's process to end")


def test_signals_reach_the_driver_itself(bed: Bed) -> None:
    code = "import signal, sys; print('ready', flush=True); print(signal.sigwait({signal.SIGUSR1}).name)"
    block = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1});"
    driver = bed.popen([bed.python, "-c", block + code])
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    driver.send_signal(signal.SIGUSR1)
    assert driver.communicate(timeout=30)[0] == "SIGUSR1\n"
    assert driver.returncode == 0


def test_a_killed_driver_is_gone(bed: Bed) -> None:
    driver = bed.popen(["sleep", "1234.5"])
    wait_until(lambda: bed.processes("^sleep 1234.5"), "the driver to start")
    assert driver.command_pid in bed.processes("^sleep 1234.5")
    driver.kill()
    assert driver.wait(timeout=30) == -signal.SIGKILL
    assert not bed.processes("sleep 1234.5")


def test_what_a_test_leaves_is_reported_and_cleaned_up(bed: Bed) -> None:
    submit_sleepers(bed, 2)
    wait_until(lambda: len(bed.processes("sleep 300")) == 2, "the jobs to start", 30)
    bed.popen(["setsid", "sleep", "1234.5"])
    wait_until(lambda: bed.processes("^sleep 1234.5"), "the stray to start", 30)
    bed.run(["mkdir", "-p", bed.home / ".hpclaunch/run/left"])
    found = "\n".join(bed.left_over())
    assert "sleep 1234.5" in found
    assert "/.hpclaunch/run/left" in found
    bed.clean_up()
    wait_until(lambda: not bed.left_over(), "everything to be gone")


def test_directories_are_fresh_and_the_users_own(bed: Bed) -> None:
    first, second = bed.new_directory("with blank"), bed.new_directory("with blank")
    assert first != second
    assert bed.run(["touch", "x"], cwd=first).exit_code == 0
    assert (first / "x").stat().st_uid == bed.user.pw_uid
    assert list(second.iterdir()) == []


def test_transport_runs_as_the_user(bed: Bed) -> None:
    done = asyncio.run(bed.transport().run(["id", "-un"], timeout=30))
    assert (done.argv, done.exit_code, done.stdout) == (("id", "-un"), 0, f"{bed.user_name}\n")


@pytest.mark.slow
def test_power_cut_and_on(bed: Bed) -> None:
    node = bed.nodes[1]
    init = {"slurm": f"slurm-init-{node}", "sge": f"sge-host-{node}"}[bed.name]

    def is_up() -> bool:
        return subprocess.run(["pgrep", "-f", f"{init}$"], stdout=subprocess.DEVNULL, check=False).returncode == 0

    assert is_up()
    bed.power_cut(node)
    assert not is_up()
    bed.power_on(node)
    assert is_up()
    out = bed.directory / "out"
    submit: dict[str, list[str | Path]] = {
        "slurm": ["sbatch", "-o", out, "-w", node, "--wrap", "hostname"],
        "sge": ["qsub", "-b", "y", "-j", "y", "-o", out, "-q", f"all.q@{node}", "hostname"],
    }
    assert bed.run(submit[bed.name]).exit_code == 0
    wait_until(lambda: out.exists() and out.read_text() == f"{node}\n", "the job on the node", 60)


def test_nothing_listens_on_the_machines_own_network(bed: Bed) -> None:
    """The beds' daemons are for this machine alone."""
    daemons = {"slurm": {"slurmctld", "slurmd", "slurmdbd", "mariadbd"}, "sge": {"sge_qmaster", "sge_execd"}}[
        bed.name
    ]
    here, at_home = listening([], daemons), listening(SgeBed().on("sgehead") if bed.name == "sge" else [], daemons)
    assert at_home
    assert all(line.split()[3].startswith("127.0.0.1:") for line in here), here
    assert bed.name == "slurm" or not here


def listening(prefix: list[str], programs: set[str]) -> list[str]:
    """Return a line for each port that one of the programs listens to, as seen by root where the prefix leads."""
    done = subprocess.run([*prefix, "ss", "-Htlnp"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if any(f'"{name}"' in line for name in programs)]
