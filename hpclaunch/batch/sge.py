"""Grid Engine as a codec (Son of Grid Engine 8.1, and its Univa and Altair relatives).

What one has to know:

* State letters are case-sensitive and come in sets: ``t`` is "about to run", ``T`` is "suspended by a threshold".
* ``qsub`` can exit with 1 and have submitted the job: standard error then says so.
* Requests that no host can fulfil are accepted, and wait for good; the reason is in ``qstat -j``.
* A job in an error state (``Eqw``) stays there until a person acts. Accounting may have a record of it already.
* An array's waiting elements share one line of the listing, as ranges: ``3-10:1,15``.
"""

from __future__ import annotations

import re
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpclaunch.batch.base import TOO_MANY_JOBS, BatchSystem, Completed, JobState, JobStatus, JobUsage
from hpclaunch.config.schema import JobConfig
from hpclaunch.config.units import format_bytes, format_duration
from hpclaunch.dialects import SGE
from hpclaunch.errors import StatusError, SubmitError

_JOB_ID = re.compile(r"\d{1,18}(?:\.\d{1,9})?", re.ASCII)
_TERSE = re.compile(r"^(\d+)(?:\.(\d+)-(\d+):(\d+))?\s*$", re.MULTILINE)
_SUBMITTED = re.compile(r'Your job(?:-array)? (\d+)(?:\.(\d+)-(\d+):(\d+))? \(".*"\) has been submitted')
_TIME_STAMP = re.compile(r"^\d\d/\d\d/\d{4} \d\d:\d\d:\d\d \[\d+:\d+\]: (?:error: )?")
_SIZE = re.compile(r"([0-9.]+)([kKmMgGtTpP]?)B?s?$")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}

#: ``failed`` codes of qacct, in words.
_FAILED = {
    1: "could not be started on its host (failed 1)",
    19: "its host died while it ran",
    26: "its log file could not be opened",
    27: "its shell could not be found on the host",
    28: "its working directory could not be entered",
    30: "put itself into an error state (exit code 100)",
}
#: ``failed`` codes of a job that was put back into the queue: its record is of an earlier run, not of its end.
_REQUEUED = (24, 25)
#: The same for a run that was followed by another.
_PUT_BACK: dict[int | None, str] = {
    19: "its host died",
    24: "it was moved to another host (checkpoint)",
    25: "it was rescheduled: by `qmod -rj`, since its host was silent, or by its exit code 99",
}
_HINTS = (
    ("unknown queue", "`qconf -sql` lists the queues; set the key `queue`."),
    ("parallel environment", "`qconf -spl` lists the parallel environments; set the key `parallel-environment`."),
    ("unknown resource", "`qconf -sc` lists the resources; look at resource-spec and job-extra-directives."),
    ("not a memory value", "Grid Engine takes 24G and 500M, not 24GB; look at resource-spec."),
    ("requested project", "`qconf -sprjl` lists the projects; set the key `project`."),
    ("not a valid object name", "Set the key `name` to one that begins with a letter."),
    ("answer list from qmaster", "Grid Engine took offence at a name; has the key `name` a blank in it?"),
    ("commlib error", "Grid Engine's master does not answer; try again when `qstat` does."),
    ("no submit host", "Jobs can't be submitted from this host; log in to a login node."),
    ("command not found", "Is this a login node, and is Grid Engine's module loaded?"),
    (
        "jobs are allowed",
        "`qconf -sconf` lists the limits (max_u_jobs, max_jobs); an array counts as one job there.",
    ),
    (
        "no suitable queues",
        "No queue could ever run this (-w e asks for that check): `qstat -f`, `qquota` and `qconf -sq` show what "
        "queues and quotas allow; look at memory, walltime and queue.",
    ),
)
#: The scheduler's reasons why a job waits, in words.
_WAITS = (
    (re.compile("queue instance dropped because it is full"), "no slot is free"),
    (re.compile("queue instance dropped because it is temporarily not available"), "the host does not answer"),
    (re.compile("queue instance dropped because it is disabled"), "the queue is disabled"),
    (re.compile("queue instance dropped because it is overloaded: .*"), "the host has too much to do"),
    (
        re.compile(r'.*cannot run.*exceeds limit "(?P<who>[^"]*)" in rule "(?P<rule>[^"]*)".*'),
        r"the site's quota is used up (rule \g<rule>; `qquota` shows it)",
    ),
    (re.compile(r"\((-l .*)\) cannot run in queue because of cluster queue"), r"\1 is more than the queue allows"),
)
#: What is said of a site where the scheduler keeps its reasons for itself, as most large ones have it.
_NOT_TOLD = "this site does not tell why jobs wait (schedd_job_info is off); `qstat -g c` shows the queues"
#: Signs that the master did not answer, though it may have heard.
_LOST = ("failed receiving gdi request", "answer list from qmaster", "got read error", "got read timeout")


