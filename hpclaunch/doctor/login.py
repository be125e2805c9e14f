"""What `hpclaunch doctor` looks at before it submits anything: this host, the batch system, the request itself."""

from __future__ import annotations

import contextlib
import locale
import os
import re
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from hpclaunch import batch
from hpclaunch.config.schema import JobConfig
from hpclaunch.config.units import format_duration
from hpclaunch.dialects import sge_seconds, slurm_seconds
from hpclaunch.directives import options
from hpclaunch.doctor.findings import LEAST_SPACE, Finding, Grade, of_umask
from hpclaunch.errors import HPCLaunchError, StatusError
from hpclaunch.inherited import Fate, interference
from hpclaunch.jobs.reasons import about
from hpclaunch.transport.base import Completed, Transport

_ASK_SECONDS = 20.0
_WRITTEN_BYTES = 1_000_000


def of_this_host(config: JobConfig, base: Path) -> Iterator[Finding]:
    """Look at this process's surroundings, and at the directory of the cluster's files.

    :param base: where clusters' files go.
    """
    yield from _commands(config)
    yield from _environment(config)
    try:
        locale.setlocale(locale.LC_ALL, "")
    except locale.Error as error:
        text = f"the locale that your variables LANG and LC_* name does not exist here: {error}"
        yield Finding("locale", Grade.NOTE, text, "export LC_ALL=C.UTF-8")
    mask = os.umask(0o077)
    os.umask(mask)
    if finding := of_umask(mask, "your"):
        yield finding
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < 1024:
        yield Finding(
            "limits here", Grade.NOTE, f"{files} open files: enough for so many workers", "ulimit -n 4096"
        )
    yield _room(base)


def _commands(config: JobConfig) -> Iterator[Finding]:
    system = batch.codec(config.batch_system)
    needed, title = system.needed_commands, system.title
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        text = f"{', '.join(missing)} not found on this host"
        yield Finding("commands", Grade.BAD, text, f"Is this a login node, and is {title}'s module loaded?")
        return
    yield Finding("commands", Grade.OK, f"those of {title} are here" if needed else "none are needed")
    for name in system.useful_commands:
        if shutil.which(name) is None:
            text = f"{name} not found: how jobs end is told from files and listings alone"
            yield Finding("commands", Grade.NOTE, text)


def _environment(config: JobConfig) -> Iterator[Finding]:
    try:
        settings = interference(config, os.environ, Path.cwd())
    except (HPCLaunchError, OSError) as error:
        yield Finding("environment", Grade.BAD, str(error))
        return
    for setting in settings:
        if setting.fate in (Fate.OVERRULED, Fate.REFUSED, Fate.TAKEN):
            yield Finding("environment", Grade.NOTE, setting.text)


