"""What tests on the real batch systems share: one parametrised bed, and programs that run there as a user."""

from __future__ import annotations

import contextlib
import json
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.beds import Bed, Driver, SgeBed

#: How a user of each bed makes a cluster. Slurm's nodes share this machine's loopback.
MAKE = {
    "slurm": "SLURMCluster(cores=1, memory='400 MB', interface='lo', **options)",
    "sge": "SGECluster(cores=1, memory='900 MB', resource_spec='h_vmem=900M', **options)",
}

HEAD = """
import json, os, signal, socket, sys, time, warnings
from hpclaunch import Client, JobQueueCluster, SGECluster, SLURMCluster
from hpclaunch.errors import *
def say(**facts):
    print(json.dumps(facts), flush=True)
def make(walltime="00:10:00", **options):
    options["walltime"] = walltime
    return MAKE
def where(x):
    time.sleep(0.02)
    return socket.gethostname()
def double(x):
    return 2 * x
"""


class RealBed:
    """A bed and the words to use it."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.name = bed.name

    def program(self, body: str) -> str:
        """Return a program that has ``make``, ``say`` and a few functions, and runs ``body``."""
        main = textwrap.indent(textwrap.dedent(body).strip(), "    ")
        return HEAD.replace("MAKE", MAKE[self.name]) + f'if __name__ == "__main__":\n{main}\n'

    def run(self, body: str, timeout: float = 120.0) -> dict[str, Any]:
        """Run a program to its end; return the last thing it said."""
        path = self.bed.directory / "program.py"
        path.write_text(self.program(body))
        done = self.bed.run([self.bed.python, path], timeout=timeout)
        assert done.exit_code == 0, done.stdout + done.stderr
        said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        said["stderr"] = done.stderr
        return said

    def start(self, body: str) -> tuple[Driver, Callable[[], dict[str, Any]]]:
        """Start a program; return it, and a function that returns the next thing it says."""
        path = self.bed.directory / "program.py"
        path.write_text(self.program(body))
        driver = self.bed.popen([self.bed.python, path], stderr=subprocess.STDOUT)

        def hear() -> dict[str, Any]:
            assert driver.stdout is not None
            line = driver.stdout.readline()
            assert line.startswith("{"), line + driver.stdout.read()
            said: dict[str, Any] = json.loads(line)
            return said

        return driver, hear

    @contextlib.contextmanager
    def silent_daemon(self) -> Iterator[None]:
        """Have the batch system's master frozen for the time of a block."""
        if self.name == "slurm":
            kill = ["kill"]
            pid = Path("/run/slurm-cluster/slurmctld.pid").read_text().strip()
        else:
            kill = [*SgeBed().on("sgehead"), "kill"]
            pid = Path("/var/spool/gridengine/qmaster/qmaster.pid").read_text().strip()
        subprocess.run([*kill, "-STOP", pid], check=True)
        try:
            yield
        finally:
            subprocess.run([*kill, "-CONT", pid], check=True)

    def cancel(self, job_id: str) -> None:
        """Cancel a job as a user outside of hpclaunch would."""
        command = {"slurm": "scancel", "sge": "qdel"}[self.name]
        done = self.bed.run([command, job_id])
        assert done.exit_code == 0, done


@pytest.fixture(
    params=[pytest.param("slurm", marks=pytest.mark.slurm), pytest.param("sge", marks=pytest.mark.sge)]
)
def real(request: pytest.FixtureRequest) -> RealBed:
    """Slurm, then Grid Engine."""
    return RealBed(request.getfixturevalue(request.param))
