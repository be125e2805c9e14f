"""What `hpclaunch doctor` has found, and what follows from a job's report. Pure.

A finding is one line of the page: what was looked at, whether it is right, and what to do if not. ``write`` holds
the configuration keys that would mend it, as they stand in a file.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from hpclaunch import clocks
from hpclaunch.config.schema import JobConfig
from hpclaunch.jobs.reasons import about

#: Least free space for the cluster's files and for results on disk, in bytes.
LEAST_SPACE = 100_000_000
#: Least files that a job may have open: connections, spilled results, libraries.
_LEAST_FILES = 256


class Grade(enum.StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"  # it works, and could be better or surprise you
    BAD = "BAD"  # jobs do not work with it


class Finding(NamedTuple):
    """One line of the page."""

    subject: str
    grade: Grade
    text: str
    advice: str = ""
    write: Mapping[str, Any] = {}


class Reached(msgspec.Struct, frozen=True):
    """One try to reach an address."""

    address: str  # host:port
    error: str = ""  # empty: it answered
    milliseconds: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the trial's job saw on its node; written by ``probe.py``."""

    host: str
    time: float  # unix time by the node's clock
    python: str
    version: str
    hpclaunch: str  # its version; empty if it can't be imported
    import_error: str = ""
    reached: list[Reached] = []
    clock_ahead: float | None = None  # seconds by which the node's clock is ahead; None if no address answered
    port: int = 0
    addresses: dict[str, str] = {}  # of the node: interface -> address
    cores: int = 1  # that the job may use
    memory: int = 0  # bytes that the job may use; 0: no limit
    files: int = 1024
    umask: int = 0o022
    encoding: str = "utf-8"
    locale_error: str = ""
    temporary: str = ""  # where tasks' files and results on disk go
    temporary_error: str = ""
    temporary_free: int = 0  # bytes
    temporary_kind: str = ""  # the kind of its file system
    logs_error: str = ""
    variables: dict[str, str] = {}


def of_report(
    report: Report, config: JobConfig, *, memory: int, own_version: str, heads: Mapping[str, str]
) -> Iterator[Finding]:
    """Give what follows from a job's report, but for the way to the node.

    :param config: that of the trial's job.
    :param memory: bytes that such a job should have.
    :param heads: addresses of this host that the job was to reach, host -> interface.
    """
    yield from _python(report, config, own_version)
    yield from _to_head(report, heads)
    yield from _clock(report)
    yield from _resources(report, config, memory)
    yield from _places(report)
    yield from _surroundings(report)


def _python(report: Report, config: JobConfig, own_version: str) -> Iterator[Finding]:
    subject = "Python in the job"
    if not report.hpclaunch:
        advice = (
            f"Install hpclaunch for that Python, or name one that has it by the key python (now {config.python})."
        )
        text = f"{report.python} cannot import hpclaunch: {report.import_error}"
        yield Finding(subject, Grade.BAD, text, advice, {"python": "/path/to/env/bin/python"})
    elif report.hpclaunch != own_version:
        text = f"it has hpclaunch {report.hpclaunch}, and here is {own_version}"
        yield Finding(subject, Grade.BAD, text, "Install the same version in both.")
    else:
        yield Finding(subject, Grade.OK, f"{report.python} ({report.version}) with hpclaunch {report.hpclaunch}")


def _to_head(report: Report, heads: Mapping[str, str]) -> Iterator[Finding]:
    subject = "node to head"
    good = [one for one in report.reached if not one.error]
    bad = [one for one in report.reached if one.error]
    failed = "; ".join(f"{one.address} ({_named(one.address, heads)}): {one.error}" for one in bad)
    if not good:
        advice = (
            "A firewall, or addresses that nodes cannot reach. Ask which network login and compute nodes share, "
            "and name this host's interface in it (`ip -brief addr` lists them), or start clusters within a job."
        )
        offered = {_named(one.address, heads) for one in bad}
        others = [name for name in heads.values() if name not in offered and not name.startswith("lo")]
        write = {"interface": others[0] if others else "NAME"}
        yield Finding(subject, Grade.BAD, f"{report.host} reached none: {failed}", advice, write)
        return
    best = min(good, key=lambda one: one.milliseconds)
    yield Finding(subject, Grade.OK, f"{report.host} reached {best.address} in {best.milliseconds:.1f} ms")
    fast = [one for one in good if _named(one.address, heads) in report.addresses]
    if bad and report.reached[0].error and fast:
        name = _named(fast[0].address, heads)
        yield Finding(
            subject,
            Grade.NOTE,
            f"the address that workers try first is blocked: {failed}",
            "Each worker loses time with it. Name the interface that works.",
            {"interface": name},
        )


def _named(address: str, heads: Mapping[str, str]) -> str:
    return heads.get(address.rpartition(":")[0].strip("[]"), "?")


def of_way_to_node(tried: Sequence[Reached], host: str) -> Finding:
    """Return what follows from trying to reach the job's node from here."""
    subject = "here to node"
    good = [one for one in tried if not one.error]
    if good:
        best = min(good, key=lambda one: one.milliseconds)
        return Finding(subject, Grade.OK, f"reached {host} at {best.address} in {best.milliseconds:.1f} ms")
    failed = "; ".join(f"{one.address}: {one.error}" for one in tried) or "the node has no address to try"
    return Finding(
        subject,
        Grade.NOTE,
        f"{host} can't be reached from here ({failed})",
        "It works: large results come through the head, which is slower than directly.",
    )


