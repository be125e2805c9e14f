"""Results on disk: written by a thread of their own, read back by mapping them.

Each worker has one directory of its own below the scratch directory, made when it first writes something: 0700,
with a file of 0600 per result. The worker holds a lock in it as long as it lives. Its supervisor removes the
directory when the worker has ended, however that was; what is left of a whole node's sudden end is removed by the
next worker of the same user that writes something there, for nobody holds its lock.

What is read back is a private mapping of the file: pages come when they are touched, and may be changed by who
reads them without a copy being made of the rest. Raw buffers begin at multiples of 64 bytes, as arrays like it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from hpclaunch.comm.serialize import Payload
from hpclaunch.comm.sharing import Shared, map_payload, write_payload

_PREFIX = "hpclaunch-spill-"
_LOCK = "lock"


def new_directory() -> Path:
    """Return a name for a worker's directory that nobody else has; nothing is made."""
    return Path(tempfile.gettempdir()) / f"{_PREFIX}{os.getuid()}-{secrets.token_hex(8)}"


def uploads_beside(directory: Path) -> Path:
    """Return the name of the directory for files that clients upload to the worker."""
    return directory.with_name(directory.name.replace(_PREFIX, "hpclaunch-uploads-", 1))


def remove_directory(directory: Path) -> None:
    """Remove what an ended worker has left."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.rmtree(uploads_beside(directory), ignore_errors=True)


class Spilled(NamedTuple):
    """One result on disk: its file, and the lengths of its pickle and buffers."""

    path: Path
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.lengths)

    def read(self) -> Payload:
        """Map it into memory.

        :raises OSError: the file is gone or can't be mapped.
        """
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return map_payload(fd, self.lengths)
        finally:
            os.close(fd)

    @property
    def place(self) -> str:
        """Where another process of this host opens it."""
        return str(self.path)

    @property
    def inode(self) -> int:
        """What tells it from another file of that name."""
        return self.path.stat().st_ino


class SpillDirectory:
    """A worker's results on disk. Not thread-safe, but for use by one thread at a time.

    :param directory: where they go; made by the first :meth:`write`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = -1
        self._numbers = itertools.count()

    def write(self, payload: Payload | Shared) -> Spilled:
        """Write a result.

        :raises OSError: the disk is full, or the like; nothing of it is left then.
        """
        if self._lock < 0:
            self._make()
        if not isinstance(payload, Payload):
            payload = payload.read()
        path = self.directory / str(next(self._numbers))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                lengths = write_payload(fd, payload)
            finally:
                os.close(fd)  # only now do some network file systems say that there was no room
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Spilled(path, lengths)

    def delete(self, spilled: Spilled) -> None:
        """Remove a result; who has mapped it keeps it."""
        with contextlib.suppress(OSError):
            spilled.path.unlink()

    def close(self) -> None:
        """Remove all."""
        if self._lock >= 0:
            remove_directory(self.directory)
            os.close(self._lock)
            self._lock = -1

    def _make(self) -> None:
        _sweep(self.directory.parent)
        self.directory.mkdir(mode=0o700)
        unnamed = self.directory / f".{_LOCK}"
        lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: nobody else can take it either
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(self.directory / _LOCK)  # from here on others may ask whether we live
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock


def _sweep(base: Path) -> None:
    """Remove our directories whose workers are gone."""
    for directory in base.glob(f"{_PREFIX}{os.getuid()}-*"):
        with contextlib.suppress(OSError):
            if directory.is_symlink() or directory.stat().st_uid != os.getuid():
                continue
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_directory(directory)
            finally:
                os.close(lock)
