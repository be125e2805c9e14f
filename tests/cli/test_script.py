"""``hpclaunch script``: exactly the script, or one clear error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpclaunch import scripts
from hpclaunch.config.layers import load

from .conftest import Typed


def hpclaunch(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Run the command; return its exit code and what it printed."""
    environment = {**os.environ, "HPCLAUNCH_RUN_DIRECTORY": str(cwd / "run")}
    done = subprocess.run(
        [sys.executable, "-c", "from hpclaunch.cli.main import main; main()", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_it_prints_what_a_cluster_submits_and_nothing_else(tmp_path: Path) -> None:
    options = ["--cores", "4", "--memory", "8GB", "--walltime", "01:00:00", "--queue", "all.q", "--job-name", "w"]
    code, out, err = hpclaunch(
        "script", "sge", *options, "--job-extra", "-V", "--job-extra-directives", "-l disk=1G", cwd=tmp_path
    )
    assert (code, err) == (0, "")
    job = load(
        "sge",
        {
            "cores": 4,
            "memory": "8 GB",
            "walltime": "01:00:00",
            "queue": "all.q",
            "name": "w",
            "job_extra_directives": ["-V", "-l disk=1G"],
        },
        env={},
        paths=[],
    ).job
    directory = tmp_path / "run" / "w-00000000"
    assert out == scripts.render(job, cluster_id="w-00000000", directory=directory, work_directory=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("section", ["sge", "slurm", "local"])
def test_every_batch_system_has_one(section: str, typed: Typed) -> None:
    done = typed("script", section, "--cores", "2", "--memory", "1 GB")
    assert done.returncode == 0
    assert done.stdout.startswith("#!/usr/bin/env bash\n")
    assert "-m hpclaunch.worker" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["slurm", "--core", "3"], "--cores"),
        (["slurn", "--cores", "3"], "did you mean 'slurm'?"),
        (["slurm", "--cores", "3", "--memory", "1 gigabyte"], "argument memory"),
        (["slurm", "--cores", "2", "--processes", "3", "--memory", "1 GB"], "processes"),
        (["sge", "--cores", "2", "--memory", "1 GB", "--queue", 'a"b'], "can't stand in a batch directive"),
        (["sge", "--cores", "2", "--memory", "1 GB", "--job-extra", "-t 1-3"], "scale(jobs=...)"),
        (["slurm", "--cores", "2", "--memory", "1 GB", "--template-directory", "nosuch"], "is not a directory"),
        ([], "Missing argument 'SECTION'"),
    ],
)
def test_a_mistake_is_one_error_and_no_script(arguments: list[str], words: str, typed: Typed) -> None:
    done = typed("script", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_skip_that_hits_nothing_is_told_beside_the_script(typed: Typed) -> None:
    arguments = ["slurm", "--cores", "1", "--memory", "1 GB", "--job-directives-skip", "--mem-bind"]
    done = typed("script", *arguments)
    assert done.returncode == 0
    assert "#SBATCH --mem=" in done.stdout
    assert "'--mem-bind' is no directive of the script" in done.stderr
