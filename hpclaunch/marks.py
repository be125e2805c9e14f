"""Private directories of processes of this host: whose each is, and the removal of those whose process is gone.

Ranks keep credentials in the temporary directory of their node, which no file system shares. A process that is
killed leaves its directory; the next process of the same user that begins or ends there removes it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from hpclaunch import rundir, trusted
from hpclaunch.errors import SiteError

#: How private directories are named, and the file in them that says whose they are.
PREFIX = "hpclaunch-"
_OWNER = "owner"


def mark(directory: Path, pid: int) -> None:
    """Note whose a private directory is, before anything secret is in it."""
    owner = f"{pid} {rundir.process_start(pid)} {_process_space()}"
    rundir.write_file(directory / _OWNER, owner.encode())


def remove_dead(base: Path) -> list[Path]:
    """Remove the marked directories of this user's processes that are gone from this host, and return them."""
    removed = []
    for path in base.glob(f"{PREFIX}*/{_OWNER}"):
        with contextlib.suppress(OSError, ValueError, SiteError):
            pid, start, space = trusted.read_file(path).decode().split()
            if space == _process_space() and rundir.process_start(int(pid)) != start:
                rundir.remove(path.parent)
                removed.append(path.parent)
    return removed


def _process_space() -> str:
    """Return what tells process numbers here from those of other hosts and containers, which may share /tmp."""
    return f"{socket.gethostname()}:{os.readlink('/proc/self/ns/pid')}"
