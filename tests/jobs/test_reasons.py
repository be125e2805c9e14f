"""Sentences about ends."""

from __future__ import annotations

from typing import Any

import pytest

from hpclaunch.batch.base import JobUsage
from hpclaunch.jobs import reasons
from hpclaunch.jobs.reasons import Evidence, Kind, Terms

TERMS = Terms(title="Grid Engine", walltime=60, memory=24 * 10**9, python="/opt/env/bin/python")


def usage(reason: str = "", **more: Any) -> JobUsage:
    return JobUsage("7.1", reason, **more)


@pytest.mark.parametrize(
    ("evidence", "kind", "text"),
    [
        (Evidence(usage=usage("walltime reached"), has_joined=True), Kind.WALLTIME, "walltime reached (00:01:00)"),
        (Evidence(listed="TIMEOUT", has_joined=True), Kind.WALLTIME, "walltime reached (00:01:00)"),
        (
            Evidence(usage=usage("killed", signal=9, wall_seconds=61), has_joined=True),
            Kind.WALLTIME,
            "walltime reached (00:01:00)",
        ),
        (
            Evidence(usage=usage("walltime reached"), has_started=True),
            Kind.WALLTIME,
            "walltime reached (00:01:00) before a worker of it had connected",
        ),
        (
            Evidence(ran_seconds=59.0, has_started=True, has_joined=True),
            Kind.WALLTIME,
            "walltime reached (00:01:00)",
        ),
        (Evidence(exit_code=3, ran_seconds=70.0, has_started=True), Kind.FAILED, "exit code 3"),
        (Evidence(usage=usage("cancelled by 1001")), Kind.OUTSIDE, "cancelled from outside (cancelled by 1001)"),
        (
            Evidence(exit_code=143, usage=usage("CANCELLED by 0")),
            Kind.OUTSIDE,
            "cancelled from outside (CANCELLED by 0)",
        ),
        (
            Evidence(exit_code=1, gave_up="could not reach the head at 10.1.0.1:4 from node7 (tried ib0)\n"),
            Kind.FAILED,
            "the worker gave up: could not reach the head at 10.1.0.1:4 from node7 (tried ib0)",
        ),
        (
            Evidence(usage=usage("killed: memory over h_vmem", max_memory_bytes=26_010_000_000)),
            Kind.FAILED,
            "killed: memory over h_vmem (it used 26 GB of memory; 24 GB were asked for)",
        ),
        (Evidence(exit_code=127), Kind.FAILED, "exit code 127: the job script did not find a command"),
        (Evidence(exit_code=126), Kind.FAILED, "exit code 126: the job script found a command but may not run it"),
        (Evidence(usage=usage("exit code 3", exit_code=3)), Kind.FAILED, "exit code 3"),
        (Evidence(exit_code=0), Kind.FINISHED, "the job script came to its end (exit code 0)"),
        (Evidence(listed="finished (exit code 0)"), Kind.FINISHED, "finished (exit code 0)"),
        (
            Evidence(exit_code=137, usage=usage("exit code 137", exit_code=137)),
            Kind.FAILED,
            "exit code 137: killed by SIGKILL, by the system when memory runs out or by hand "
            "(24 GB were asked for)",
        ),
        (Evidence(listed="cancelled"), Kind.OUTSIDE, "cancelled from outside"),
        (Evidence(listed="failed"), Kind.FAILED, "failed"),
        (Evidence(listed="failed", usage=usage("exit code 2", exit_code=2)), Kind.FAILED, "exit code 2"),
        (
            Evidence(usage=usage("finished (exit code 0)", exit_code=0)),
            Kind.FINISHED,
            "the job script came to its end (exit code 0)",
        ),
        (
            Evidence(
                usage=usage("killed by Grid Engine for a limit (h_rt, h_cpu or h_vmem)", signal=9, wall_seconds=3)
            ),
            Kind.FAILED,
            "killed by Grid Engine for a limit (h_rt, h_cpu or h_vmem)",
        ),
        (
            Evidence(usage=usage("killed: memory 26 GB over h_vmem 24 GB", max_memory_bytes=26_010_000_000)),
            Kind.FAILED,
            "killed: memory 26 GB over h_vmem 24 GB",
        ),
        (Evidence(exit_code=139), Kind.FAILED, "exit code 139: killed by SIGSEGV"),
        (Evidence(exit_code=255), Kind.FAILED, "exit code 255: killed by signal 127"),
    ],
)
def test_why_a_job_ended(evidence: Evidence, kind: Kind, text: str) -> None:
    ending = reasons.why_ended(evidence, TERMS)
    assert (ending.kind, ending.text) == (kind, text)