def _room(base: Path) -> Finding:
    """Write a megabyte where the cluster's files go: a quota shows itself in no other way."""
    subject = "disk and quota"
    place = next(path for path in (base, *base.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x" * _WRITTEN_BYTES)
            file.flush()
            os.fsync(file.fileno())
        room = os.statvfs(place)
    except OSError as error:
        advice = "Make room, or name another directory that the nodes share."
        return Finding(
            subject,
            Grade.BAD,
            f"{place} can't be written: {error.strerror}",
            advice,
            {"shared-temp-directory": "/path/that/nodes/share"},
        )
    free = room.f_bavail * room.f_frsize
    if free < LEAST_SPACE or (room.f_files and room.f_favail < 1000):
        text = f"{place} has {about(free)} and {room.f_favail} files left"
        return Finding(subject, Grade.NOTE, text, "Make room before it runs out.")
    return Finding(subject, Grade.OK, f"{place} can be written, {about(free)} free")


# --- the batch system -------------------------------------------------------------------------------------------


async def of_batch_system(config: JobConfig, script: Path, transport: Transport) -> AsyncIterator[Finding]:
    """Ask the batch system about the queue, its limits, and whether it would take a job as configured.

    :param script: the job script as configured; it is not submitted.
    """
    if config.batch_system == "slurm":
        findings = _slurm(config, script, transport)
    elif config.batch_system == "sge":
        findings = _sge(config, script, transport)
    else:
        findings = _other(config, script, transport)
    async for finding in findings:
        yield finding


async def _other(config: JobConfig, script: Path, transport: Transport) -> AsyncIterator[Finding]:
    """Ask a batch system whose queues and limits hpclaunch does not know, for jobs of a script that has none."""
    system = batch.by_name(config.batch_system, config, script.parent)
    if not system.needed_commands:
        return
    done = await transport.run(system.find(script), timeout=_ASK_SECONDS)
    try:
        system.parse_find(done, script)
    except StatusError:
        yield _silent(system.title, done)
    else:
        yield Finding("batch system", Grade.OK, f"{system.title} answers")


async def _slurm(config: JobConfig, script: Path, transport: Transport) -> AsyncIterator[Finding]:
    done = await transport.run(["squeue", "--me", "--noheader"], timeout=_ASK_SECONDS)
    if done.exit_code != 0:
        yield _silent("Slurm", done)
        return
    done = await transport.run(["sinfo", "--noheader", "--format=%P|%l"], timeout=_ASK_SECONDS)
    rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 1]
    if done.exit_code == 0 and rows:
        for finding in _partitions(config, rows):
            yield finding
            if finding.subject == "queue" and finding.grade is Grade.BAD:
                return
    else:
        yield _untold("sinfo", "partitions")
    done = await transport.run(["sbatch", "--test-only", str(script)], timeout=_ASK_SECONDS)
    yield _verdict(done, "sbatch --test-only", done.exit_code == 0)


def _asked_queue(config: JobConfig) -> str | None:
    """Return the queue that jobs ask for: the user's own directives win over the key."""
    dialect = batch.codec(config.batch_system).dialect
    lines = (*config.job_extra_directives, *config.inherited_directives)
    said = [
        one.value
        for line in lines
        if line.strip()
        for one in options(line, dialect)
        if one.key == dialect.queue_option
    ]
    return said[0] if said else config.queue


def _partitions(config: JobConfig, rows: Sequence[Sequence[str]]) -> Iterator[Finding]:
    """Look for the partition of the jobs, and at its limit of time."""
    limits = {row[0].rstrip("*"): row[1] for row in rows}
    asked = _asked_queue(config)
    name = asked or next((row[0].rstrip("*") for row in rows if row[0].endswith("*")), "")
    yield _queue(asked, name, list(limits), "partition")
    for part in name.split(","):
        if part in limits:
            yield from _time(config, f"partition {part}", slurm_seconds(limits[part]))


async def _sge(config: JobConfig, script: Path, transport: Transport) -> AsyncIterator[Finding]:
    done = await transport.run(["qstat"], timeout=_ASK_SECONDS)
    if done.exit_code != 0:
        yield _silent("Grid Engine", done)
        return
    done = await transport.run(["qconf", "-sql"], timeout=_ASK_SECONDS)
    queues, asked = done.stdout.split(), _asked_queue(config)
    if done.exit_code == 0 and queues:
        queue = _queue(asked, asked or "", queues, "queue")
        yield queue
        if queue.grade is Grade.BAD:
            return
    else:
        yield _untold("qconf", "queues")
    if asked in queues:
        done = await transport.run(["qconf", "-sq", asked], timeout=_ASK_SECONDS)
        found = re.search(r"^h_rt\s+(\S+)", done.stdout, re.MULTILINE)
        for finding in _time(config, f"queue {asked}", sge_seconds(found[1]) if found else None):
            yield finding
    async for finding in _sge_resources(config, transport):
        yield finding
    done = await transport.run(["qsub", "-w", "v", str(script)], timeout=_ASK_SECONDS)
    yield _verdict(done, "qsub -w v", done.exit_code == 0 and "found suitable" in done.stdout + done.stderr)


async def _sge_resources(config: JobConfig, transport: Transport) -> AsyncIterator[Finding]:
    """Look for the parallel environment, and at what the site hands out."""
    done = await transport.run(["qconf", "-spl"], timeout=_ASK_SECONDS)
    names = done.stdout.split()
    if done.exit_code == 0 and config.cores > 1 and config.parallel_environment not in names:
        text = f"there is no {config.parallel_environment!r}; there are {', '.join(names) or 'none'}"
        write = {"parallel-environment": next((one for one in names if "smp" in one or "shared" in one), "NAME")}
        yield Finding("parallel environment", Grade.BAD, text, "A job of several cores needs one.", write)
    async for finding in _sge_memory(config, transport):
        yield finding


async def _sge_memory(config: JobConfig, transport: Transport) -> AsyncIterator[Finding]:
    """See whether a site that hands out memory is asked for it."""
    if config.memory_resource or config.resource_spec or any("vmem" in one for one in config.job_extra_directives):
        return
    done = await transport.run(["qconf", "-sc"], timeout=_ASK_SECONDS)
    rows = [line.split() for line in done.stdout.splitlines() if line and not line.startswith("#")]
    consumed = [row[0] for row in rows if len(row) >= 6 and row[2] == "MEMORY" and row[5] in ("YES", "JOB")]
    if consumed:
        name = next((one for one in ("h_vmem", "mem", "rmem", "mem_free") if one in consumed), consumed[0])
        text = f"this site hands out {', '.join(consumed)}, and your jobs ask for none of it"
        yield Finding("memory", Grade.NOTE, text, "They get the site's default.", {"memory-resource": name})


def _silent(title: str, done: Completed) -> Finding:
    words = " ".join((done.stderr or done.stdout).split()) or "no answer"
    return Finding("batch system", Grade.BAD, f"{title} does not answer: {words}", "Try again when it does.")


def _untold(command: str, what: str) -> Finding:
    return Finding("queue", Grade.NOTE, f"{command} does not answer here, so {what} and limits are not known")


def _queue(asked: str | None, name: str, there: Sequence[str], word: str) -> Finding:
    wrong = [one for one in re.split(r"[,\s]+", name.partition("@")[0]) if one and one not in there]
    known = f"there are {', '.join(there[:12])}" if there else "none is to be seen"
    if wrong and asked:
        write = {"queue": there[0] if there else None}
        return Finding("queue", Grade.BAD, f"there is no {word} {wrong[0]!r}; {known}", "Name one of them.", write)
    if not name:
        return Finding("queue", Grade.OK, f"the site chooses among {', '.join(there[:12])}")
    return Finding("queue", Grade.OK, f"{name}{'' if asked else ' (the default)'}")


def _time(config: JobConfig, where: str, limit: int | None) -> Iterator[Finding]:
    if limit is None:
        return
    allowed = format_duration(limit)
    if config.walltime is not None and config.walltime > limit:
        text = f"{where} allows {allowed}; your walltime is {format_duration(config.walltime)}"
        yield Finding("limits", Grade.BAD, text, "Such jobs never start.", {"walltime": allowed})
    elif config.walltime_limit is None:
        text = f"{where} allows {allowed}"
        advice = "With walltime-limit, a longer walltime is an error and not a job that never starts."
        yield Finding("limits", Grade.NOTE, text, advice, {"walltime-limit": allowed})
    else:
        yield Finding("limits", Grade.OK, f"{where} allows {allowed}")


def _verdict(done: Completed, command: str, is_good: bool) -> Finding:
    subject = "a job as configured"
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    words = " ".join(lines[-3:])
    if is_good:
        return Finding(subject, Grade.OK, f"the batch system would take it ({command})")
    if done.exit_code is None or "nrecognized" in words:
        return Finding(subject, Grade.NOTE, f"{command} does not say: {words}")
    return Finding(subject, Grade.BAD, f"the batch system would not run it ({command}): {words}")


def has_answer(path: Path) -> bool:
    """Say whether a file is there, also where a network file system has remembered that it was not."""
    with contextlib.suppress(OSError):
        return path.name in os.listdir(path.parent)
    return False