def _clock(report: Report) -> Iterator[Finding]:
    ahead = report.clock_ahead
    if ahead is None:
        return
    side = "ahead of" if ahead > 0 else "behind"
    if abs(ahead) > clocks.NOTED:
        text = f"that of {report.host} is {clocks.apart(abs(ahead))} {side} this host's"
        advice = "Jobs run, but times in logs are off by that much. Tell the people who run the cluster."
        yield Finding("clocks", Grade.NOTE, text, advice)
    else:
        yield Finding("clocks", Grade.OK, f"they agree to {max(0.1, abs(ahead)):.1f} s")


def _resources(report: Report, config: JobConfig, memory: int) -> Iterator[Finding]:
    limit = "no limit of memory" if not report.memory else f"{about(report.memory)} of memory"
    cores = f"{report.cores} core{'s' if report.cores != 1 else ''}"
    if report.memory and report.memory < 0.9 * memory:
        yield Finding(
            "limits in the job",
            Grade.BAD,
            f"it may use {limit}; {about(memory)} were meant",
            "The site counts memory otherwise: per slot, or by another resource. See docs/sites.md, memory.",
            {"memory-resource": "h_vmem"} if config.batch_system == "sge" else {},
        )
    else:
        yield Finding("limits in the job", Grade.OK, f"{cores}, {limit}, {report.files} open files")
    if report.cores < config.cores:
        text = f"the job may use {cores}; {config.cores} were asked for"
        yield Finding("limits in the job", Grade.BAD, text, "Look at job-cpu and at -c or -pe in your directives.")
    if report.files < _LEAST_FILES:
        text = f"the job may open {report.files} files only"
        advice = "Raise the limit before the workers start."
        yield Finding("limits in the job", Grade.NOTE, text, advice, {"job-script-prologue": ["ulimit -n 4096"]})


def _places(report: Report) -> Iterator[Finding]:
    subject = "scratch directory"
    if report.temporary_error:
        advice = "Name a directory on the nodes where you may write."
        yield Finding(subject, Grade.BAD, report.temporary_error, advice, {"local-directory": "/scratch/$USER"})
    elif report.temporary_kind in ("tmpfs", "ramfs"):
        text = f"{report.temporary} is in memory ({report.temporary_kind})"
        advice = "Results that are written to disk would use memory there. Name a directory on a disk."
        yield Finding(subject, Grade.NOTE, text, advice, {"local-directory": "/scratch/$USER"})
    elif report.temporary_free < LEAST_SPACE:
        text = f"{report.temporary} has {about(report.temporary_free)} left"
        yield Finding(subject, Grade.NOTE, text, "Name one with more room.", {"local-directory": "/scratch/$USER"})
    else:
        free = about(report.temporary_free)
        yield Finding(subject, Grade.OK, f"{report.temporary} on the node, {free} free")
    if report.logs_error:
        text = f"log-directory: {report.logs_error}"
        yield Finding(
            "shared directory", Grade.BAD, text, "Name one that the nodes share.", {"log-directory": None}
        )


#: Variables in the job that change what Python does, and how.
_SURPRISING = {
    "PYTHONPATH": "its modules come before those of the environment",
    "PYTHONHOME": "it makes Python look for its library elsewhere",
    "LD_PRELOAD": "it is loaded into every process",
}


def _surroundings(report: Report) -> Iterator[Finding]:
    if report.locale_error:
        text = f"the job's locale does not exist on {report.host}: {report.locale_error}"
        yield Finding(
            "locale",
            Grade.NOTE,
            text,
            "Programs that tasks start may refuse it.",
            {"job-script-prologue": ["export LC_ALL=C.UTF-8"]},
        )
    elif "utf" not in report.encoding.lower():
        text = f"Python in the job reads and writes {report.encoding}"
        yield Finding(
            "locale",
            Grade.NOTE,
            text,
            "Names and texts beyond ASCII fail in tasks.",
            {"job-script-prologue": ["export LC_ALL=C.UTF-8"]},
        )
    else:
        yield Finding("locale", Grade.OK, f"{report.encoding} in the job")
    if finding := of_umask(report.umask, "the job's"):
        yield finding
    for name, why in _SURPRISING.items():
        if report.variables.get(name):
            text = f"{name}={_short(report.variables[name])} is set in the job: {why}"
            advice = f"If that is not meant: unset {name} in the prologue."
            write = {"job-script-prologue": [f"unset {name}"]}
            yield Finding("environment", Grade.NOTE, text, advice, write)


def of_umask(umask: int, whose: str) -> Finding | None:
    """Return what is to be said of a umask; None if nothing is."""
    if umask & 0o700:
        text = f"{whose} umask is {umask:04o}: you can't use your own new files"
        return Finding("umask", Grade.BAD, text, "Set it in the file that your shell reads first: umask 022")
    if umask & 0o022 != 0o022:
        text = f"{whose} umask is {umask:04o}: others may write to files that tasks make"
        return Finding("umask", Grade.NOTE, text, "hpclaunch's own files are private all the same.")
    return None


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
