"""Why a job ended, in words that a scientist can act on. Pure: evidence in, a kind and a sentence out.

The evidence is of uneven worth, and is weighed in this order: what accounting or the listing calls a walltime or a
cancellation; what the worker itself wrote before it gave up; a kill that accounting explains; the exit code that
the job script left; and last the absence of all of these.
"""

from __future__ import annotations

import enum
import re
import signal

import msgspec

from hpclaunch.batch.base import JobUsage
from hpclaunch.config.units import format_bytes, format_duration

#: Accounting rounds run times, and batch systems look at limits now and then.
WALLTIME_SLACK = 2.0
#: Lines of a log that an error quotes.
TAIL_LINES = 12


class Kind(enum.StrEnum):
    """What sort of end it was; decides whether it counts against resubmission."""

    CANCELLED = "cancelled"  # by us, because it was not wanted
    WALLTIME = "walltime"
    OUTSIDE = "outside"  # cancelled by another program or person
    FAILED = "failed"
    FINISHED = "finished"  # its script ended with exit code 0
    LOST = "lost"  # no trace
    STUCK = "stuck"  # the batch system will never run it
    SILENT = "silent"  # it ran, but no worker connected, or none came back


class Ending(msgspec.Struct, frozen=True):
    """How a job ended: a kind and a sentence."""

    kind: Kind
    text: str


#: The end of a job that was told to end, and was to be run again, as it turned out.
STOOD_IN_FOR = "put back in the queue by the batch system, and not run again: another job is in its place"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What every job of this cluster was promised, as far as sentences need it."""

    title: str  # the batch system, as a person writes it
    walltime: int | None  # seconds
    memory: int  # bytes
    python: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a job's end."""

    exit_code: int | None = None  # from its exit-code file
    gave_up: str = ""  # the worker's own words
    listed: str | None = None  # how the listing says it ended; None if it does not
    usage: JobUsage | None = None
    has_started: bool = False
    has_joined: bool = False
    ran_seconds: float | None = None


def why_ended(evidence: Evidence, terms: Terms) -> Ending:
    """Return how a job ended that we did not cancel."""
    said = (evidence.usage.reason if evidence.usage else "") or evidence.listed or ""
    if _is_walltime(evidence, said, terms):
        return Ending(Kind.WALLTIME, _walltime_text(evidence, terms))
    if evidence.gave_up:
        return Ending(Kind.FAILED, f"the worker gave up: {evidence.gave_up.strip()}")
    if "cancel" in said.lower() or "qdel" in said.lower():
        more = "" if said.lower() == "cancelled" else f" ({said})"
        return Ending(Kind.OUTSIDE, f"cancelled from outside{more}")
    if said and not _is_bare_code(said) and not _is_success(said):
        return Ending(Kind.FAILED, said + _memory_note(evidence.usage, said, terms))
    code = _exit_code(evidence)
    if code is not None:
        return Ending(Kind.FAILED if code else Kind.FINISHED, _code_text(code, evidence, terms))
    if said:
        return Ending(Kind.FINISHED if _is_success(said) else Kind.FAILED, said)
    return _without_trace(evidence, terms)


def stuck(listed: str, explained: str, terms: Terms) -> Ending:
    """Return the end of a job that the batch system will never run as it is."""
    state = listed.strip() or "an error state"
    why = explained.strip()
    if why and why not in state:
        state = f"{state}: {why}"
    return Ending(Kind.STUCK, f"{terms.title} put it in {state}")


def silent(host: str, seconds: float, addresses: str, *, had_workers: bool) -> Ending:
    """Return the end of a job that runs without a worker for too long."""
    where = f" on {host}" if host else ""
    if had_workers:
        return Ending(
            Kind.SILENT, f"its workers{where} went silent and did not come back within {seconds:.0f} s; cancelled"
        )
    tried = f" (the head listens at {addresses})" if addresses else ""
    return Ending(Kind.SILENT, f"it runs{where} but no worker connected within {seconds:.0f} s{tried}; cancelled")


def no_answer(terms: Terms, since: float | None, text: str, now: float) -> str:
    """Return what is to be said of jobs about which the batch system does not answer; empty if it does."""
    return "" if since is None else f"{terms.title} has not answered for {now - since:.0f} s: {first_line(text)}"


def accounted(usage: JobUsage, terms: Terms) -> str:
    """Return what accounting knows of an ended job, against what was asked for."""
    facts = []
    if usage.exit_code is not None:
        facts.append(f"exit code {usage.exit_code}")
    if usage.signal is not None:
        facts.append(f"killed by {_signal_name(usage.signal)}")
    if usage.wall_seconds is not None:
        limit = f" of {format_duration(terms.walltime)}" if terms.walltime is not None else ""
        facts.append(f"ran {format_duration(usage.wall_seconds)}{limit}")
    if usage.max_memory_bytes is not None:
        facts.append(f"used {about(usage.max_memory_bytes)} of the {format_bytes(terms.memory)} asked for")
    return ", ".join(facts) or usage.reason


