"""What the doctor asks the batch system before it submits anything, with the answers of sites of all kinds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.batch.base import Completed
from hpclaunch.config.layers import load
from hpclaunch.doctor.findings import Finding, Grade
from hpclaunch.doctor.login import of_batch_system


class Site:
    """A transport that answers as a site does: command's beginning -> exit code (None: not there), output."""

    def __init__(self, answers: Mapping[str, tuple[int | None, str]]) -> None:
        self.answers = answers

    async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
        words = " ".join(argv)
        code, text = next((one for begin, one in self.answers.items() if words.startswith(begin)), (None, ""))
        return Completed(tuple(argv), code, text if code == 0 else "", text if code else "command not found")


SLURM: dict[str, tuple[int | None, str]] = {
    "squeue": (0, ""),
    "sinfo": (0, "main*|1-00:00:00\nlong|7-00:00:00\nopen|infinite\n"),
    "sbatch --test-only": (0, ""),
}
COMPLEXES = "h_vmem h_vmem MEMORY <= YES YES 1G 0\nmem_free mf MEMORY <= YES NO 0 0\n"
SGE: dict[str, tuple[int | None, str]] = {
    "qstat": (0, ""),
    "qconf -sql": (0, "all.q\nshort.q\n"),
    "qconf -sq": (0, "qname short.q\nh_rt                  00:05:00\n"),
    "qconf -spl": (0, "mpi\nsmp.pe\n"),
    "qconf -sc": (0, COMPLEXES),
    "qsub -w v": (0, "verification: found suitable queue(s)\n"),
}


def findings(system: str, answers: Mapping[str, tuple[int | None, str]], **changes: Any) -> dict[str, Finding]:
    job = load(system, {"cores": 1, "memory": "1 GB", **changes}, env={}, paths=[]).job

    async def ask() -> dict[str, Finding]:
        return {one.subject: one async for one in of_batch_system(job, Path("job.sh"), Site(answers))}

    return asyncio.run(ask())


def test_slurm_as_it_should_be() -> None:
    found = findings("slurm", SLURM, walltime_limit="1-00:00:00")
    assert {one.grade for one in found.values()} == {Grade.OK}
    assert found["queue"].text == "main (the default)"


@pytest.mark.parametrize(
    ("changes", "subject", "grade", "words", "write"),
    [
        (
            {"queue": "nosuch"},
            "queue",
            Grade.BAD,
            "'nosuch'; there are main, long, open",
            {"queue": "main"},
        ),
        ({"queue": "long"}, "limits", Grade.NOTE, "long allows 7-00:00:00", {"walltime-limit": "7-00:00:00"}),
        ({"walltime": "2d"}, "limits", Grade.BAD, "your walltime is 2-00:00:00", {"walltime": "1-00:00:00"}),
        ({"job_extra_directives": ["-p long"]}, "queue", Grade.OK, "long", {}),
        ({"job_extra_directives": ["--partition=x"]}, "queue", Grade.BAD, "'x'; there are", {"queue": "main"}),
        ({"walltime": "30d", "queue": "open"}, "queue", Grade.OK, "open", {}),
    ],
)
def test_slurms_queues(
    changes: dict[str, Any], subject: str, grade: Grade, words: str, write: dict[str, Any]
) -> None:
    finding = findings("slurm", SLURM, **changes)[subject]
    assert (finding.grade, dict(finding.write)) == (grade, write)
    assert words in finding.text


@pytest.mark.parametrize(
    ("changes", "subject", "grade", "words", "write"),
    [
        ({}, "memory", Grade.NOTE, "hands out h_vmem, and", {"memory-resource": "h_vmem"}),
        ({"queue": "nosuch"}, "queue", Grade.BAD, "no queue 'nosuch'", {"queue": "all.q"}),
        ({"job_extra_directives": ["-q short.q"]}, "limits", Grade.BAD, "00:05:00", {"walltime": "00:05:00"}),
        ({"queue": "short.q"}, "limits", Grade.BAD, "allows 00:05:00", {"walltime": "00:05:00"}),
        (
            {"cores": 4},
            "parallel environment",
            Grade.BAD,
            "no 'smp'; there are mpi",
            {"parallel-environment": "smp.pe"},
        ),
    ],
)
def test_grid_engines(
    changes: dict[str, Any], subject: str, grade: Grade, words: str, write: dict[str, Any]
) -> None:
    finding = findings("sge", SGE, **changes)[subject]
    assert (finding.grade, dict(finding.write)) == (grade, write)
    assert words in finding.text


@pytest.mark.parametrize("changes", [{"memory_resource": "h_vmem"}, {"resource_spec": "h_vmem=1G"}])
def test_memory_that_is_asked_for_is_not_remarked_on(changes: dict[str, Any]) -> None:
    assert "memory" not in findings("sge", SGE, **changes)


def test_a_site_without_the_commands_that_list_is_no_fault() -> None:
    found = findings("sge", {key: one for key, one in SGE.items() if not key.startswith("qconf")}, cores=4)
    assert Grade.BAD not in {one.grade for one in found.values()}
    assert "qconf does not answer here" in found["queue"].text
    found = findings("slurm", {key: one for key, one in SLURM.items() if key != "sinfo"})
    assert Grade.BAD not in {one.grade for one in found.values()}


@pytest.mark.parametrize(("system", "command"), [("slurm", "squeue"), ("sge", "qstat")])
def test_a_silent_master_is_told_as_that(system: str, command: str) -> None:
    answers: dict[str, tuple[int | None, str]] = {command: (1, "Unable to contact\n controller")}
    found = findings(system, answers)
    assert list(found) == ["batch system"]
    assert "does not answer: Unable to contact controller" in found["batch system"].text


@pytest.mark.parametrize(
    ("answer", "grade"), [((1, "allocation failure: Invalid qos"), Grade.BAD), ((None, ""), Grade.NOTE)]
)
def test_what_the_batch_system_says_of_a_job_as_configured(answer: tuple[int | None, str], grade: Grade) -> None:
    assert findings("slurm", {**SLURM, "sbatch --test-only": answer})["a job as configured"].grade is grade
