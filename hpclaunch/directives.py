"""The keys of batch directives: which of ours a user's own directive replaces, or asks to leave out. Pure.

A directive's key is its option in one spelling: ``-pe``, ``-l h_rt`` (resources of Grid Engine's ``-l`` are keys
of their own), ``--mem`` for all of ``--mem=4G``, ``--mem 4G``. Slurm's short options are read as their long ones.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

#: Spellings that mean the same option, by batch system.
_SAME = {
    "slurm": {
        "-J": "--job-name",
        "-p": "--partition",
        "-A": "--account",
        "-t": "--time",
        "-o": "--output",
        "-e": "--error",
        "-c": "--cpus-per-task",
        "-n": "--ntasks",
        "-N": "--nodes",
        "-q": "--qos",
        "-C": "--constraint",
        "-D": "--chdir",
        "-a": "--array",
        "-d": "--dependency",
        "-L": "--licenses",
        "-w": "--nodelist",
        "-x": "--exclude",
        "-G": "--gpus",
        "--requeue": "--no-requeue",
        "--mem-per-cpu": "--mem",  # Slurm takes one way of asking for memory
        "--mem-per-gpu": "--mem",
        "--tasks": "--ntasks",
        "--workdir": "--chdir",
    },
    "sge": {"-wd": "-cwd", "-terse": "-terse"},
    "local": {},
}


def keys(directive: str, batch_system: str) -> list[str]:
    """Return the keys of one directive as a user writes it, such as ``-l h_rt=1:0:0,disk=24G`` or ``--mem=4G``."""
    try:
        words = shlex.split(directive)
    except ValueError:  # an unbalanced quote; the batch system will say so
        words = directive.split()
    if not words:
        return []
    option, equals, value = words[0].partition("=")
    if batch_system == "slurm" and not option.startswith("--") and len(option) > 2:
        option, value = option[:2], option[2:]  # -p8 is -p 8
    option = _SAME.get(batch_system, {}).get(option, option)
    if batch_system == "sge" and option == "-l":
        text = value if equals else " ".join(words[1:])
        return [f"-l {one.partition('=')[0].strip()}" for one in text.split(",") if one.strip()] or ["-l"]
    return [option]


class Directives:
    """Answers, for each directive of ours, whether it is to stand in the script.

    :param extra: the user's own directives, which win.
    :param skip: what the user wants left out, by key.
    """

    def __init__(self, extra: Sequence[str], skip: Sequence[str], batch_system: str) -> None:
        self._batch_system = batch_system
        self._replaced = {key for line in extra for key in keys(line, batch_system)}
        self._skipped = {key: line for line in skip for key in keys(line, batch_system)}
        self._hits: set[str] = set()

    def wants(self, directive: str) -> bool:
        """Say whether our directive with this key stands in the script."""
        for key in keys(directive, self._batch_system):
            group = key.split(" ")[0]
            for asked in (key, group):
                if asked in self._skipped:
                    self._hits.add(asked)
                    return False
            if key in self._replaced:
                return False
        return True

    def wants_resources(self, spec: str) -> str:
        """Return what is left of a resource list ``a=1,b=2`` after those that the user replaces or skips."""
        return ",".join(one for one in spec.split(",") if one.strip() and self.wants(f"-l {one.strip()}"))

    def useless_skips(self) -> Iterable[str]:
        """Give what was to be left out but is nothing of ours; call it after the script is rendered."""
        return [line for key, line in self._skipped.items() if key not in self._hits]
