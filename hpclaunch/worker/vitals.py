"""What the kernel says of a process: its memory, and the end of the file that it prints to."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from pathlib import Path

from hpclaunch.comm.messages import WorkerVitals

_LINES, _BYTES = 15, 4096
_STOPPED = ("T", "t")


def memory_of(pid: int | str = "self") -> int:
    """Return the bytes that a process has for itself; 0 if it is gone.

    Anonymous and shared memory. Not pages of files that it has mapped: the kernel takes those back if it needs to.
    """
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_bytes().split(b"\n"):
            if line.startswith((b"RssAnon:", b"RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def virtual_memory_of(pid: int) -> int:
    """Return the bytes of virtual memory of a process and of all that it has started; 0 if it is gone."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        for process in (top := psutil.Process(pid), *top.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().vms
    return total


def vitals_of(name: str, pid: int) -> WorkerVitals:
    """Look at a worker's process as the kernel sees it; all is zero if it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return WorkerVitals(name, pid, 0, 0.0)
    ticks = int(words[11]) + int(words[12])
    rss = int(words[21]) * resource.getpagesize()
    return WorkerVitals(name, pid, rss, ticks / os.sysconf("SC_CLK_TCK"), words[0] in _STOPPED)


def output_size() -> int:
    """Return how much has been printed to standard error so far; -1 if that is no file."""
    try:
        info = os.fstat(2)
    except OSError:
        return -1
    return info.st_size if stat.S_ISREG(info.st_mode) else -1


def output_tail(since: int) -> str:
    """Return the last lines printed to standard error after byte ``since``, and where they are; else nothing.

    Several workers may print to one file.
    """
    size = output_size()
    if since < 0 or size <= since:
        return ""
    try:
        path = Path("/proc/self/fd/2").readlink()
        with path.open("rb") as file:
            start = max(since, size - _BYTES)
            file.seek(start)
            text = file.read(size - start).decode(errors="replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if line.strip()][-_LINES:]
    return "\n".join([f"{path} ends with:", *(f"  | {line}" for line in lines)]) if lines else ""
