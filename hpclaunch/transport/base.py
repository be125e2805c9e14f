"""Where commands run: the seam between what a batch system's codec says and the machine that can say it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec


class Completed(msgspec.Struct, frozen=True):
    """A command that a transport has run. exit_code is None if it could not start or ran out of time."""

    argv: tuple[str, ...]
    exit_code: int | None
    stdout: str
    stderr: str
    is_late: bool = False  # it ran out of time and was killed: what it has done is not known


class Transport(Protocol):
    """Runs commands somewhere."""

    async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
        """Run a command to its end and return what it said.

        Never raises for a command that fails, is not there, or takes longer than ``timeout`` seconds (it is then
        killed with all it started): ``exit_code`` is None for the last two and ``stderr`` says which.
        """
