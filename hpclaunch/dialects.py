"""The directives of Slurm and Grid Engine, each as a :class:`~hpclaunch.directives.Dialect`. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from hpclaunch.directives import Dialect, checked, is_plain, options
from hpclaunch.errors import ScriptError


def slurm_seconds(text: str) -> int | None:
    """Read Slurm's ``--time``: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S; None if it is nothing of that."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        return None
    days, *rest = match.groups()
    numbers = [int(one) for one in rest if one is not None]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def slurm_cluster(extra: Sequence[str], submit_words: Sequence[str] = ()) -> str:
    """Return the cluster that jobs are sent to by ``--clusters``; empty if none is named.

    :param extra: the user's own directives.
    :param submit_words: the user's own words for sbatch, which win as they do there.
    :raises ScriptError: several are named, and it would not be known which of them has the jobs.
    """
    words = [
        word for one in submit_words for word in (["-M", one[2:]] if re.match("-M.", one) else one.split("=", 1))
    ]
    said = [after for word, after in pairwise(words) if word in ("-M", "--clusters")]
    if not said:
        said = [one.value for line in extra for one in options(line, SLURM) if one.key == "--clusters"]
    name = said[-1].strip() if said else ""
    if "," in name or name == "all":
        raise ScriptError(
            f"--clusters={name}: hpclaunch follows jobs on one cluster only; name one, or make two cluster objects"
        )
    return name


def sge_seconds(text: str) -> int | None:
    """Read Grid Engine's times: seconds, or H:M:S in which a part may be empty; None if it is nothing of that."""
    match = re.fullmatch(r"(\d+)|(\d*):(\d*):(\d*)", text.strip())
    if match is None:
        return None
    if match[1]:
        return int(match[1])
    return int(match[2] or 0) * 3600 + int(match[3] or 0) * 60 + int(match[4] or 0)


def sge_word(value: object) -> str:
    """Return a value as one word of a Grid Engine directive.

    :raises ScriptError: there is no way to write it.
    """
    text = checked(value, "\"'#")
    return text if is_plain(text) else f'"{text}"'


def slurm_word(value: object) -> str:
    """Return a value as one word of a Slurm directive.

    :raises ScriptError: it is not one line of text.
    """
    text = checked(value, "")
    if is_plain(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


SLURM = Dialect(
    prefix="#SBATCH",
    same={
        "-A": "--account",
        "-C": "--constraint",
        "-D": "--chdir",
        "-G": "--gpus",
        "-J": "--job-name",
        "-L": "--licenses",
        "-M": "--clusters",
        "-N": "--nodes",
        "-W": "--wait",
        "-a": "--array",
        "-b": "--begin",
        "-c": "--cpus-per-task",
        "-d": "--dependency",
        "-e": "--error",
        "-i": "--input",
        "-n": "--ntasks",
        "-o": "--output",
        "-p": "--partition",
        "-q": "--qos",
        "-t": "--time",
        "-w": "--nodelist",
        "-x": "--exclude",
        "--mem-per-cpu": "--mem",
        "--mem-per-gpu": "--mem",
        "--requeue": "--no-requeue",
        "--tasks": "--ntasks",
        "--workdir": "--chdir",
    },
    refused={
        "--array": "hpclaunch counts the elements of its job arrays itself; use scale(jobs=...)",
        "--wait": "sbatch would not return before the jobs have ended",
        "--wrap": "the job's script is hpclaunch's; use job-script-prologue",
        "--test-only": "no job would be submitted",
    },
    queue_option="--partition",
    time_option="--time",
    has_joined_values=True,
    read_seconds=slurm_seconds,
    write_word=slurm_word,
    check=slurm_cluster,
)
SGE = Dialect(
    prefix="#$",
    same={"-wd": "-cwd"},
    refused={
        "-t": "hpclaunch counts the elements of its job arrays itself; use scale(jobs=...)",
        "-sync": "qsub would not return before the jobs have ended",
        "-b": "the job's script is hpclaunch's; use job-script-prologue",
        "-verify": "no job would be submitted",
    },
    list_option="-l",
    queue_option="-q",
    slots_option="-pe",
    time_option="-l h_rt",
    read_seconds=sge_seconds,
    write_word=sge_word,
)
#: That of a batch system without directives.
NONE = Dialect(prefix="#", write_word=sge_word)
