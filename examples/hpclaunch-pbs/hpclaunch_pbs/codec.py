"""PBS as a codec (OpenPBS and PBS Professional).

What one has to know:

* An array has two elements at least: ``-J 1-1`` is refused. One job is submitted as a plain job.
* An element's id has its number in brackets, ``7[3].pbs``, and that is its ``$PBS_JOBID`` as well.
* ``qstat -f`` folds its lines: what begins with a tab belongs to the line before.
* ``qstat -x`` shows ended jobs too, with their exit codes, if the server keeps a history.
* An exit code from 256 up means a signal; a negative one, that PBS could not start the job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpclaunch.batch.base import BatchSystem, Completed, JobState, JobStatus, JobUsage
from hpclaunch.config.schema import JobConfig
from hpclaunch.directives import Dialect
from hpclaunch.errors import StatusError, SubmitError

_STATES = {
    "Q": JobState.QUEUED,
    "H": JobState.QUEUED,
    "W": JobState.QUEUED,
    "T": JobState.QUEUED,  # in transit to another queue
    "R": JobState.RUNNING,
    "B": JobState.RUNNING,  # an array of which some element has begun
    "S": JobState.SUSPENDED,
    "U": JobState.SUSPENDED,
    "E": JobState.ENDING,
    "F": JobState.ENDED,
    "X": JobState.ENDED,
    "M": JobState.ENDED,  # moved to another server
}
_ID = re.compile(r"(\d+)(\[\])?(\.[\w.-]+)", re.ASCII)
_JOB_ID = re.compile(r"\d+(\[\d+\])?(\.[A-Za-z0-9][\w.-]*)?", re.ASCII)
_GONE = ("Unknown Job Id", "Job has finished", "Request invalid for state of job")
_HINTS = (
    ("Unknown queue", "`qstat -Q` lists the queues; set the key `queue`."),
    ("Invalid account", "Set the key `account`."),
    ("illegal -", "Is a line of job-extra-directives as qsub takes it?"),
    ("command not found", "Is this a login node, and is the module of PBS loaded?"),
)
_UNITS = {"b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}


def seconds(text: str) -> int | None:
    """Read a time of PBS: seconds, M:S or H:M:S; None if it is nothing of that."""
    if not re.fullmatch(r"\d+(:\d+){0,2}", text.strip()):
        return None
    total = 0
    for part in text.strip().split(":"):
        total = total * 60 + int(part)
    return total


class PBS(BatchSystem):
    """The codec; see :class:`hpclaunch.batch.base.BatchSystem` for what each method is for."""

    name = "pbs"
    title = "PBS"
    template = "pbs.sh.j2"
    ranks_template = "pbs_ranks.sh.j2"
    template_directory = Path(__file__).parent
    needed_commands = ("qsub", "qstat", "qdel")
    dialect = Dialect(
        prefix="#PBS",
        same={"-e": "-o"},
        refused={
            "-J": "hpclaunch counts the elements of its job arrays itself; use scale(jobs=...)",
            "-I": "the job would be interactive",
            "-W block": "qsub would not return before the jobs have ended",
        },
        list_option="-l",
        queue_option="-q",
        time_option="-l walltime",
        read_seconds=seconds,
    )

    def __init__(self, *, submit_extra: Sequence[str] = (), cancel_extra: Sequence[str] = ()) -> None:
        self._submit_extra = tuple(submit_extra)
        self._cancel_extra = tuple(cancel_extra)

    @classmethod
    def from_config(cls, config: JobConfig, directory: Path) -> PBS:
        return cls(submit_extra=config.submit_command_extra, cancel_extra=config.cancel_command_extra)

    def is_job_id(self, text: str) -> bool:
        return _JOB_ID.fullmatch(text) is not None

    # --- submitting

    def submit(self, script: Path, count: int | None) -> tuple[str, ...]:
        array = ("-J", f"1-{count}") if count is not None and count > 1 else ()
        return ("qsub", *array, *self._submit_extra, str(script))

    def parse_submit(self, done: Completed, count: int | None) -> list[str]:
        lines = [match for line in done.stdout.splitlines() if (match := _ID.fullmatch(line.strip()))]
        if done.exit_code != 0 or not lines:
            raise SubmitError("not submitted", output=(done.stderr + done.stdout).strip())
        number, is_array, server = lines[-1].groups()
        return [f"{number}[{i}]{server}" for i in range(1, (count or 1) + 1)] if is_array else [number + server]

    def limit(self, words: str) -> str:
        match = re.search(r"would exceed (.*limit.*)", words)
        return match[1].strip() if match else super().limit(words)

    def hint(self, done: Completed) -> str:
        words = done.stderr + done.stdout
        return next((hint for sign, hint in _HINTS if sign in words), "")

    def find(self, script: Path) -> tuple[str, ...]:
        return ("qstat", "-t", "-f")

    def parse_find(self, done: Completed, script: Path) -> list[str]:
        jobs = _jobs(done)
        return [one for one, job in jobs.items() if _is_of(job, script) and "[]" not in one]

    # --- watching

    def status(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        return ("qstat", "-x", "-t", "-f", *job_ids)

    def parse_status(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        jobs = _jobs(done)
        return {one: _status(one, jobs[one]) for one in job_ids if one in jobs}

    # --- ending

    def cancel(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        return ("qdel", *self._cancel_extra, *job_ids)

    def parse_cancel(self, done: Completed, job_ids: Sequence[str]) -> dict[str, str]:
        if done.exit_code == 0:
            return {}
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        refusals = [line for line in lines if not any(sign in line for sign in _GONE)]
        named = {one: line for one in job_ids for line in refusals if one in line}
        if (refusals and not named) or not lines:  # it did not come to any of them
            return dict.fromkeys(job_ids, " ".join(refusals) or "qdel failed")
        return named

    def usage(self, job_ids: Sequence[str]) -> list[tuple[str, ...]]:
        return [self.status(job_ids)]

    def parse_usage(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobUsage]:
        jobs = _jobs(done)
        ended = [one for one in job_ids if one in jobs and jobs[one].get("job_state") in ("F", "X")]
        return {one: _usage(one, jobs[one]) for one in ended}


def _jobs(done: Completed) -> dict[str, dict[str, str]]:
    """Read ``qstat -f``: the attributes of each job.

    :raises StatusError: PBS did not answer. That a job is unknown is an answer.
    """
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    is_answer = done.exit_code == 0 or (errors and all(any(s in line for s in _GONE) for line in errors))
    if done.exit_code is None or not is_answer:
        output = done.stderr or done.stdout
        raise StatusError("PBS does not answer", argv=done.argv, exit_code=done.exit_code, output=output)
    jobs: dict[str, dict[str, str]] = {}
    job: dict[str, str] = {}
    for line in done.stdout.replace("\n\t", "").splitlines():
        if line.startswith("Job Id: "):
            job = jobs.setdefault(line.removeprefix("Job Id: ").strip(), {})
        elif " = " in line:
            key, _, value = line.strip().partition(" = ")
            job[key] = value
    return jobs


def _is_of(job: dict[str, str], script: Path) -> bool:
    return job.get("Submit_arguments", "").strip().strip("'\"").endswith(str(script))


def _status(job_id: str, job: dict[str, str]) -> JobStatus:
    state = _STATES.get(job.get("job_state", ""), JobState.UNKNOWN)
    host = re.split(r"[/:+]", job.get("exec_host", ""))[0]
    return JobStatus(job_id, state, job.get("comment", ""), host)


def _usage(job_id: str, job: dict[str, str]) -> JobUsage:
    code = int(job["Exit_status"]) if re.fullmatch(r"-?\d+", job.get("Exit_status", "")) else None
    number = code - 256 if code is not None and code >= 256 else None
    wall, limit = seconds(job.get("resources_used.walltime", "")), seconds(job.get("Resource_List.walltime", ""))
    if number is not None and wall is not None and limit is not None and wall >= limit:
        reason = f"walltime reached ({job['Resource_List.walltime']})"
    elif number is not None:
        reason = f"killed by signal {number}: cancelled by qdel, or over a limit"
    elif code is None or code < 0:
        reason = f"PBS did not run it: {job.get('comment') or 'it does not say why'}"
    else:
        reason = "finished (exit code 0)" if code == 0 else f"exit code {code}"
    return JobUsage(
        job_id,
        reason,
        exit_code=code if code is not None and 0 <= code < 256 else None,
        signal=number,
        host=_status(job_id, job).host,
        wall_seconds=wall,
        cpu_seconds=seconds(job.get("resources_used.cput", "")),
        max_memory_bytes=_bytes(job.get("resources_used.mem", "")),
    )


def _bytes(text: str) -> int | None:
    match = re.fullmatch(r"(\d+)([kmgt]?b)", text)
    return int(match[1]) * _UNITS[match[2]] if match else None