def hint(log: str, terms: Terms) -> str:
    """Return what to do about a well-known mistake that a job's log shows; empty if it shows none."""
    if re.search(r"No module named '?hpclaunch\b", log):
        return (
            f"The job's python ({terms.python}) does not have hpclaunch: install it there, "
            "or set the key `python` to a python that has it."
        )
    for line in reversed(log.splitlines()):
        if re.search(r"[Pp]ermission denied", line):
            return _permission_hint(line, terms)
        if re.search(r"No such file or directory|not found", line) and _names_python(line, terms):
            return (
                f"The compute node does not have {terms.python}: set the key `python` to one that exists there, "
                "in a directory that the nodes share."
            )
    return ""


def tail(log: str, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log that have text in them."""
    return [line.rstrip() for line in log.splitlines() if line.strip()][-lines:]


def quote_log(path: str, log: str) -> str:
    """Return the last lines of a log as an error quotes them, or that there is nothing to quote."""
    lines = tail(log)
    if not lines:
        return f"  its log is empty or missing: {path}"
    return "\n".join([f"  last lines of its log, {path}:", *(f"  | {line}" for line in lines)])


def explains(text: str) -> bool:
    """Return whether the listing's words say why a job waits; Grid Engine's state letters do not."""
    return re.fullmatch("[A-Za-z]{0,5}", text) is None


def first_line(text: str) -> str:
    """Return what an error says before it goes into detail."""
    return text.strip().partition("\n")[0]


def in_one_line(text: str) -> str:
    """Return what a refusal says and the batch system's own last words for it, in one line."""
    words = [line.strip().removeprefix("|").strip() for line in text.splitlines() if line.strip().startswith("|")]
    said = [word for word in words if word and word != "Exiting."]
    return f"{first_line(text)}: {said[-1]}" if said else first_line(text)


def about(size: int) -> str:
    """Return a measured number of bytes, rounded for a person: ``26 GB``, ``1.3 GB``."""
    step = 10**8 if size >= 10**9 else 10**5
    return format_bytes(round(size / step) * step or size)


# --- walltime


def _is_walltime(evidence: Evidence, said: str, terms: Terms) -> bool:
    if re.search(r"wall\s?-?time|time limit|TIMEOUT", said, re.IGNORECASE):
        return True
    if terms.walltime is None or evidence.exit_code in range(128):
        return False
    usage = evidence.usage
    ran = usage.wall_seconds if usage and usage.wall_seconds is not None else evidence.ran_seconds
    was_killed = usage is None or usage.signal is not None or (usage.exit_code or 0) > 128
    return was_killed and ran is not None and ran >= terms.walltime - WALLTIME_SLACK


def _walltime_text(evidence: Evidence, terms: Terms) -> str:
    limit = f" ({format_duration(terms.walltime)})" if terms.walltime is not None else ""
    late = "" if evidence.has_joined else " before a worker of it had connected"
    return f"walltime reached{limit}{late}"


# --- exit codes


def _exit_code(evidence: Evidence) -> int | None:
    if evidence.exit_code is not None:
        return evidence.exit_code
    usage = evidence.usage
    if usage is None:
        return None
    if usage.signal:
        return 128 + usage.signal
    return usage.exit_code


def _code_text(code: int, evidence: Evidence, terms: Terms) -> str:
    if code == 0:
        return "the job script came to its end (exit code 0)"
    if code == 126:
        return "exit code 126: the job script found a command but may not run it"
    if code == 127:
        return "exit code 127: the job script did not find a command"
    if code > 128:
        name = _signal_name(code - 128)
        return f"exit code {code}: killed by {name}" + _memory_note(evidence.usage, name, terms)
    return f"exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _memory_note(usage: JobUsage | None, said: str, terms: Terms) -> str:
    """Return how much memory a killed job had used, where that explains the kill and it was not said yet."""
    used = usage.max_memory_bytes if usage else None
    is_about_memory = "memory" in said.lower()
    if is_about_memory and re.search(r"\d", said):
        return ""
    if used is not None and used >= 0.95 * terms.memory:
        return f" (it used {about(used)} of memory; {format_bytes(terms.memory)} were asked for)"
    if not is_about_memory and "KILL" in said:
        return f", by the system when memory runs out or by hand ({format_bytes(terms.memory)} were asked for)"
    return ""


def _is_bare_code(said: str) -> bool:
    return (
        re.fullmatch(r"failed|(exit code|signal|killed by signal) ?\d+\.?", said.strip(), re.IGNORECASE)
        is not None
    )


def _is_success(said: str) -> bool:
    return re.fullmatch(r"completed|(finished )?\(?exit code 0\)?", said.strip(), re.IGNORECASE) is not None


def _without_trace(evidence: Evidence, terms: Terms) -> Ending:
    if not evidence.has_started:
        return Ending(
            Kind.OUTSIDE,
            f"it left the queue of {terms.title} before it started, and accounting has no record of it: "
            "cancelled from outside",
        )
    return Ending(
        Kind.LOST,
        f"it vanished: {terms.title} does not list it, accounting has no record of it, and it left no exit code "
        "(its node may have failed)",
    )


# --- hints


def _names_python(line: str, terms: Terms) -> bool:
    return any(word in line for word in terms.python.split()) or re.search(r"\bpython[\d.]*\b", line) is not None


def _permission_hint(line: str, terms: Terms) -> str:
    what = terms.python if terms.python.split()[-1] in line else "a file or directory that the job needs"
    return (
        f"On the compute node the user may not read {what} (home directories may be closed there): put the python "
        "environment where the nodes can read it and name it by the key `python`, and set `shared-temp-directory` "
        "and `log-directory` to places that the nodes share."
    )
