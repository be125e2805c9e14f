"""Limits of the site and settings of the user, on the real batch systems: what fits runs, and nothing is lost."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conftest import RealBed
from tests.testbed.beds import SgeBed, wait_until


def _must(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def slurm_limit(user: str, setting: str) -> Iterator[None]:
    """Limit what a user may have: ``MaxSubmitJobs=2``."""
    key = setting.rpartition("=")[0]
    change = ["sacctmgr", "--immediate", "--quiet", "modify", "user", user, "set"]
    _must([*change, setting])
    try:
        yield
    finally:
        _must([*change, f"{key}=-1"])


@contextlib.contextmanager
def sge_limit(bed: SgeBed, key: str, value: int, directory: Path) -> Iterator[None]:
    """Change one line of Grid Engine's global configuration."""
    qconf = [*bed.on(bed.head), "qconf"]
    before = _must([*qconf, "-sconf", "global"])
    file = directory / "global"

    def put(lines: list[str]) -> None:
        file.write_text("\n".join(lines) + "\n")
        _must([*qconf, "-Mconf", str(file)])

    lines = [line for line in before.splitlines() if not line.startswith("#")]
    try:
        put([f"{key} {value}" if line.split()[:1] == [key] else line for line in lines])
        yield
    finally:
        put(lines)


WORK = """
with make() as cluster, Client(cluster) as client:
    cluster.adapt(maximum_jobs=8, interval="0.2s", target_duration="0.1s")
    got = client.gather(client.map(where, range(400)))
    say(got=len(got), log=str(cluster.adapt_log()))
"""


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.parametrize("setting", ["MaxSubmitJobs=2", "GrpSubmitJobs=2"])
def test_a_limit_of_submitted_jobs_is_what_a_cluster_works_with(slurm: object, setting: str) -> None:
    bed = RealBed(slurm)  # type: ignore[arg-type]
    with slurm_limit(bed.bed.user_name, setting):
        said = bed.run(WORK)
    assert said["got"] == 400
    assert "no more than 2 jobs" in said["log"]


@pytest.mark.slow
@pytest.mark.sge
def test_grid_engines_limit_of_jobs_is_what_a_cluster_works_with(sge: SgeBed, tmp_path: Path) -> None:
    bed = RealBed(sge)
    with sge_limit(sge, "max_u_jobs", 1, tmp_path):
        said = bed.run(WORK)
    assert said["got"] == 400


FOREIGN = """
with make(walltime='00:04:00') as cluster, Client(cluster) as client:
    cluster.scale(jobs=6)
    got = client.gather(client.map(where, range(50)))
    ended = [job["reason"] for job in cluster.jobs() if job["state"] == "ended"]
    say(got=len(got), ended=ended, script=cluster.job_script())
"""


@pytest.mark.slow
@pytest.mark.slurm
def test_slurm_variables_neither_change_jobs_nor_hide_them(slurm: object) -> None:
    bed = RealBed(slurm)  # type: ignore[arg-type]
    environ = {
        "SBATCH_PARTITION": "short",
        "SBATCH_MEM_PER_NODE": "1M",
        "SBATCH_TIMELIMIT": "1",
        "SQUEUE_PARTITION": "nosuch",
        "SQUEUE_FORMAT": "%j",
        "SLURM_TIME_FORMAT": "relative",
        "SLURM_CLUSTERS": "workshop",
        "SACCT_FORMAT": "JobID",
    }
    path = bed.bed.directory / "program.py"
    path.write_text(bed.program(FOREIGN))
    done = bed.bed.run([bed.bed.python, path], timeout=120.0, env=environ)
    assert done.exit_code == 0, done.stdout + done.stderr
    assert '"got": 50' in done.stdout
    assert '"ended": []' in done.stdout
    assert "--partition=short" in done.stdout
    assert "--clusters=workshop" in done.stdout
    assert "$SBATCH_TIMELIMIT asks for --time=1" in done.stderr
    wait_until(lambda: not bed.bed.jobs(), "the cluster's jobs to be gone")


@pytest.mark.slow
@pytest.mark.sge
@pytest.mark.parametrize("options", ["-s r", "-q short.q", "-u nosuch", "-g c", "-j 1"])
def test_files_of_defaults_neither_change_jobs_nor_hide_them(sge: SgeBed, options: str) -> None:
    bed = RealBed(sge)
    (sge.home / ".sge_qstat").write_text(f"{options}\n")
    (sge.home / ".sge_request").write_text("-q short.q -l h_rt=5 -A mine\n-soft -l h_vmem=1M\n")
    try:
        said = bed.run(FOREIGN)
    finally:
        (sge.home / ".sge_qstat").unlink()
        (sge.home / ".sge_request").unlink()
    assert said["got"] == 50
    assert said["ended"] == []
    assert "#$ -clear" in said["script"]
    assert "#$ -A mine" in said["script"]
    assert "h_rt=5\n" not in said["script"]
