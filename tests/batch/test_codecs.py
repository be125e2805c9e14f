"""Each codec on what its batch system really says: one table per question, the same for all systems."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hpclaunch.batch.base import BatchSystem, Completed, JobState, JobStatus
from hpclaunch.batch.local import LocalProcesses
from hpclaunch.batch.sge import GridEngine
from hpclaunch.batch.slurm import Slurm
from hpclaunch.dialects import SLURM, slurm_cluster
from hpclaunch.directives import Directives
from hpclaunch.errors import ScriptError, StatusError, SubmitError

from .recorded import recorded

CODECS: dict[str, BatchSystem] = {
    "sge": GridEngine(),
    "slurm": Slurm(),
    "local": LocalProcesses(python="/usr/bin/python3", program="/x/localctl.py", spool=Path("/spool")),
}
Q, S, R, X, D, E = (
    JobState.QUEUED,
    JobState.STARTING,
    JobState.RUNNING,
    JobState.STUCK,
    JobState.ENDING,
    JobState.ENDED,
)


def ids(pattern: str, numbers: Any) -> list[str]:
    """Return ``pattern`` with each number put in."""
    return [pattern.format(number) for number in numbers]


# --- submitting

SUBMITTED = [
    ("sge", "qsub-terse", 20, ids("11.{}", range(1, 21))),
    ("sge", "qsub-one", 1, ["12.1"]),
    ("sge", "qsub-array", 4, ids("3.{}", range(1, 5))),
    # Exit code 1 and nothing on standard output, and yet the jobs are there.
    ("sge", "err-warning-submitted", 1, ["755.1"]),
    ("sge", "err-warning-submitted-terse", 1, ["756.1"]),
    ("slurm", "sbatch-array", 12, ids("22_{}", range(1, 13))),
]


@pytest.mark.parametrize(("system", "name", "count", "expected"), SUBMITTED)
def test_submitted(system: str, name: str, count: int, expected: list[str]) -> None:
    assert CODECS[system].parse_submit(recorded(system, name), count) == expected


@pytest.mark.parametrize(
    ("system", "stdout", "stderr", "code", "expected"),
    [
        ("slurm", "53;cluster2\n", "", 0, ["53_1", "53_2"]),
        ("slurm", "53\n", "sbatch: Your project has 12 hours left\n", 0, ["53_1", "53_2"]),
        ("sge", "Welcome\n9.1-2:1\n", "", 0, ["9.1", "9.2"]),
        (
            "sge",
            "",
            'Unable to run job: warning: x\nYour job-array 9.1-2:1 ("a "b" c") has been submitted\nExiting.\n',
            1,
            ["9.1", "9.2"],
        ),
        ("local", "4\n", "", 0, ["4.1", "4.2"]),
    ],
)
def test_submitted_with_other_words(system: str, stdout: str, stderr: str, code: int, expected: list[str]) -> None:
    assert CODECS[system].parse_submit(Completed((), code, stdout, stderr), 2) == expected


ANSWERS = [
    ("slurm", "5\n53\nYour project has 12 hours left\n", ["53_1", "53_2"]),
    ("slurm", "*** 2026 ***\n2026\r\n 53;big\r\n\nBye.\n", ["53_1", "53_2"]),
    ("slurm", "Checking...\nSubmitted batch job 53 on cluster big\n-- 7 jobs --\n", ["53_1", "53_2"]),
    ("sge", "2026\n9.1-2:1\nYou have\n12\njobs\n", ["9.1", "9.2"]),
    ("sge", "8.1-2:1\nresubmitted:\n9.1-2:1\n", ["9.1", "9.2"]),
    ("sge", 'Hello\nYour job-array 9.1-2:1 ("x") has been submitted\nBye\n', ["9.1", "9.2"]),
]


@pytest.mark.parametrize(("system", "stdout", "expected"), ANSWERS)
def test_ids_are_read_from_the_last_line_that_has_them(system: str, stdout: str, expected: list[str]) -> None:
    codec = {"sge": GridEngine, "slurm": Slurm}[system]()
    assert codec.parse_submit(Completed((), 0, stdout, ""), 2) == expected


def test_the_cluster_that_an_answer_names_is_asked_from_then_on() -> None:
    codec = Slurm()
    codec.parse_submit(Completed((), 0, "53;big\n", ""), 2)
    for argv in (
        codec.status(["53_1"]),
        codec.cancel(["53_1"]),
        *codec.usage(["53_1"]),
        *codec.second_look(["53_1"]),
    ):
        assert argv[1] == "--clusters=big"


def test_a_wrapper_that_fails_after_sbatch_leaves_the_answer_open() -> None:
    done = Completed((), 3, "53\n", "mail: cannot connect")
    with pytest.raises(SubmitError):
        Slurm().parse_submit(done, 2)
    assert Slurm().is_lost(done)
    assert not Slurm().is_lost(Completed((), 1, "", "sbatch: error: invalid partition"))


POLICY = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)"
LIMITS = [
    ("slurm", f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}", "MaxSubmitJobs"),
    ("slurm", f"sbatch: error: AssocGrpSubmitJobsLimit\n{POLICY}", "GrpSubmitJobs"),
    ("slurm", f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}", "MaxSubmitJobsPerUser"),
    ("slurm", f"sbatch: error: QOSMaxCpuPerUserLimit\n{POLICY}", "QOSMaxCpuPerUserLimit"),
    ("slurm", POLICY, "account or QOS"),
    ("slurm", "sbatch: error: You may have at most 20 jobs in this queue", "at most 20 jobs"),
    ("slurm", "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", "MaxJobCount"),
    (
        "sge",
        "Unable to run job: job rejected: only 2 jobs are allowed per user (current job count: 2)",
        "max_u_jobs",
    ),
    ("sge", "Unable to run job: JSV: job limit of your project", "job limit of your project"),
]


@pytest.mark.parametrize(("system", "words", "said"), LIMITS)
def test_refusals_for_the_number_of_jobs_are_told_from_others(system: str, words: str, said: str) -> None:
    assert said in CODECS[system].limit(words)


@pytest.mark.parametrize("system", ["sge", "slurm"])
def test_other_refusals_are_no_limits_on_the_number_of_jobs(system: str) -> None:
    for one, name, *_ in REFUSED:
        if one == system:
            done = recorded(system, name)
            assert CODECS[system].limit(done.stderr + done.stdout) == ""
    assert CODECS["slurm"].limit("Requested time limit is invalid (missing or exceeds some limit)") == ""


WAITS = [
    ("AssocMaxJobsLimit", "limit of running jobs"),
    ("AssocGrpCpuLimit", "group's limit of cores"),
    ("AssocGrpGRES", "AssocGrpGRES"),
    ("AssocGrpNodeLimit", "others of its jobs have ended"),
    ("QOSMaxNodePerUserLimit", "others of its jobs have ended"),
    ("AssocMaxCpuPerJobLimit", "never run"),
    ("QOSMaxWallDurationPerJobLimit", "never run"),
]


@pytest.mark.parametrize(("word", "said"), WAITS)
def test_limits_that_jobs_wait_for_are_told_in_words(word: str, said: str) -> None:
    done = Completed((), 0, f"7_1|PENDING||{word}\n", "")
    assert said in Slurm().parse_status(done, ["7_1"])["7_1"].reason


REFUSED = [
    ("sge", "err-unknown-queue", 'unknown queue "nope.q"', "qconf -sql"),
    ("sge", "err-unknown-pe", 'parallel environment "nope" does not exist', "qconf -spl"),
    ("sge", "err-unknown-complex", 'unknown resource "nope"', "qconf -sc"),
    ("sge", "err-bad-mem", '"h_vmem" is not a memory value', "24G"),
    ("sge", "err-bad-project", 'the requested project "nope" does not exist', "qconf -sprjl"),
    ("sge", "err-bad-name", "cannot start with a digit", "name"),
    ("sge", "err-qmaster-down-qsub", "unable to send message to qmaster", "qstat"),
    ("slurm", "sbatch-err-partition", "invalid partition specified: nosuch", "sinfo"),
    ("slurm", "sbatch-err-memory", "Memory specification can not be satisfied", "%m"),
    ("slurm", "sbatch-err-time", "Invalid --time specification", ""),
    ("slurm", "sbatch-err-array", "Invalid job array specification", "MaxArraySize"),
    ("slurm", "sbatch-err-option", "unrecognized option '--nosuch'", "job-extra-directives"),
    ("slurm", "sbatch-controller-down", "Unable to contact slurm controller", "squeue"),
]


@pytest.mark.parametrize(("system", "name", "words", "advice"), REFUSED)
def test_refused(system: str, name: str, words: str, advice: str) -> None:
    done = recorded(system, name)
    with pytest.raises(SubmitError) as caught:
        CODECS[system].parse_submit(done, 2)
    assert words in caught.value.output
    assert advice in CODECS[system].hint(done)


@pytest.mark.parametrize("system", CODECS)
@pytest.mark.parametrize("code", [0, 1, None])
def test_no_job_id_is_a_refusal(system: str, code: int | None) -> None:
    with pytest.raises(SubmitError):
        CODECS[system].parse_submit(Completed((), code, "", "command not found"), 2)


@pytest.mark.parametrize("system", CODECS)
@given(stdout=st.text(), stderr=st.text(), code=st.sampled_from([0, 1, 255, None]))
def test_any_answer_is_ids_or_a_refusal(system: str, stdout: str, stderr: str, code: int | None) -> None:
    try:
        found = CODECS[system].parse_submit(Completed((), code, stdout, stderr), 3)
    except SubmitError:
        return
    assert found


# --- watching

STATES: list[tuple[str, str, dict[str, JobState]]] = [
    (
        "sge",
        "qstat-arrays-xml",
        {"11.2": D, "11.3": R, "11.16": R, "11.17": S, "11.20": Q, "13.1": Q, "13.4": Q},
    ),
    ("sge", "qstat-xml", {"1.1": R, "3.4": R, "4.1": R, "4.10": R, "5.1": Q, "6.1": R, "8.1": Q}),
    ("sge", "qstat-array-pending-xml", dict.fromkeys(ids("732.{}", range(1, 11)), Q)),
    ("sge", "qstat-Eqw-array-xml", {"16.1": X, "16.2": X}),
    ("sge", "qstat-f-Eqw-xml", dict.fromkeys(("27.1", "28.1", "29.1", "30.1"), X)),
    ("sge", "qstat-empty", {}),
    ("slurm", "squeue-array", {"22_1": R, "22_8": R, "22_9": Q, "22_12": Q}),
    ("slurm", "squeue-after-scancel", {"22_1": E, "22_9": R, "22_10": Q, "22_12": Q}),
    ("slurm", "squeue-all-cancelled", dict.fromkeys(ids("22_{}", (1, 2, 3, 9, 10, 12)), E)),
    (
        "slurm",
        "squeue-ends",
        {"32_1": E, "32_2": E, "32_3": R, "32_4": E, "33_1": E, "34_1": Q, "35_2": Q, "36_1": Q},
    ),
    ("slurm", "squeue-limits", {"95_1": E, "95_2": E}),
    ("slurm", "squeue-mixed", {"36_1": Q, "36_2": Q}),
    ("slurm", "squeue-unknown", {}),
]


@pytest.mark.parametrize(("system", "name", "expected"), STATES)
def test_states(system: str, name: str, expected: dict[str, JobState]) -> None:
    found = CODECS[system].parse_status(recorded(system, name), [*expected, "99999.1", "99999_1"])
    assert {job_id: status.state for job_id, status in found.items()} == expected
    assert all(status.job_id == job_id for job_id, status in found.items())


def test_jobs_that_nobody_asked_for_are_left_out() -> None:
    assert list(CODECS["sge"].parse_status(recorded("sge", "qstat-xml"), ["3.1"])) == ["3.1"]
    assert list(CODECS["slurm"].parse_status(recorded("slurm", "squeue-array"), ["22_3"])) == ["22_3"]


def test_hosts_and_reasons_come_with_states() -> None:
    sge = CODECS["sge"].parse_status(recorded("sge", "qstat-arrays-xml"), ["11.17"])
    assert sge["11.17"] == JobStatus("11.17", S, "t", "sge3")
    slurm = CODECS["slurm"].parse_status(recorded("slurm", "squeue-ends"), ids("3{}", ("3_1", "4_1", "5_1")))
    assert slurm["33_1"].host == "node3"
    assert "shorten walltime (PartitionTimeLimit)" in slurm["34_1"].reason
    assert "more than the partition has" in slurm["35_1"].reason


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        *[("qw", Q), ("hqw", Q), ("hRwq", Q), ("Rq", Q), ("t", S), ("Rt", S), ("r", R), ("Rr", R), ("hr", R)],
        *[(word, JobState.SUSPENDED) for word in ("s", "S", "T", "ts", "tS", "RT", "RtT", "Rs")],
        *[("dr", D), ("dt", D), ("dRr", D), ("ds", D), ("Eqw", X), ("Ehqw", X), ("EhRqw", X), ("dEqw", X)],
    ],
)
def test_grid_engine_letters_are_a_case_sensitive_set(letters: str, state: JobState) -> None:
    row = f"<job_list><JB_job_number>7</JB_job_number><state>{letters}</state><tasks>1</tasks></job_list>"
    done = Completed((), 0, f"<job_info><queue_info>{row}</queue_info></job_info>", "")
    assert GridEngine().parse_status(done, ["7.1"])["7.1"].state is state


def test_a_short_grid_engine_range_with_a_step() -> None:
    row = "<job_list><JB_job_number>7</JB_job_number><state>qw</state><tasks>1-5:2,8</tasks></job_list>"
    done = Completed((), 0, f"<job_info>{row}</job_info>", "")
    assert list(GridEngine().parse_status(done, ids("7.{}", range(1, 10)))) == ["7.1", "7.3", "7.5", "7.8"]


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("launch failed requeued held", X),
        ("job requeued in held state", X),
        ("ReqNodeNotAvail, UnavailableNodes:node2", Q),
        ("Resources", Q),
    ],
)
def test_slurm_reasons_with_blanks_and_commas(reason: str, state: JobState) -> None:
    found = Slurm().parse_status(Completed((), 0, f"5_1|PENDING||{reason}\n", ""), ["5_1"])
    assert found["5_1"].state is state
    assert reason in found["5_1"].reason


def test_an_unknown_slurm_state_is_no_end() -> None:
    found = Slurm().parse_status(Completed((), 0, "5_1|DREAMING||None\n", ""), ["5_1"])
    assert found["5_1"].state is JobState.UNKNOWN


NO_ANSWER = [
    ("sge", "err-qmaster-down-qstat", "unable to send message to qmaster"),
    ("slurm", "squeue-controller-down", "Unable to contact slurm controller"),
]


@pytest.mark.parametrize(("system", "name", "words"), NO_ANSWER)
def test_no_answer_is_not_no_jobs(system: str, name: str, words: str) -> None:
    with pytest.raises(StatusError, match=words):
        CODECS[system].parse_status(recorded(system, name), ["1.1", "1_1"])


@pytest.mark.parametrize("system", CODECS)
@pytest.mark.parametrize(
    "done", [Completed((), None, "", "qstat: command not found"), Completed((), 1, "", "Segmentation fault")]
)
def test_a_command_that_breaks_is_no_answer(system: str, done: Completed) -> None:
    with pytest.raises(StatusError):
        CODECS[system].parse_status(done, ["1.1", "1_1"])


def test_half_an_answer_is_no_answer() -> None:
    done = recorded("sge", "qstat-xml")
    with pytest.raises(StatusError, match="not XML"):
        GridEngine().parse_status(Completed((), 0, done.stdout[:700], ""), ["1.1"])
    with pytest.raises(StatusError):
        CODECS["local"].parse_status(Completed((), 0, '{"id": "1.1", "st', ""), ["1.1"])


# --- explaining

REASONS = [
    ("sge", "qstat-j-Eqw-cwd", "27.1", "can't chdir to /no/such/dir: No such file or directory"),
    (
        "sge",
        "qstat-j-Eqw-log",
        "28.1",
        'can\'t open output file "/no/such/dir/out.log": No such file or directory',
    ),
    (
        "sge",
        "qstat-j-Eqw-array",
        "16.2",
        'can\'t open output file "/nosuchdir/16.2.log": No such file or directory',
    ),
    ("sge", "qstat-j-cannot-run", "12.1", 'cannot run in PE "mpi" because it only offers 16 slots'),
    (
        "sge",
        "qstat-j-cannot-run-mem",
        "23.1",
        "(-l h_rt=120,h_vmem=100G) cannot run at host because it offers only hc:h_vmem=4.000G"
        " (sge1, sge2, sge3, sge4)",
    ),
    ("sge", "qstat-j-unknown", "99999.1", ""),
    ("slurm", "squeue-unknown", "99999_1", ""),
    (
        "slurm",
        "squeue-ends",
        "34_1",
        "its walltime is over the partition's limit: it will never run; shorten walltime (PartitionTimeLimit)",
    ),
    ("slurm", "squeue-ends", "36_1", "it is held (`scontrol release` lets it go) (JobHeldUser)"),
    ("slurm", "squeue-array", "22_12", "it waits for free resources (Resources)"),
    ("slurm", "squeue-array", "22_1", ""),
]


@pytest.mark.parametrize(("system", "name", "job_id", "reason"), REASONS)
def test_reason(system: str, name: str, job_id: str, reason: str) -> None:
    assert CODECS[system].parse_explain(recorded(system, name), job_id) == reason


def test_full_queues_and_lacking_permission_are_told_once() -> None:
    full = GridEngine().parse_explain(recorded("sge", "qstat-j-hold"), "5.1")
    assert full.count("no slot is free") == 1
    assert "Job is in hold state" in full
    denied = GridEngine().parse_explain(recorded("sge", "qstat-j-no-access"), "755.1")
    assert denied == "has no permission for cluster queue (all.q, short.q)"


@pytest.mark.parametrize("system", CODECS)
def test_no_answer_is_not_no_reason(system: str) -> None:
    with pytest.raises(StatusError):
        CODECS[system].parse_explain(Completed((), 1, "", "error: commlib error: connect"), "1.1")


# --- cancelling

CANCELS: list[tuple[str, str, list[str], list[str]]] = [
    ("sge", "qdel-elements", [*ids("11.{}", (1, 2, 18, 19)), "12.1", "99999.1"], []),
    ("sge", "qdel-many", ["22.1", "23.1", "99999.1"], []),
    ("sge", "qdel-unknown", ["99999.1"], []),
    ("sge", "qdel-again", ["36.1"], []),
    ("sge", "qdel-denied", ["15.1", "15.2", "16.1"], ["15.1", "15.2"]),
    ("sge", "err-qmaster-down-qdel", ["753.1", "753.2"], ["753.1", "753.2"]),
    ("slurm", "scancel-elements", ["22_1", "22_11"], []),
    ("slurm", "scancel-unknown", ["99999_1", "99999_2"], []),
    ("slurm", "scancel-element-unknown", ["32_1", "32_77"], []),
    ("slurm", "scancel-other", ["44_1", "44_2", "36_1"], ["44_1", "44_2"]),
    ("slurm", "scancel-controller-down", ["81_1", "81_2"], ["81_1", "81_2"]),
]


@pytest.mark.parametrize(("system", "name", "asked", "refused"), CANCELS)
def test_refused_cancellations(system: str, name: str, asked: list[str], refused: list[str]) -> None:
    found = CODECS[system].parse_cancel(recorded(system, name), asked)
    assert sorted(found) == refused
    assert all(found.values())


@pytest.mark.parametrize("system", CODECS)
def test_a_cancellation_that_could_not_be_run_is_refused(system: str) -> None:
    done = Completed((), None, "", "command not found on this machine")
    assert set(CODECS[system].parse_cancel(done, ["1.1", "2.1"])) == {"1.1", "2.1"}


# --- accounting

ENDS: list[tuple[str, str, dict[str, tuple[str, int | None, int | None]]]] = [
    (
        "sge",
        "qacct-array-ends",
        {
            "13.1": ("exit code 3", 3, None),
            "13.2": ("killed by SIGKILL: cancelled by qdel, or it was killed on its host", None, 9),
            "13.3": ("exit code 127", 127, None),
            "13.4": ("finished (exit code 0)", 0, None),
        },
    ),
    ("sge", "qacct-ok", {"1.1": ("finished (exit code 0)", 0, None)}),
    (
        "sge",
        "qacct-qdel",
        {"35.1": ("killed by SIGKILL: cancelled by qdel, or it was killed on its host", None, 9)},
    ),
    ("sge", "qacct-h_rt", {"31.1": ("walltime reached (h_rt 00:00:06)", None, 9)}),
    ("sge", "qacct-h_vmem", {"38.1": ("killed: memory 578 MB over h_vmem 419 MB", None, 9)}),
    ("sge", "qacct-binary-missing", {"15.1": ("exit code 127", 127, None)}),
    ("sge", "qacct-Eqw-array", dict.fromkeys(("16.1", "16.2"), ("its log file could not be opened", None, None))),
    ("sge", "qacct-unknown", {}),
    ("sge", "err-qmaster-down-qacct", {}),
    (
        "slurm",
        "sacct-ends",
        {
            "32_1": ("exit code 3", 3, None),
            "32_2": ("killed by SIGKILL", None, 9),
            "32_4": ("finished (exit code 0)", 0, None),
            "33_1": (
                "could not be started on its node: its log file or working directory can't be used there (0:53)",
                None,
                None,
            ),
            "34_1": ("cancelled by user 0", None, None),
            "36_2": ("cancelled by user 0", None, None),
        },
    ),
    (
        "slurm",
        "sacct-limits",
        {"95_1": ("killed: out of memory", None, None), "95_2": ("walltime reached", None, None)},
    ),
    # Before the array has been taken apart its last element goes by the array's own number.
    ("slurm", "sacct-too-early", {}),
    ("slurm", "sacct-array", {"22_1": ("cancelled by user 1001", None, None)}),
    (
        "slurm",
        "sacct-cancelled",
        dict.fromkeys(ids("22_{}", range(1, 13)), ("cancelled by user 1001", None, None)),
    ),
    ("slurm", "sacct-unknown", {}),
]


@pytest.mark.parametrize(("system", "name", "expected"), ENDS)
def test_ends(system: str, name: str, expected: dict[str, tuple[str, int | None, int | None]]) -> None:
    running = ["32_3", "22_13", "99999.1", "99999_1"]
    found = CODECS[system].parse_usage(recorded(system, name), [*expected, *running])
    assert {job_id: (u.reason, u.exit_code, u.signal) for job_id, u in found.items()} == expected


def test_what_jobs_used() -> None:
    """The pages of accounting that users ask about."""
    wasteful = GridEngine().parse_usage(recorded("sge", "qacct-3524046"), ["3524046.1"])["3524046.1"]
    assert (wasteful.wall_seconds, wasteful.cpu_seconds, wasteful.host) == (126, 131.792, "d9s9b4")
    assert wasteful.max_memory_bytes == round(13.432 * 2**30)
    well_used = GridEngine().parse_usage(recorded("sge", "qacct-3524073"), ["3524073.1"])["3524073.1"]
    assert (well_used.wall_seconds, well_used.cpu_seconds, well_used.exit_code) == (21, 146.665, 0)
    killed = GridEngine().parse_usage(recorded("sge", "qacct-3526684"), ["3526684.1"])["3526684.1"]
    assert (killed.wall_seconds, killed.cpu_seconds, killed.signal) == (766, 728.84, 9)
    assert "qdel" in killed.reason
    slurm = Slurm().parse_usage(recorded("slurm", "sacct-limits"), ["95_2"])["95_2"]
    assert (slurm.wall_seconds, slurm.cpu_seconds, slurm.host) == (80, 0.003, "node1")
    assert slurm.max_memory_bytes == 4792 * 1024


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:03.156", 3.156), ("01:02:03", 3723), ("1-01:00:00", 90000), ("", None), ("x", None)]
)
def test_slurm_cpu_times(text: str, seconds: float | None) -> None:
    row = f"5_1|COMPLETED|0:0|3|{text}||node1\n"
    assert Slurm().parse_usage(Completed((), 0, row, ""), ["5_1"])["5_1"].cpu_seconds == seconds


def test_a_job_put_back_into_the_queue_has_not_ended() -> None:
    first = recorded("sge", "qacct-ok").stdout.replace("failed       0    ", "failed       25  : rescheduling")
    assert "25  : rescheduling" in first
    assert GridEngine().parse_usage(Completed((), 0, first, ""), ["1.1"]) == {}
    both = first + recorded("sge", "qacct-ok").stdout.replace("exit_status  0", "exit_status  4")
    assert GridEngine().parse_usage(Completed((), 0, both, ""), ["1.1"])["1.1"].exit_code == 4


@pytest.mark.parametrize(
    ("failed", "status", "reason"),
    [
        ("19  : before writing exit_status", "0", "its host died while it ran"),
        ("27  : searching requested shell", "0", "its shell could not be found on the host"),
        ("28  : changing into working directory", "0", "its working directory could not be entered"),
        ("100 : assumedly after job", "138 (User defined signal 1)", "killed by SIGUSR1: walltime reached (s_rt)"),
        (
            "100 : assumedly after job",
            "152 (CPU time)",
            "killed by SIGXCPU: a soft limit (s_vmem, s_cpu) was reached",
        ),
        ("7   : before prolog", "0", "Grid Engine says: before prolog (failed 7)"),
        ("37  : qmaster enforced", "137", "killed by Grid Engine for a limit of run time, CPU time or memory"),
    ],
)
def test_grid_engine_failures_in_words(failed: str, status: str, reason: str) -> None:
    page = f"jobnumber 7\ntaskid 2\nfailed {failed}\nexit_status {status}\n"
    assert GridEngine().parse_usage(Completed((), 0, page, ""), ["7.2"])["7.2"].reason == reason


def test_an_exit_code_over_128_is_not_a_signal_of_the_job() -> None:
    page = "jobnumber 7\ntaskid 2\nfailed 0\nexit_status 143\n"
    usage = GridEngine().parse_usage(Completed((), 0, page, ""), ["7.2"])["7.2"]
    assert (usage.exit_code, usage.signal, usage.reason) == (143, None, "exit code 143")


def test_memory_over_h_vmem_counts_slots() -> None:
    page = "jobnumber 7\ntaskid 1\nslots {}\nfailed 37\nexit_status 137\nmaxvmem 26.000GB\nru_wallclock 5s\n"
    page += "category -l h_rt=600,h_vmem=6G -pe smp 4\n"
    four = GridEngine().parse_usage(Completed((), 0, page.format(4), ""), ["7.1"])["7.1"]
    assert four.reason == "killed: memory 27.9 GB over h_vmem 25.8 GB"
    eight = GridEngine().parse_usage(Completed((), 0, page.format(8), ""), ["7.1"])["7.1"]
    assert eight.reason.startswith("killed by Grid Engine for a limit")


def test_slurm_failures_that_accounting_has_not_caught_up_with_are_no_ends() -> None:
    row = "5_1|FAILED|0:0|3|00:00:00||node1\n"
    assert Slurm().parse_usage(Completed((), 0, row, ""), ["5_1"]) == {}


def test_no_accounting_is_not_no_ends() -> None:
    with pytest.raises(StatusError, match="Connection refused"):
        Slurm().parse_usage(recorded("slurm", "sacct-database-down"), ["1_1"])
    for codec in CODECS.values():
        with pytest.raises(StatusError):
            codec.parse_usage(Completed((), None, "", "command not found on this machine"), ["1.1", "1_1"])


# --- commands

SQUEUE = ["squeue", "--noheader", "--all", "--array", "--states=all", "--format=%i|%T|%N|%r"]
COMMANDS = {
    "sge": {
        "submit": ["qsub", "-terse", "-t", "1-5", "-w", "w", "/d/job.sh"],
        "status": ["qstat", "-u", "$user", "-s", "a", "-xml"],
        "explain": ["qstat", "-j", "4"],
        "cancel": ["qdel", "-f", "4.1", "4.2"],
    },
    "slurm": {
        "submit": ["sbatch", "--parsable", "--array=1-5", "-w", "w", "/d/job.sh"],
        "status": [*SQUEUE, "--jobs=4"],
        "explain": [*SQUEUE, "--jobs=4_1"],
        "cancel": ["scancel", "-f", "4_1", "4_2"],
    },
}


@pytest.mark.parametrize("system", COMMANDS)
def test_commands(system: str) -> None:
    codec = {"sge": GridEngine, "slurm": Slurm}[system](submit_extra=["-w", "w"], cancel_extra=["-f"])
    one, two = ids({"sge": "4.{}", "slurm": "4_{}"}[system], (1, 2))
    assert {
        "submit": list(codec.submit(Path("/d/job.sh"), 5)),
        "status": list(codec.status([one, two])),
        "explain": list(codec.explain(one)),
        "cancel": list(codec.cancel([one, two])),
    } == COMMANDS[system]


def test_accounting_is_asked_once_per_number() -> None:
    assert GridEngine().usage(["4.1", "4.2", "5.1"]) == [("qacct", "-j", "4"), ("qacct", "-j", "5")]
    (argv,) = Slurm().usage(["4_1", "4_2", "5_1"])
    assert argv[-1] == "--jobs=4,5"


def test_a_site_that_does_not_tell_why_jobs_wait() -> None:
    text = "job_number:  7\nscheduling info:            (Collecting of scheduler job information is turned off)\n"
    said = GridEngine().parse_explain(Completed(("qstat", "-j", "7"), 0, text, ""), "7.1")
    assert said.startswith("this site does not tell why jobs wait (schedd_job_info is off)")


# Jobs that were put back

SACCT_D = """\
57_1|{first}|0:0|60|00:00.1||node2
57_1.batch|COMPLETED|0:0|60|00:00.1||node2
57_1|RUNNING|0:0|3|00:00.1||node1
57_1.batch|RUNNING|0:0|3|00:00.1||node1
57_2|NODE_FAIL|0:0|60|00:00.1||node3
57_2|CANCELLED by 1001|0:0|1|00:00.1||node1
"""


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("REQUEUED", "it was requeued (scontrol requeue"),
        ("NODE_FAIL", "its node failed (node2)"),
        ("PREEMPTED", "pre-empted by a job of higher priority"),
        ("RUNNING", ""),
        ("PENDING", ""),
    ],
)
def test_why_slurm_put_a_job_back(word: str, said: str) -> None:
    done = Completed((), 0, SACCT_D.format(first=word), "")
    text = Slurm().parse_put_back(done, "57_1")
    assert text.startswith(said)
    assert bool(text) == bool(said)
    assert Slurm().put_back("57_1")[:2] == ("sacct", "--duplicates")
    assert Slurm().parse_put_back(done, "57_2") == "its node failed (node3)"
    assert Slurm().parse_put_back(done, "57_3") == ""
    with pytest.raises(StatusError):
        Slurm().parse_put_back(Completed((), 1, "", "sacct: error: Unable to contact slurmdbd"), "57_1")


@pytest.mark.parametrize(
    ("code", "said"), [("25  : rescheduling", "`qmod -rj`"), ("19  : before", "its host died")]
)
def test_why_grid_engine_put_a_job_back(code: str, said: str) -> None:
    done = recorded("sge", "qacct-ok")
    number = re.search(r"jobnumber +(\d+)", done.stdout)[1]  # type: ignore[index]
    text = re.sub(r"failed       0 .*", f"failed       {code}", done.stdout)
    assert said in GridEngine().parse_put_back(Completed((), 0, text + done.stdout, ""), f"{number}.1")
    assert GridEngine().parse_put_back(done, f"{number}.1") == ""
    assert GridEngine().parse_put_back(Completed((), 0, text, ""), "99999.1") == ""
    assert GridEngine().parse_put_back(recorded("sge", "qacct-unknown"), "1.1") == ""
    with pytest.raises(StatusError):
        GridEngine().parse_put_back(recorded("sge", "err-qmaster-down-qstat"), "1.1")


# Slurm on several clusters


@pytest.mark.parametrize(
    ("extra", "words", "name"),
    [
        ([], [], ""),
        (["-M east"], [], "east"),
        (["-Meast"], [], "east"),
        (["-p long --clusters=east"], [], "east"),
        ([], ["-M", "east"], "east"),
        ([], ["-Meast"], "east"),
        ([], ["--clusters=east"], "east"),
        (["-M west"], ["--clusters", "east"], "east"),
        (["--mem=4G"], ["--comment=-M"], ""),
    ],
)
def test_jobs_are_followed_where_they_are_sent(extra: list[str], words: list[str], name: str) -> None:
    assert slurm_cluster(extra, words) == name


@pytest.mark.parametrize("names", ["east,west", "all"])
def test_jobs_cannot_be_sent_to_whichever_cluster(names: str) -> None:
    with pytest.raises(ScriptError, match="follows jobs on one cluster only"):
        slurm_cluster([], ["-M", names])
    with pytest.raises(ScriptError, match="follows jobs on one cluster only"):
        Directives([f"--clusters={names}"], [], SLURM)


def test_every_command_names_the_cluster() -> None:
    codec = Slurm(cluster="east", submit_extra=("-M", "east"))
    argvs = [codec.find(Path("/job.sh")), codec.status(["7_1"]), codec.explain("7_1"), codec.cancel(["7_1"])]
    argvs += [*codec.usage(["7_1"]), codec.put_back("7_1")]
    assert all("--clusters=east" in argv for argv in argvs)
    done = Completed((), 0, "7;east\n", "")
    assert codec.parse_submit(done, 2) == ["7_1", "7_2"]
    listed = Completed((), 0, "CLUSTER: east\n7_1|RUNNING|node1|None\n", "")
    assert list(codec.parse_status(listed, ["7_1"])) == ["7_1"]


def test_grid_engines_reasons_are_put_in_words() -> None:
    text = """\
scheduling info:            queue instance "all.q@sge1" dropped because it is temporarily not available
                            queue instance "all.q@sge2" dropped because it is disabled
                            (-l h_rt=600) cannot run in queue "short.q" because of cluster queue
                            something new
"""
    assert GridEngine().parse_explain(Completed((), 0, text, ""), "7.1") == (
        "the host does not answer (all.q@sge1); the queue is disabled (all.q@sge2); "
        "-l h_rt=600 is more than the queue allows (short.q); something new"
    )
