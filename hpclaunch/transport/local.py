"""Commands run as subprocesses of this one: the usual case, on a login node.

Output goes to files in memory, not to pipes: a daemon that a command leaves behind would keep a pipe open, and the
answer waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from hpclaunch.transport.base import Completed
from hpclaunch.transport.environment import known_environment

#: Seconds that a killed process gets to go away; one that waits for a dead file server may never do.
_KILL_SECONDS = 5.0


class LocalTransport:
    """Runs commands on this machine, without a shell, in the environment that is known for them.

    :param umask: the commands' umask, which a batch system may hand on to the jobs; -1 is this process's own.
    """

    def __init__(self, *, umask: int = -1) -> None:
        self._umask = umask

    async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
        """Run a command to its end and return what it said; see :class:`hpclaunch.transport.base.Transport`."""
        words = tuple(argv)
        start = asyncio.ensure_future(asyncio.to_thread(_start, words, cwd, self._umask))
        try:
            running = await asyncio.shield(start)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError, ValueError):
                await asyncio.to_thread((await start).end)
            raise
        except FileNotFoundError as error:
            what = "no such directory" if error.filename == str(cwd) else "command not found on this machine"
            return Completed(words, None, "", f"{error.filename}: {what}")
        except (OSError, ValueError) as error:
            return Completed(words, None, "", f"{words[0]}: {error}")
        wait = asyncio.ensure_future(asyncio.to_thread(running.wait, timeout))
        try:
            return await asyncio.shield(wait)
        except asyncio.CancelledError:
            running.kill()
            await wait
            raise


def _start(argv: tuple[str, ...], cwd: Path | None, umask: int) -> _Running:
    out, err = _memory_file("out"), _memory_file("err")
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=known_environment(argv, os.environ),
            start_new_session=True,
            umask=umask,
        )
    except BaseException:
        out.close()
        err.close()
        raise
    return _Running(argv, process, out, err)


def _memory_file(name: str) -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create(name), "w+b")
    return tempfile.TemporaryFile()


class _Running(NamedTuple):
    """A command at work. Its methods block."""

    argv: tuple[str, ...]
    process: subprocess.Popen[bytes]
    out: IO[bytes]
    err: IO[bytes]

    def wait(self, timeout: float) -> Completed:
        """Wait for the end, and bring it about after ``timeout`` seconds."""
        in_time = ends_within(self.process, timeout)
        if not in_time:
            self.kill()
            ends_within(self.process, _KILL_SECONDS)
        out, err = _read(self.out), _read(self.err)
        if not in_time:
            err = f"{err}\nno end within {timeout:g} s; it was killed".lstrip()
        return Completed(self.argv, self.process.poll() if in_time else None, out, err, is_late=not in_time)

    def kill(self) -> None:
        """Kill the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it, and wait for its end."""
        self.kill()
        self.wait(_KILL_SECONDS)


def ends_within(process: subprocess.Popen[Any], timeout: float) -> bool:
    """Wait for a process, which Popen could do only by looking now and then; say whether it has ended."""
    if process.poll() is not None:  # its number may be another's by now
        return True
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # an old kernel, or the process is no more
            fd = os.pidfd_open(process.pid)
            try:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll(timeout * 1000)
            finally:
                os.close(fd)
            timeout = 0.0
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout)
    return process.returncode is not None


def _read(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")
