"""Commands run as subprocesses of this one: the usual case, on a login node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from hpclaunch.batch.base import Completed


class LocalTransport:
    """Runs commands on this machine, without a shell."""

    async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
        """Run a command to its end and return what it said; see :class:`hpclaunch.transport.base.Transport`."""
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=cwd,
                start_new_session=True,
            )
        except FileNotFoundError:
            return Completed(tuple(argv), None, "", f"{argv[0]}: command not found on this machine")
        except (OSError, ValueError) as error:
            return Completed(tuple(argv), None, "", f"{argv[0]}: {error}")
        talk = asyncio.ensure_future(process.communicate())
        try:
            out, err = await asyncio.wait_for(asyncio.shield(talk), timeout)
        except TimeoutError:
            _kill_group(process.pid)
            out, err = await talk
            text = f"{err.decode(errors='replace')}\nno end within {timeout:g} s; it was killed".lstrip()
            return Completed(tuple(argv), None, out.decode(errors="replace"), text)
        except asyncio.CancelledError:
            _kill_group(process.pid)
            await talk
            raise
        code = process.returncode
        return Completed(tuple(argv), code, out.decode(errors="replace"), err.decode(errors="replace"))


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
