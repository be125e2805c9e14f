"""Slurm as a codec (22.05 and its neighbours).

What one has to know:

* A job that ``squeue`` does not list is not thereby "completed"; ``-t all`` shows ended ones for some minutes.
* ``sacct`` lags by a second or two and may show an ended job as PENDING; elements cancelled while they waited
  never appear there.
* Memory use stands on the steps' lines (``53_1.batch``), the state on the job's own.
* The JSON output of sacct in 22.05 shows exit code 0 for jobs that failed, so the plain columns are read.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpclaunch.batch.base import TOO_MANY_JOBS, BatchSystem, Completed, JobState, JobStatus, JobUsage
from hpclaunch.config.schema import JobConfig
from hpclaunch.dialects import SLURM, slurm_cluster
from hpclaunch.errors import StatusError, SubmitError

_STATES = {
    "PENDING": JobState.QUEUED,
    "REQUEUED": JobState.QUEUED,
    "REQUEUE_FED": JobState.QUEUED,
    "REQUEUE_HOLD": JobState.QUEUED,
    "SPECIAL_EXIT": JobState.STUCK,
    "RESV_DEL_HOLD": JobState.QUEUED,
    "CONFIGURING": JobState.STARTING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.ENDING,
    "STOPPED": JobState.SUSPENDED,
    "SUSPENDED": JobState.SUSPENDED,
    "COMPLETING": JobState.ENDING,
    "COMPLETED": JobState.ENDED,
    "CANCELLED": JobState.ENDED,
    "FAILED": JobState.ENDED,
    "TIMEOUT": JobState.ENDED,
    "OUT_OF_MEMORY": JobState.ENDED,
    "NODE_FAIL": JobState.ENDED,
    "PREEMPTED": JobState.ENDED,
    "DEADLINE": JobState.ENDED,
    "BOOT_FAIL": JobState.ENDED,
    "REVOKED": JobState.ENDED,
}

#: How ended jobs are told in words.
_ENDINGS = {
    "COMPLETED": "finished (exit code 0)",
    "CANCELLED": "cancelled",
    "TIMEOUT": "walltime reached",
    "OUT_OF_MEMORY": "killed: out of memory",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "pre-empted by a job of higher priority",
    "DEADLINE": "its deadline passed",
    "BOOT_FAIL": "its node could not be booted",
}

#: Why a job waits, in words. Reasons that are not here are shown as they are.
_REASONS = {
    "None": "",
    "Resources": "it waits for free resources",
    "Priority": "jobs of higher priority go first",
    "PartitionTimeLimit": "its walltime is over the partition's limit: it will never run; shorten walltime",
    "PartitionNodeLimit": "it asks for more nodes than the partition has: it will never run",
    "PartitionConfig": "it asks for more than the partition has: it will never run",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs to run now",
    "JobHeldUser": "it is held (`scontrol release` lets it go)",
    "JobHeldAdmin": "an administrator holds it",
    "JobArrayTaskLimit": "the array's limit of running elements is reached",
    "Dependency": "it waits for another job",
    "DependencyNeverSatisfied": "the job it waits for failed: it will never run",
    "BeginTime": "its begin time is not yet reached, or it was requeued a moment ago",
    "Licenses": "it waits for a licence",
    "AssociationJobLimit": "your account's limit of jobs is reached",
    "AssocMaxJobsLimit": "your account's limit of running jobs is reached",
    "AssocGrpCpuLimit": "your group's limit of cores is reached",
    "AssocGrpCPUMinutesLimit": "your group's core hours are used up",
    "AssocGrpMemLimit": "your group's limit of memory is reached",
    "QOSMaxCpuPerUserLimit": "your limit of cores is reached (QOS)",
    "QOSMaxJobsPerUserLimit": "your limit of running jobs is reached (QOS)",
    "QOSGrpCpuLimit": "the QOS's limit of cores is reached",
    "InvalidAccount": "its account is not valid: it will never run; set the key `account`",
    "InvalidQOS": "its QOS is not valid: it will never run",
    "Reservation": "it waits for a reservation",
    "NodeDown": "a node that it needs is down",
    "BadConstraints": "no node fits its constraints: it will never run",
    "launch_failed_requeued_held": "its launch failed and it is held",
    "job_requeued_in_held_state": "it was requeued and is held",
}
_LIMITS_ADVICE = (
    "`sacctmgr show associations user=$USER` and `sacctmgr show qos` list the limits; fewer and larger jobs, or "
    "another account or QOS, may fit."
)
_HINTS = (
    ("invalid partition", "`sinfo` lists the partitions; set the key `queue`."),
    ("Memory specification", "No node has so much memory: `sinfo -o '%P %m'` lists what nodes have, in MB."),
    ("CPU count", "No node has so many cores: `sinfo -o '%P %c'` lists what nodes have."),
    ("Invalid account", "`sacctmgr show associations user=$USER` lists your accounts; set the key `account`."),
    ("time limit", "`sinfo -o '%P %l'` lists the partitions' limits; shorten walltime or choose another queue."),
    ("Unable to contact", "Slurm's controller does not answer; try again when `squeue` does."),
    ("generic resource", "`sinfo -o '%P %G'` lists what can be asked for; look at job-extra-directives."),
    ("unrecognized option", "Look at job-extra-directives and submit-command-extra."),
    ("Invalid job array", "The site's MaxArraySize is smaller than the number of jobs."),
    ("command not found", "Is this a login node, and is Slurm's module loaded?"),
    ("Limit", _LIMITS_ADVICE),
    ("QOS policy", _LIMITS_ADVICE),
)
#: Limits on the number of jobs, in words. Those that are not here go by Slurm's own name for them.
_LIMITS = (
    ("AssocMaxSubmitJobLimit", "your limit of submitted jobs, MaxSubmitJobs"),
    ("AssocGrpSubmitJobsLimit", "your account's limit of submitted jobs, GrpSubmitJobs"),
    ("QOSMaxSubmitJobPerUserLimit", "your limit of submitted jobs in this QOS, MaxSubmitJobsPerUser"),
    ("QOSMaxSubmitJobPerAccountLimit", "your account's limit of submitted jobs in this QOS"),
    ("QOSGrpSubmitJobsLimit", "the QOS's limit of submitted jobs, GrpSubmitJobs"),
)

#: Signs that the controller did not answer, though it may have heard.
_LOST = (
    "Socket timed out",
    "Zero Bytes were transmitted or received",
    "Transport endpoint is not connected",
    "Message receive failure",
)

_SACCT_COLUMNS = "JobID,State,ExitCode,ElapsedRaw,TotalCPU,MaxRSS,NodeList"
#: Stands where a signal's number would be when Slurm could not set a job up.
_NO_START = 53
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_JOB_ID = re.compile(r"\d{1,18}(?:_\d{1,9})?", re.ASCII)


class Slurm(BatchSystem):
    """The codec; see :class:`hpclaunch.batch.base.BatchSystem` for what each method is for.

    :param cluster: where the user's own ``--clusters`` sends the jobs; empty is where one is.
    """

    name = "slurm"
    title = "Slurm"
    dialect = SLURM
    template = "slurm.sh.j2"
    ranks_template = "slurm_ranks.sh.j2"
    needed_commands = ("sbatch", "squeue", "scancel")
    useful_commands = ("sacct",)
    rank_launcher = process_launcher = "srun"
    max_array = 1000  # the default MaxArraySize is 1001, and elements are counted from 1

    def __init__(
        self, *, submit_extra: Sequence[str] = (), cancel_extra: Sequence[str] = (), cluster: str = ""
    ) -> None:
        self._clusters = [cluster] if cluster else []
        self._submit_extra = tuple(submit_extra)
        self._cancel_extra = tuple(cancel_extra)

    @classmethod
    def from_config(cls, config: JobConfig, directory: Path) -> Slurm:
        submit = config.submit_command_extra
        where = slurm_cluster((*config.job_extra_directives, *config.inherited_directives), submit)
        return cls(submit_extra=submit, cancel_extra=config.cancel_command_extra, cluster=where)

    @property
    def _where(self) -> tuple[str, ...]:
        """Where jobs are: the cluster that was asked for, and any that sbatch's answers have named."""
        return (f"--clusters={','.join(self._clusters)}",) if self._clusters else ()

    # --- submitting

    def is_job_id(self, text: str) -> bool:
        return _JOB_ID.fullmatch(text) is not None

    def submit(self, script: Path, count: int | None) -> tuple[str, ...]:
        array = () if count is None else (f"--array=1-{count}",)
        return ("sbatch", "--parsable", *array, *self._submit_extra, str(script))

    def parse_submit(self, done: Completed, count: int | None) -> list[str]:
        said = _submitted(done.stdout)
        if done.exit_code != 0 or said is None:
            raise SubmitError("not submitted", output=(done.stderr + done.stdout).strip())
        number, cluster = said
        if cluster and cluster not in self._clusters:
            self._clusters.append(cluster)
        return [number] if count is None else [f"{number}_{i}" for i in range(1, count + 1)]

    def limit(self, words: str) -> str:
        if "Requested time limit" in words:
            return ""
        for sign, text in _LIMITS:
            if sign in words:
                return text
        if (match := re.search(r"\b((?:Assoc|QOS)\w+Limit)\b", words)) is not None:
            return f"the limit {match[1]} of your account or QOS"
        if "accounting/QOS policy" in words:
            return "a limit of your account or QOS"
        if re.search("temporarily unable to accept job|Resource temporarily unavailable", words):
            return "Slurm's own limit of jobs, MaxJobCount"
        match = TOO_MANY_JOBS.search(words)
        return next(line.strip() for line in words.splitlines() if match[0] in line) if match else ""

    def hint(self, done: Completed) -> str:
        words = done.stderr + done.stdout
        return next((hint for sign, hint in _HINTS if sign in words), "")

    def is_lost(self, done: Completed) -> bool:
        has_id = bool(done.exit_code) and _submitted(done.stdout) is not None  # a wrapper of sbatch failed later
        return done.is_late or has_id or any(sign in done.stderr for sign in _LOST)

    def is_too_many(self, words: str) -> bool:
        return "Invalid job array specification" in words

    def find(self, script: Path) -> tuple[str, ...]:
        return ("squeue", *self._where, "--noheader", "--all", "--array", "--me", "--format=%i|%o")

    def parse_find(self, done: Completed, script: Path) -> list[str]:
        if done.exit_code != 0:
            raise _no_answer("Slurm does not say which jobs there are", done)
        rows = (line.partition("|") for line in done.stdout.splitlines())
        return [job_id for job_id, _, path in rows if path == str(script)]

    # --- watching

    def status(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        numbers = ",".join(dict.fromkeys(_number(job_id) for job_id in job_ids))
        return self._listing(numbers)

    def parse_status(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        if done.exit_code != 0:
            if "Invalid job id" in done.stderr:
                return {}  # none of them is known any more, or not yet
            raise _no_answer("Slurm does not say how the jobs are", done)
        wanted = set(job_ids)
        found: dict[str, JobStatus] = {}
        for line in done.stdout.splitlines():
            job_id, bar, rest = line.strip().partition("|")
            if bar and job_id in wanted:
                word, _, rest = rest.partition("|")
                host, _, reason = rest.partition("|")
                found[job_id] = _status(job_id, word, host, reason)
        return found

    def explain(self, job_id: str) -> tuple[str, ...]:
        return self._listing(job_id)

    def _listing(self, ids: str) -> tuple[str, ...]:
        shown = ("--noheader", "--all", "--array", "--states=all", "--format=%i|%T|%N|%r")
        return ("squeue", *self._where, *shown, f"--jobs={ids}")

    def parse_explain(self, done: Completed, job_id: str) -> str:
        status = self.parse_status(done, [job_id]).get(job_id)
        return status.reason if status is not None else ""

    def second_look(self, job_ids: Sequence[str]) -> list[tuple[str, ...]]:
        numbers = dict.fromkeys(_number(job_id) for job_id in job_ids)
        return [("scontrol", *self._where, "--oneliner", "show", "job", number) for number in numbers]

    def parse_second_look(
        self, done: Completed, job_ids: Iterable[str], seen: Iterable[str]
    ) -> dict[str, JobStatus]:
        if done.exit_code != 0:
            if any(sign in done.stderr for sign in (*_LOST, "Unable to contact")) or done.is_late:
                raise _no_answer("Slurm does not say how the jobs are", done)
            return {}  # it does not know them, or may not be asked so here
        wanted = set(job_ids)
        found: dict[str, JobStatus] = {}
        for line in done.stdout.splitlines():
            facts = dict(re.findall(r"(\w+)=(\S*)", line))
            number = facts.get("ArrayJobId", facts.get("JobId", ""))
            element = facts.get("ArrayTaskId")
            ids = [number] if element is None else _elements(f"{number}_[{element}]")
            host = facts.get("BatchHost") or facts.get("NodeList", "")
            for job_id in ids:
                if job_id in wanted:
                    word, reason = facts.get("JobState", ""), facts.get("Reason", "None")
                    found[job_id] = _status(job_id, word, "" if host == "(null)" else host, reason)
        return found

    # --- cancelling

    def cancel(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        return ("scancel", *self._where, *self._cancel_extra, *job_ids)

    def parse_cancel(self, done: Completed, job_ids: Sequence[str]) -> dict[str, str]:
        words = (done.stderr + done.stdout).strip()
        if done.exit_code == 0 or (done.exit_code is not None and not words):
            return {}
        refused: dict[str, str] = {}
        for line in words.splitlines():
            if "Invalid job id" in line or "already completing or completed" in line:
                continue
            named = [job_id for job_id in job_ids if re.search(rf"\b{job_id}\b", line)]
            refused.update(dict.fromkeys(named or job_ids, line))
        return refused

    # --- accounting

    def usage(self, job_ids: Sequence[str]) -> list[tuple[str, ...]]:
        numbers = ",".join(dict.fromkeys(_number(job_id) for job_id in job_ids))
        shown = ("--parsable2", "--noheader", f"--format={_SACCT_COLUMNS}")
        return [("sacct", *self._where, *shown, f"--jobs={numbers}")]

    def parse_usage(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobUsage]:
        if done.exit_code != 0:
            raise _no_answer("Slurm's accounting does not answer", done)
        wanted = set(job_ids)
        jobs: dict[str, list[str]] = {}
        peaks: dict[str, int] = {}
        for line in done.stdout.splitlines():
            fields = line.split("|")
            if len(fields) != _SACCT_COLUMNS.count(",") + 1:
                continue
            job_id, _, step = fields[0].partition(".")
            if step:
                peaks[job_id] = max(peaks.get(job_id, 0), _size(fields[5]) or 0)
            elif "[" not in job_id:
                jobs[job_id] = fields
            else:  # 53_[3-9%3]: elements that have not started; one that has a line of its own goes by that
                for element in _elements(job_id):
                    jobs.setdefault(element, fields)
        jobs = {job_id: fields for job_id, fields in jobs.items() if job_id in wanted and _is_end(fields)}
        return {job_id: _usage(job_id, fields, peaks.get(job_id)) for job_id, fields in jobs.items()}

    def put_back(self, job_id: str) -> tuple[str, ...]:
        (argv,) = self.usage([job_id])
        return (argv[0], "--duplicates", *argv[1:])

    def parse_put_back(self, done: Completed, job_id: str) -> str:
        if done.exit_code != 0:
            raise _no_answer("Slurm's accounting does not answer", done)
        lines = [line.split("|") for line in done.stdout.splitlines()]
        runs = [
            fields for fields in lines if fields[0] == job_id and len(fields) == len(_SACCT_COLUMNS.split(","))
        ]
        for fields in reversed(runs):
            word = fields[1].partition(" ")[0]
            if word == "REQUEUED":
                return "it was requeued (scontrol requeue: by you, by an administrator or by a rule of the site)"
            if word == "NODE_FAIL":
                return f"its node failed ({fields[6]})"
            if word == "PREEMPTED":
                return _ENDINGS[word]
        return ""  # other ends are of the run after it


def _submitted(text: str) -> tuple[str, str] | None:
    """Return the job's number and cluster, from the last line that has them: sites' wrappers print others."""
    found = re.findall(r"^[ \t]*(\d+)(?:;(\S+))?[ \t\r]*$", text, re.MULTILINE)
    found = found or re.findall(r"^Submitted batch job (\d+)(?: on cluster (\S+))?[ \t\r]*$", text, re.MULTILINE)
    return found[-1] if found else None


def _no_answer(what: str, done: Completed) -> StatusError:
    return StatusError(what, argv=done.argv, exit_code=done.exit_code, output=done.stderr or done.stdout)


def _number(job_id: str) -> str:
    return job_id.partition("_")[0]


def _status(job_id: str, word: str, host: str, reason: str) -> JobStatus:
    state = _STATES.get(word, JobState.UNKNOWN)
    if state is JobState.ENDED:
        text = _ENDINGS.get(word, "failed" if word == "FAILED" else word.lower())
        if word == "FAILED" and reason == "JobLaunchFailure":
            text = (
                "its script could not be started (its log file or working directory can't be used on its node), "
                "or was killed by a signal"
            )
        elif word == "FAILED" and reason not in ("None", "NonZeroExitCode"):
            text = f"failed: {reason}"
        return JobStatus(job_id, state, text, host)
    if state is JobState.QUEUED and "held" in reason:  # "launch failed requeued held": only a person frees it
        state = JobState.STUCK
    return JobStatus(job_id, state, _in_words(reason), host)


def _in_words(reason: str) -> str:
    """Return Slurm's reason in words, with its own word behind them."""
    plain = reason.strip("()")
    word = re.split(r"[,\s:]", plain)[0]
    words = _REASONS.get(plain.replace(" ", "_"), _REASONS.get(word))
    words = _limit_in_words(word) if words is None else words
    if words is None:
        return plain
    return f"{words} ({plain})" if words else ""


def _limit_in_words(word: str) -> str | None:
    """Return what one of Slurm's many limits means for a job that waits; None if it is none."""
    match = re.fullmatch(r"(Assoc|QOS)(Grp|Max)(\w*?)(PerJob|PerNode|PerUser|PerAccount)?Limit", word)
    if match is None:
        return None
    whose = "your account" if match[1] == "Assoc" else "its QOS"
    what = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", match[3])
    if match[4] in ("PerJob", "PerNode") or match[3].startswith("Wall"):
        return f"it asks for more than {whose} allows one job ({what}): it will never run"
    return f"a limit of {whose} is reached ({what}); it runs when others of its jobs have ended"


def _elements(job_id: str) -> Iterable[str]:
    """Give the elements that ``53_[1,3-9%3]`` stands for."""
    number, _, ranges = job_id.partition("_")
    for part in ranges.strip("[]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            yield from (f"{number}_{i}" for i in range(int(first), int(last or first) + 1))


def _is_end(fields: list[str]) -> bool:
    """Say whether a line of accounting is of an end; it lags, and after an outage may say FAILED with 0:0."""
    word = fields[1].partition(" ")[0]
    return _STATES.get(word) is JobState.ENDED and (word, fields[2]) != ("FAILED", "0:0")


def _usage(job_id: str, fields: list[str], peak: int | None) -> JobUsage:
    word, _, who = fields[1].partition(" ")
    code, _, number = fields[2].partition(":")
    killed_by = int(number) if number.isdigit() and 0 < int(number) < 65 and int(number) != _NO_START else None
    has_code = word == "COMPLETED" or (word == "FAILED" and code != "0")
    reason = _ENDINGS.get(word, word.lower())
    if word == "FAILED":
        reason = _failure(int(code or 0), int(number or 0))
    elif who:
        reason += f" {who.replace('by', 'by user', 1)}"  # CANCELLED by 1001
    return JobUsage(
        job_id,
        reason,
        exit_code=int(code) if has_code else None,
        signal=killed_by,
        host=fields[6] if fields[6] != "None assigned" else "",
        wall_seconds=float(fields[3]) if fields[3].isdigit() else None,
        cpu_seconds=_cpu(fields[4]),
        max_memory_bytes=peak or None,
    )


def _failure(code: int, number: int) -> str:
    if number == _NO_START:
        return "could not be started on its node: its log file or working directory can't be used there (0:53)"
    if number:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"killed by {name}"
    return f"exit code {code}"


def _cpu(text: str) -> float | None:
    """Read ``[D-][HH:]MM:SS[.mmm]``."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = match.groups("0")
    return int(days) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _size(text: str) -> int | None:
    match = re.fullmatch(r"([0-9.]+)([KMGT]?)", text)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None
