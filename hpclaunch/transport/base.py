"""Where commands run: the seam between what a batch system's codec says and the machine that can say it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hpclaunch.batch.base import Completed


class Transport(Protocol):
    """Runs commands somewhere."""

    async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
        """Run a command to its end and return what it said.

        Never raises for a command that fails, is not there, or takes longer than ``timeout`` seconds (it is then
        killed with all it started): ``exit_code`` is None for the last two and ``stderr`` says which.
        """
