"""Parallel jobs on the real batch systems: rendered, submitted and followed by ``hpclaunch script``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.real.conftest import RealBed
from tests.testbed.beds import Result, wait_until

PROGRAM = """
import os, socket, sys, time
from hpclaunch import Client, initialize
if "plain" not in sys.argv:
    initialize()
def where(x):
    time.sleep(0.05)
    return socket.gethostname()
client = Client()
hosts = client.gather(client.map(where, range(40)))
print("script on", socket.gethostname())
print("workers on", *sorted(set(hosts)), "in all", len(client.cluster.workers()), flush=True)
{rest}
"""

#: Options of the script, by bed, and how the ranks are started.
SLURM = ["--walltime", "00:05:00"]
SGE = ["--walltime", "00:05:00", "--pe", "mpi", "--resource-spec", "h_vmem=1500M"]
LAUNCHERS = {
    "slurm": {
        "mpirun": ["--launcher", "mpirun -np $SLURM_NTASKS"],
        "srun": ["--launcher", "srun --mpi=pmix"],
        "no MPI": ["--no-mpi"],
    },
    "sge": {"mpirun": [], "no MPI": ["--no-mpi"]},
}


def submit(real: RealBed, how: str, *arguments: str, rest: str = "", wait: bool = True, ranks: int = 4) -> Result:
    """Write the program, and submit it as ranks."""
    (real.bed.directory / "program.py").write_text(PROGRAM.format(rest=rest))
    options = [
        *(SLURM if real.name == "slurm" else SGE),
        *LAUNCHERS[real.name][how],
        "--wait" if wait else "--submit",
    ]
    words = [real.bed.python, "-m", "hpclaunch", "script", real.name, "--mpi", str(ranks), *options]
    return real.bed.run([*words, "program.py", *arguments], timeout=120)


@pytest.mark.parametrize("how", ["mpirun", "srun", "no MPI"])
def test_four_ranks_compute(real: RealBed, how: str) -> None:
    if how not in LAUNCHERS[real.name]:
        pytest.skip("Grid Engine has no srun")
    done = submit(real, how, *(["plain"] if how == "no MPI" else []))
    assert done.exit_code == 0, done
    found = re.search(r"workers on (.*) in all 2$", done.stdout, re.MULTILINE)
    assert found is not None, done
    script = re.search(r"script on (.*)$", done.stdout, re.MULTILINE)
    assert script is not None
    assert len({script[1], *found[1].split()}) > 1, "the ranks are on several hosts"
    assert re.fullmatch(r"\d+", done.stdout.splitlines()[0]), "the first line is the job's id, for scripts"
    assert "has ended" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_exit_code_is_the_scripts(real: RealBed) -> None:
    done = submit(real, "mpirun", rest="sys.exit(3)")
    assert done.exit_code == 3, done


def test_a_failing_script_is_told_once(real: RealBed) -> None:
    done = submit(real, "no MPI", rest="raise ValueError('of the script')")
    assert done.exit_code == 1, done
    assert done.stdout.count("ValueError: of the script") == 1
    assert done.stdout.count("Traceback") == 1


def test_a_job_that_is_to_end_ends_in_order(real: RealBed) -> None:
    """The batch system's notice comes to the script as sys.exit() would, and the cluster is still there then."""
    rest = """
    try:
        print("sleeping", flush=True)
        time.sleep(100)
    finally:
        print("at the end", client.submit(sum, [20, 22]).result(10), flush=True)
    """
    done = submit(real, "mpirun", rest=textual(rest), wait=False)
    job = done.stdout.split()[0]
    log = real.bed.directory / f"program.{job}.log"
    wait_until(lambda: log.exists() and "sleeping" in log.read_text(), "the script to sleep", 60)
    notice = {"slurm": ["scancel", "--batch", "--signal=USR1", job], "sge": ["qdel", job]}[real.name]
    assert real.bed.run(notice).exit_code == 0
    wait_until(
        lambda: "at the end 42" in log.read_text(), f"the script's last words; so far {log.read_text()}", 30
    )
    wait_until(lambda: not real.bed.jobs(), "the job's end", 60)


def textual(text: str) -> str:
    """Return indented lines as they stand in a program."""
    import textwrap

    return textwrap.dedent(text)


def test_the_submission_files_of_the_examples(real: RealBed) -> None:
    """What the examples' folder has for this batch system can be submitted as it is, but for the site's words."""
    folder = Path(__file__).parents[2] / "examples" / "mpi"
    for name in ("array_sum.py", f"{real.name}.sh"):
        text = (folder / name).read_text().replace("module load", ": module load")
        text = text.replace("python array_sum.py", f"{real.bed.python} array_sum.py").replace(
            "-pe ib 8", "-pe mpi 4"
        )
        text = (
            text.replace("--ntasks=8", "--ntasks=4").replace("srun ", "srun --mpi=pmix ").replace("-np 8", "-np 4")
        )
        (real.bed.directory / name).write_text(text)
    command = {"slurm": ["sbatch", "--wait", "slurm.sh"], "sge": ["qsub", "-sync", "y", "sge.sh"]}[real.name]
    done = real.bed.run(command, timeout=120)
    logs = "".join(path.read_text() for path in real.bed.directory.glob("*.log"))
    assert done.exit_code == 0, (done, logs)
    assert "mean of the column sums" in logs
