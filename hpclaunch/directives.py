"""Batch directives by their keys: which of ours a user's own directive replaces, or asks to leave out. Pure.

A directive's key is its option in one spelling: ``-pe``, ``--mem`` for all of ``--mem=4G``, ``--mem 4G`` and
``--mem-per-cpu=1G``. Of Grid Engine's ``-l`` each resource is a key of its own, ``-l h_rt``, and ``-l`` alone
means all of them. A line may have several options. Keys are compared whole; but what is to be left out may also be
a plain word, as in files of dask-jobqueue: ``mem`` leaves out every directive whose key has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from hpclaunch.errors import ScriptError

#: Spellings of the same option, and options that cannot stand beside each other, by batch system.
_SAME = {
    "slurm": {
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
    "sge": {"-wd": "-cwd"},
    "local": {},
}
#: Options that would break what we count on, and what to do instead.
REFUSED = {
    "slurm": {
        "--array": "hpclaunch counts the elements of its job arrays itself; use scale(jobs=...)",
        "--wait": "sbatch would not return before the jobs have ended",
        "--wrap": "the job's script is hpclaunch's; use job-script-prologue",
        "--test-only": "no job would be submitted",
    },
    "sge": {
        "-t": "hpclaunch counts the elements of its job arrays itself; use scale(jobs=...)",
        "-sync": "qsub would not return before the jobs have ended",
        "-b": "the job's script is hpclaunch's; use job-script-prologue",
        "-verify": "no job would be submitted",
    },
    "local": {},
}
_WORD = re.compile(r"[A-Za-z][\w-]*=?")
_PREFIX = re.compile(r"#(?:\$|SBATCH)\s+")


class Option(NamedTuple):
    """One option of a directive line: its key, and its value without quotes."""

    key: str
    value: str


def options(line: str, batch_system: str) -> list[Option]:
    """Return the options of a directive line; several for ``-l h_rt=1:0:0,disk=24G`` and for ``-V -j y``.

    :raises ScriptError: it does not begin with an option.
    """
    found: list[tuple[str, list[str]]] = []
    for word in _words(_PREFIX.sub("", line.strip())):
        if re.match(r"-[^\d\s]", word):
            option, value = _split_option(word, batch_system)
            found.append((option, [value] if value else []))
        elif found:
            found[-1][1].append(word)
        else:
            raise ScriptError(f"{line!r} is no directive: it must begin with an option, such as -V or --mem=4G")
    return [one for option, values in found for one in _keyed(option, " ".join(values), batch_system)]


def _words(line: str) -> list[str]:
    """Split a line at blanks outside of quotes, and drop the quotes."""
    return [re.sub(r"[\"']", "", word) for word in re.findall(r"(?:[^\s\"']|\"[^\"]*\"?|'[^']*'?)+", line)]


def _split_option(word: str, batch_system: str) -> tuple[str, str]:
    if word.startswith("--"):
        option, _, value = word.partition("=")
    elif batch_system == "slurm":
        option, value = word[:2], word[2:]  # -p8 is -p 8
    else:
        option, value = word, ""
    return _SAME[batch_system].get(option, option), value


def _keyed(option: str, value: str, batch_system: str) -> list[Option]:
    if (batch_system, option) != ("sge", "-l") or not value:
        return [Option(option, value)]
    resources = [one.strip() for one in value.split(",") if one.strip()]
    return [Option(f"-l {one.partition('=')[0].strip()}", one) for one in resources]


def _options_of(config_key: str, line: str, batch_system: str) -> list[Option]:
    try:
        return options(line, batch_system)
    except ScriptError as error:
        raise ScriptError(f"{config_key}: {error}") from None


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
    :raises ScriptError: several are named, and nobody would know which of them has the jobs.
    """
    words = [
        word for one in submit_words for word in (["-M", one[2:]] if re.match("-M.", one) else one.split("=", 1))
    ]
    said = [after for word, after in pairwise(words) if word in ("-M", "--clusters")]
    if not said:
        said = [one.value for line in extra for one in options(line, "slurm") if one.key == "--clusters"]
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


class Directives:
    """Answers, for each directive of ours, whether it is to stand in the script.

    :param extra: the user's own directives, which win.
    :param skip: what the user wants left out, by key.
    :raises ScriptError: one of them is no directive, or one that hpclaunch cannot work with.
    """

    def __init__(self, extra: Sequence[str], skip: Sequence[str], batch_system: str) -> None:
        self._batch_system = batch_system
        self._given = {
            option.key: option.value
            for line in extra
            if line.strip()
            for option in _options_of("job-extra-directives", line, batch_system)
        }
        self._skipped: dict[str, str] = {}
        self._words = tuple(one for one in map(str.strip, skip) if _WORD.fullmatch(one))
        for line in skip:
            if line.strip() and line.strip() not in self._words:
                said = _options_of("job-directives-skip", line, batch_system)
                self._skipped.update({option.key: line for option in said})
        self._hits: set[str] = set()
        for key, why in REFUSED[batch_system].items():
            if key in self._given:
                raise ScriptError(f"job-extra-directives: {key} can't be used: {why}")
        if batch_system == "slurm":
            slurm_cluster(extra)

    def wants(self, directive: str) -> bool:
        """Say whether our directive with this key, such as ``-pe`` or ``-l h_rt``, stands in the script."""
        return all(self._wants_key(option.key) for option in options(directive, self._batch_system))

    def _wants_key(self, key: str) -> bool:
        asked = {key, key.partition(" ")[0]} & self._skipped.keys()
        asked |= {word for word in self._words if word.rstrip("=") in key}
        self._hits |= asked
        return not asked and key not in self._given

    def wants_resources(self, spec: str) -> str:
        """Return what is left of a resource list ``a=1,b=2`` after those that the user replaces or skips."""
        return ",".join(one.strip() for one in spec.split(",") if one.strip() and self.wants(f"-l {one.strip()}"))

    def slots(self, ours: int) -> int:
        """Return how many slots a Grid Engine job gets: those of the user's own ``-pe NAME N``, else ours.

        Of a range such as ``4-8`` it is the least.
        """
        if "-pe" in self._given:
            count = re.search(r"\s(\d+)(?:-\d*)?$", self._given["-pe"])
            return max(1, int(count[1])) if count else 1
        return ours if self.wants("-pe") else 1

    def run_time(self, resource_spec: str = "") -> int | None:
        """Return the seconds of run time that the user's own directives ask for; None if they don't say."""
        if self._batch_system == "slurm":
            return slurm_seconds(self._given.get("--time", ""))
        own = [option.value for option in options(f"-l {resource_spec}", "sge")] if resource_spec.strip() else []
        for one in (*own, self._given.get("-l h_rt", "")):
            name, _, value = one.partition("=")
            if name.strip() == "h_rt" and (seconds := sge_seconds(value)) is not None:
                return seconds
        return None

    def useless_skips(self) -> Iterable[str]:
        """Give what was to be left out but is nothing of ours; call it after the script is rendered."""
        said = {**self._skipped, **{word: word for word in self._words}}
        return [line for key, line in said.items() if key not in self._hits]