def test_no_trace_of_a_job_that_never_started_is_a_cancellation() -> None:
    ending = reasons.why_ended(Evidence(), TERMS)
    assert ending.kind is Kind.OUTSIDE
    assert "before it started" in ending.text


def test_no_trace_of_a_job_that_ran_is_a_loss() -> None:
    ending = reasons.why_ended(Evidence(has_started=True, ran_seconds=5.0), TERMS)
    assert ending.kind is Kind.LOST
    assert "its node may have failed" in ending.text


@pytest.mark.parametrize(
    ("listed", "explained", "text"),
    [
        ("Eqw", "can't chdir to /scratch/x", "Grid Engine put it in Eqw: can't chdir to /scratch/x"),
        ("Eqw: can't chdir", "can't chdir", "Grid Engine put it in Eqw: can't chdir"),
        ("", "", "Grid Engine put it in an error state"),
    ],
)
def test_a_stuck_job(listed: str, explained: str, text: str) -> None:
    assert reasons.stuck(listed, explained, TERMS).text == text


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("/opt/env/bin/python: No module named hpclaunch", ["does not have hpclaunch", "`python`"]),
        ("ModuleNotFoundError: No module named 'hpclaunch'", ["does not have hpclaunch", "`python`"]),
        ("job.sh: line 9: /opt/env/bin/python: No such file or directory", ["does not have /opt/env/bin/python"]),
        ("job.sh: line 9: python3.11: command not found", ["does not have", "`python`"]),
        ("bash: /opt/env/bin/python: Permission denied", ["may not read /opt/env/bin/python", "`python`"]),
        ("cd: /home/ann: Permission denied", ["home directories", "`shared-temp-directory`"]),
    ],
)
def test_hints(log: str, words: list[str]) -> None:
    hint = reasons.hint(f"first line\n{log}\n", TERMS)
    assert all(word in hint for word in words), hint


@pytest.mark.parametrize(
    "log", ["", "all is well", "No module named 'numpy'", "data.csv: No such file or directory"]
)
def test_no_hint_where_none_is_known(log: str) -> None:
    assert reasons.hint(log, TERMS) == ""


def test_a_log_is_quoted_by_its_last_lines() -> None:
    log = "\n".join(f"line {n}" for n in range(50)) + "\n\n  \n"
    quote = reasons.quote_log("/run/logs/7.1.log", log)
    assert quote.startswith("  last lines of its log, /run/logs/7.1.log:\n")
    assert quote.endswith("  | line 49")
    assert quote.count("|") == reasons.TAIL_LINES
    assert reasons.quote_log("/x.log", "") == "  its log is empty or missing: /x.log"


def test_what_accounting_knows_against_what_was_asked_for() -> None:
    usage = JobUsage("1.1", "killed", None, 9, "node1", 50.0, 3.0, 2 * 10**9)
    terms = Terms(title="Slurm", walltime=60, memory=4 * 10**9, python="python")
    assert reasons.accounted(usage, terms) == (
        "killed by SIGKILL, ran 00:00:50 of 00:01:00, used 2 GB of the 4 GB asked for"
    )
    assert reasons.accounted(JobUsage("1.1", "finished", 0), terms) == "exit code 0"
