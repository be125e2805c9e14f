"""Private directories of processes of this host: whose each is, and the removal of those whose process is gone.

Ranks keep credentials in the temporary directory of their node, and workers results and uploads. A process that is
killed leaves its directory; the next process of the same user that begins or ends there removes it: a supervisor,
a rank, the head of a local cluster, a command. A rank's directory names its process, a worker's is locked by it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from hpclaunch import rundir, trusted
from hpclaunch.errors import SiteError

#: How private directories are named, and the file in them that says whose they are.
PREFIX = "hpclaunch-"
_OWNER = "owner"
#: How the directories of workers are named, with the user's number, and the file in them that their worker locks.
SCRATCH_PREFIX = "hpclaunch-spill-"
LOCK = "lock"
#: Seconds after which a directory without a lock is taken as one that never got one.
_BIRTH_SECONDS = 600.0


def mark(directory: Path, pid: int) -> None:
    """Note whose a private directory is, before anything secret is in it."""
    owner = f"{pid} {rundir.process_start(pid)} {_process_space()}"
    rundir.write_file(directory / _OWNER, owner.encode())


def scratch_directory() -> Path:
    """Return where this host's processes put temporary files; it may be full."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # Python tries to write a byte into each; who writes there is told what is wrong
        return Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - the usual place


def remove_dead(base: Path) -> list[Path]:
    """Remove the directories of this user's processes that are gone from this host, and return them."""
    ranks = [path.parent for path in base.glob(f"{PREFIX}*/{_OWNER}") if _has_no_owner(path)]
    workers = [path for path in base.glob(f"{SCRATCH_PREFIX}{os.getuid()}-*") if _is_unlocked(path)]
    for path in ranks:
        rundir.remove(path)
    for path in workers:
        shutil.rmtree(path, ignore_errors=True)
    return [*ranks, *workers]


def _has_no_owner(path: Path) -> bool:
    """Say whether the process is gone that an owner's file names."""
    with contextlib.suppress(OSError, ValueError, SiteError):
        pid, start, space = trusted.read_file(path).decode().split()
        return space == _process_space() and rundir.process_start(int(pid)) != start
    return False


def _is_unlocked(directory: Path) -> bool:
    """Say whether the worker is gone that has locked its directory, on this host or any other."""
    with contextlib.suppress(OSError, SiteError), trusted.private_directory(directory) as opened:
        try:
            lock = os.open(LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=opened)
        except FileNotFoundError:  # not yet, or its worker was killed before it came to that
            return time.time() - os.fstat(opened).st_mtime > _BIRTH_SECONDS
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(lock)
        return True
    return False


def _process_space() -> str:
    """Return what tells process numbers here from those of other hosts and containers, which may share /tmp."""
    return f"{socket.gethostname()}:{os.readlink('/proc/self/ns/pid')}"