class GridEngine(BatchSystem):
    """The codec; see :class:`hpclaunch.batch.base.BatchSystem` for what each method is for.

    :param job_name: the name that the jobs' script gives them, by which lost ones are looked for.
    """

    name = "sge"
    title = "Grid Engine"
    dialect = SGE
    template = "sge.sh.j2"
    ranks_template = "sge_ranks.sh.j2"
    needed_commands = ("qsub", "qstat", "qdel")
    useful_commands = ("qacct",)
    process_launcher = "exec"

    def __init__(
        self, *, submit_extra: Sequence[str] = (), cancel_extra: Sequence[str] = (), job_name: str = "*"
    ) -> None:
        self._submit_extra = tuple(submit_extra)
        self._cancel_extra = tuple(cancel_extra)
        self._job_name = job_name

    @classmethod
    def from_config(cls, config: JobConfig, directory: Path) -> GridEngine:
        return cls(
            submit_extra=config.submit_command_extra,
            cancel_extra=config.cancel_command_extra,
            job_name=config.name,
        )

    @classmethod
    def launcher(cls, *, count: int, cores: int) -> str:
        return "mpirun -np $NSLOTS" if cores == 1 else f"mpirun -np {count}"

    # --- submitting

    def is_job_id(self, text: str) -> bool:
        return _JOB_ID.fullmatch(text) is not None

    def submit(self, script: Path, count: int | None) -> tuple[str, ...]:
        array = () if count is None else ("-t", f"1-{count}")
        return ("qsub", "-terse", *array, *self._submit_extra, str(script))

    def parse_submit(self, done: Completed, count: int | None) -> list[str]:
        for pattern, text in ((_TERSE, done.stdout), (_SUBMITTED, done.stderr), (_SUBMITTED, done.stdout)):
            matches = list(pattern.finditer(text))  # the last is the answer: sites' wrappers print others
            if count is not None:
                matches = [match for match in matches if match[2] is not None] or matches
            if matches:
                number, first, last, step = matches[-1].groups()
                if first is None:
                    return [f"{number}.1"]
                return [f"{number}.{i}" for i in range(int(first), int(last) + 1, int(step))]
        raise SubmitError("not submitted", output=(done.stderr + done.stdout).strip())

    def hint(self, done: Completed) -> str:
        words = done.stderr + done.stdout
        return next((hint for sign, hint in _HINTS if sign in words), "")

    def is_lost(self, done: Completed) -> bool:
        return done.is_late or any(sign in done.stderr for sign in _LOST)

    def is_too_many(self, words: str) -> bool:
        return re.search(r"more than \d+ tasks|max_aj_tasks", words) is not None

    def limit(self, words: str) -> str:
        match = re.search(r"only (\d+) jobs are allowed per (\w+)", words)
        if match is not None:
            key = "max_u_jobs" if match[2] == "user" else "max_jobs"
            return f"the site's limit of {match[1]} jobs per {match[2]}, {key}"
        match = TOO_MANY_JOBS.search(words)
        return next(line.strip() for line in words.splitlines() if match[0] in line) if match else ""

    def find(self, script: Path) -> tuple[str, ...]:
        return ("qstat", "-j", self._job_name)

    def parse_find(self, done: Completed, script: Path) -> list[str]:
        if done.exit_code != 0:
            if "do not exist" in done.stderr + done.stdout:
                return []
            raise _no_answer("Grid Engine does not say which jobs there are", done)
        found = []
        for record in _records(done.stdout):
            if record.get("script_file:") == str(script):
                elements = _elements(record.get("job-array", "").partition(":")[2] or "1")
                found += [f"{record.get('job_number:')}.{element}" for element in elements]
        return found

    # --- watching

    def status(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        return ("qstat", "-u", "$user", "-s", "a", "-xml")  # explicit options win over a file of defaults

    def parse_status(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        if done.exit_code != 0:
            raise _no_answer("Grid Engine does not say how the jobs are", done)
        if not done.stdout.strip():
            return {}
        try:
            root = ElementTree.fromstring(done.stdout)  # noqa: S314 - it comes from qstat
        except (ElementTree.ParseError, UnicodeError) as error:
            raise StatusError(
                f"qstat's answer is not XML: {error}", argv=done.argv, output=done.stdout[:500]
            ) from None
        wanted = set(job_ids)
        numbers = {job_id.partition(".")[0] for job_id in wanted}
        found: dict[str, JobStatus] = {}
        for row in root.iter("job_list"):
            number, letters = row.findtext("JB_job_number", ""), row.findtext("state", "")
            if number not in numbers:
                continue  # perhaps another user's array of 75,000
            queue = row.findtext("queue_name") or ""
            host = _short(queue.partition("@")[2])
            for element in _elements(row.findtext("tasks") or "1"):
                job_id = f"{number}.{element}"
                if job_id in wanted:
                    found[job_id] = JobStatus(job_id, _state(letters), letters, host)
        return found

    def second_look(self, job_ids: Sequence[str]) -> list[tuple[str, ...]]:
        numbers = dict.fromkeys(job_id.partition(".")[0] for job_id in job_ids)
        # A file of defaults may name queues; "*" for all of them leaves out what fits no queue, which -j has.
        listing = ("qstat", "-u", "$user", "-s", "a", "-q", "*", "-xml")
        return [listing, ("qstat", "-j", ",".join(numbers))]

    def parse_second_look(
        self, done: Completed, job_ids: Iterable[str], seen: Iterable[str]
    ) -> dict[str, JobStatus]:
        if "-xml" in done.argv:
            return self.parse_status(done, job_ids)
        if "commlib error" in done.stderr or done.is_late:
            raise _no_answer("Grid Engine does not say how the jobs are", done)
        wanted = set(job_ids)
        shown = {job_id.partition(".")[0] for job_id in seen}
        found: dict[str, JobStatus] = {}
        for record in _records(done.stdout):
            number, elements = record.get("job_number:", ""), record.get("job-array", "").partition(":")[2] or "1"
            running = re.findall(r"(?m)^(\d+):", record.get("usage", ""))
            state = JobState.RUNNING
            if not running and number not in shown:  # listings hide it: elements that wait are hidden together
                running, state = [str(element) for element in _elements(elements)], JobState.QUEUED
            ids = (f"{number}.{element}" for element in running)
            found.update({job_id: JobStatus(job_id, state) for job_id in ids if job_id in wanted})
        return found

    def explain(self, job_id: str) -> tuple[str, ...]:
        return ("qstat", "-j", job_id.partition(".")[0])

    def parse_explain(self, done: Completed, job_id: str) -> str:
        if done.exit_code != 0:
            if "do not exist" in done.stderr + done.stdout:
                return ""
            raise _no_answer(f"Grid Engine does not say why job {job_id} waits", done)
        element = job_id.rpartition(".")[2]
        errors: list[str] = []
        waits: list[str] = []
        field = ""
        for line in done.stdout.splitlines():
            name, colon, text = line.partition(":")
            if line.startswith("error reason"):
                if name.split()[-1] in (element, "reason"):  # "error reason   3:", by element
                    errors.append(_TIME_STAMP.sub("", text.strip()))
                continue
            if colon and not line.startswith(" "):
                field = name
            value = text.strip() if colon and not line.startswith(" ") else line.strip()
            if field == "scheduling info" and value:
                waits.append(_NOT_TOLD if "turned off" in value else value)
        return "; ".join(dict.fromkeys(errors)) or _condense(waits)

    # --- cancelling

    def cancel(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        return ("qdel", *self._cancel_extra, *job_ids)

    def parse_cancel(self, done: Completed, job_ids: Sequence[str]) -> dict[str, str]:
        words = done.stdout + done.stderr
        if done.exit_code is None or "commlib error" in words:
            return dict.fromkeys(job_ids, words.strip())
        refused: dict[str, str] = {}
        for line in words.splitlines():
            if "does not exist" in line or not re.search(r"denied|privileges", line):
                continue
            for job_id in job_ids:
                if re.search(rf"\b{job_id.partition('.')[0]}\b", line):
                    refused[job_id] = line.strip()
        return refused

    # --- accounting

    def usage(self, job_ids: Sequence[str]) -> list[tuple[str, ...]]:
        numbers = dict.fromkeys(job_id.partition(".")[0] for job_id in job_ids)
        return [("qacct", "-j", number) for number in numbers]

    def parse_usage(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobUsage]:
        if done.exit_code != 0:
            if "not found" in done.stderr and "command not found" not in done.stderr:
                return {}
            raise _no_answer("Grid Engine's accounting does not answer", done)
        wanted = set(job_ids)
        found: dict[str, dict[str, str]] = {}
        for record in _records(done.stdout):
            task = record.get("taskid", "undefined")
            job_id = f"{record.get('jobnumber')}.{1 if task == 'undefined' else task}"
            if job_id in wanted:
                found[job_id] = record  # of a job that ran several times the last record counts
        ends = {job_id: rec for job_id, rec in found.items() if _number(rec.get("failed", "")) not in _REQUEUED}
        return {job_id: _usage(job_id, record) for job_id, record in ends.items()}

    def put_back(self, job_id: str) -> tuple[str, ...]:
        return self.usage([job_id])[0]

    def parse_put_back(self, done: Completed, job_id: str) -> str:
        if done.exit_code != 0:
            if "not found" in done.stderr and "command not found" not in done.stderr:
                return ""
            raise _no_answer("Grid Engine's accounting does not answer", done)
        number, _, element = job_id.partition(".")
        for record in reversed(list(_records(done.stdout))):  # the run after it may have ended, too
            task, failed = record.get("taskid", "undefined"), _number(record.get("failed", ""))
            is_its = record.get("jobnumber") == number and task in (element, "undefined")
            if is_its and failed in _PUT_BACK:
                return f"{_PUT_BACK[failed]} ({_short(record.get('hostname', ''))})"
        return ""


def _no_answer(what: str, done: Completed) -> StatusError:
    return StatusError(what, argv=done.argv, exit_code=done.exit_code, output=done.stderr or done.stdout)


def _short(host: str) -> str:
    return host.partition(".")[0]


def _state(letters: str) -> JobState:
    """Return the state that a set of letters means."""
    for sign, state in (
        ("E", JobState.STUCK),
        ("d", JobState.ENDING),
        ("s", JobState.SUSPENDED),
        ("S", JobState.SUSPENDED),
        ("T", JobState.SUSPENDED),
        ("t", JobState.STARTING),
        ("r", JobState.RUNNING),
        ("q", JobState.QUEUED),
        ("h", JobState.QUEUED),
        ("w", JobState.QUEUED),
    ):
        if sign in letters:
            return state
    return JobState.UNKNOWN


def _elements(ranges: str) -> Iterable[int]:
    """Give the array elements of ``3-10:2,15``."""
    for part in ranges.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+)(?::(\d+))?)?\s*", part)
        if match is not None:
            first = int(match[1])
            yield from range(first, int(match[2] or first) + 1, int(match[3] or 1))


def _condense(reasons: list[str]) -> str:
    """Return the scheduler's reasons as one readable sentence: what differs only by the host is said once."""
    said: dict[str, list[str]] = {}
    for reason in reasons:
        hosts = re.findall(r'(?:host|queue instance|queue) "([^"]+)"', reason)
        general = re.sub(r'(host|queue instance|queue) "[^"]+"', r"\1", reason) if hosts else reason
        said.setdefault(general, []).extend(hosts)
    sentences = []
    for general, hosts in said.items():
        where = f" ({', '.join(sorted(set(hosts)))})" if hosts else ""
        sentences.append(_in_words(general.strip()) + where)
    return "; ".join(sentences)


def _in_words(reason: str) -> str:
    """Return one of the scheduler's reasons in plainer words, if they are known."""
    return next((plain.sub(words, reason) for plain, words in _WAITS if plain.fullmatch(reason)), reason)


def _records(text: str) -> Iterable[dict[str, str]]:
    """Give qacct's records as mappings."""
    record: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("====="):
            if record:
                yield record
            record = {}
            continue
        key, _, value = line.partition(" ")
        if key == "usage" and key in record:  # of qstat -j: one line for each element that runs
            record[key] += f"\n{value.strip()}"
        elif key:
            record[key] = value.strip()
    if record:
        yield record


def _usage(job_id: str, record: dict[str, str]) -> JobUsage:
    status = _number(record.get("exit_status", ""))
    used = _size(record.get("maxvmem", ""))
    has_failed = _number(record.get("failed", "")) != 0  # then the status is a signal's, or there is none
    killed_by = status - 128 if has_failed and status is not None and status > 128 else None
    return JobUsage(
        job_id,
        _reason(record, status, used),
        exit_code=None if has_failed else status,
        signal=killed_by,
        host=_short(record.get("hostname", "")),
        wall_seconds=_seconds(record.get("ru_wallclock", "")),
        cpu_seconds=_seconds(record.get("cpu", "")),
        max_memory_bytes=used,
    )


def _reason(record: dict[str, str], status: int | None, used: int | None) -> str:
    failed = _number(record.get("failed", "")) or 0
    words = record.get("failed", "").partition(":")[2].strip()
    if failed == 37:
        return _limit(record, used)
    if failed == 100:
        if status == 128 + signal.Signals.SIGKILL:
            return "killed by SIGKILL: cancelled by qdel, or it was killed on its host"
        if status == 128 + signal.Signals.SIGXCPU:
            return "killed by SIGXCPU: a soft limit (s_vmem, s_cpu) was reached"
        if status == 128 + signal.Signals.SIGUSR1:
            return "killed by SIGUSR1: walltime reached (s_rt)"
        return f"ended by a signal ({words or 'failed 100'})"
    if failed:
        return _FAILED.get(failed) or f"Grid Engine says: {words or 'failed'} (failed {failed})"
    if status is None or status == 0:
        return "finished (exit code 0)"
    return f"exit code {status}"


def _limit(record: dict[str, str], used: int | None) -> str:
    """Say which limit a job was killed for; qacct says only that it was one of three."""
    category = record.get("category", "")
    slots = _number(record.get("slots", "")) or 1
    memory = re.search(r"\bh_vmem=([0-9.]+[kKmMgG]?)", category)
    limit = _size(memory[1]) if memory else None
    if limit is not None and used is not None and used > limit * slots * 0.98:
        return f"killed: memory {_about(used)} over h_vmem {_about(limit * slots)}"
    run_time = re.search(r"\bh_rt=(\d+)", category)
    wall = _seconds(record.get("ru_wallclock", ""))
    if run_time and wall is not None and wall >= int(run_time[1]) - 1:
        return f"walltime reached (h_rt {format_duration(int(run_time[1]))})"
    return "killed by Grid Engine for a limit of run time, CPU time or memory"


def _about(size: int) -> str:
    step = 10**8 if size >= 10**9 else 10**6
    return format_bytes(round(size / step) * step)


def _number(text: str) -> int | None:
    match = re.match(r"\s*(\d+)", text)
    return int(match[1]) if match else None


def _seconds(text: str) -> float | None:
    match = re.fullmatch(r"([0-9.]+)s?", text.strip())
    return float(match[1]) if match else None


def _size(text: str) -> int | None:
    """Read qacct's sizes: ``5.117MB`` is in powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    return round(float(match[1]) * _UNITS[match[2].lower()]) if match else None
