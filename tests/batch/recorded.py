"""Recorded output of real batch systems: ``tests/data/<system>/<name>.txt``.

A recording is the command after ``$``, its standard output, standard error below ``--- stderr``, and the exit code
in ``--- exit N``. Pages of accounting that users sent have output only.
"""

from __future__ import annotations

from pathlib import Path

from hpclaunch.batch.base import Completed

DATA = Path(__file__).parents[1] / "data"


def recorded(system: str, name: str) -> Completed:
    """Return a recorded command as a transport would."""
    argv: tuple[str, ...] = ()
    code = 0
    pieces: dict[str, list[str]] = {"stdout": [], "stderr": []}
    into = "stdout"
    for line in (DATA / system / f"{name}.txt").read_text().splitlines(keepends=True):
        if line.startswith("$ "):
            argv = tuple(line[2:].split())
        elif line.startswith("--- stderr"):
            into = "stderr"
        elif line.startswith("--- exit "):
            code = int(line.split()[-1])
        else:
            pieces[into].append(line)
    return Completed(argv, code, "".join(pieces["stdout"]), "".join(pieces["stderr"]))
