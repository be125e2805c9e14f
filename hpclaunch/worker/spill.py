"""Results on disk: written by a thread of their own, read back by mapping them.

Each worker has one directory of its own below the scratch directory, made when it first writes something: 0700,
with a file of 0600 per result. The worker holds a lock in it as long as it lives. Its supervisor removes the
directory when the worker has ended, however that was; what is left of a whole node's sudden end is removed by the
next worker of the same user that writes something there, for its lock is free. Files that a client uploads to
the worker are kept in a second directory of this kind.

A result is unpickled when it is read, so it must be the one that was written, also where others can write to the
scratch directory: the worker keeps the directory open, opens files below its descriptor, and looks at their inode.

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
from pathlib import Path
from typing import NamedTuple

from hpclaunch import marks, trusted
from hpclaunch.comm.serialize import Payload
from hpclaunch.comm.sharing import Shared, map_payload, write_payload
from hpclaunch.errors import SiteError


def new_directory() -> Path:
    """Return a name for a worker's directory that no other has; nothing is made."""
    return marks.scratch_directory() / f"{marks.SCRATCH_PREFIX}{os.getuid()}-{secrets.token_hex(8)}"


def uploads_directory(directory: Path) -> Path:
    """Return where the worker with this directory puts what clients upload."""
    return directory.with_name(f"{directory.name}-uploads")


def remove_directory(directory: Path) -> None:
    """Remove what an ended worker has left, results and uploads."""
    for one in (directory, uploads_directory(directory)):
        shutil.rmtree(one, ignore_errors=True)


def make_directory(directory: Path) -> tuple[int, int]:
    """Make a private directory that is locked for as long as this process lives; remove those of dead ones.

    :return: the descriptors of the directory and of its lock.
    :raises OSError: it can't be made.
    """
    marks.remove_dead(directory.parent)
    try:
        opened = trusted.make_directory(str(directory))
    except SiteError as error:
        raise OSError(str(error)) from None
    lock = -1
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(f".{marks.LOCK}", flags, 0o600, dir_fd=opened)
        with contextlib.suppress(OSError):  # a file system without locks: no other can take it either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(
            f".{marks.LOCK}", marks.LOCK, src_dir_fd=opened, dst_dir_fd=opened
        )  # now others may ask whether we live
    except BaseException:
        os.close(opened)
        if lock >= 0:
            os.close(lock)
        shutil.rmtree(directory, ignore_errors=True)  # without a lock, it would be in the way of the next try
        raise
    return opened, lock


class Spilled(NamedTuple):
    """One result on disk: its file, the lengths of its pickle and buffers, and what tells it from any other."""

    path: Path
    lengths: tuple[int, ...]
    directory: int  # descriptor of its directory, where alone it is looked for
    inode: int

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.lengths)

    def read(self) -> Payload:
        """Map it into memory.

        :raises OSError: the file is gone or can't be mapped.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self.path.name, flags, dir_fd=self.directory)
        try:
            info = os.fstat(fd)
            if info.st_ino != self.inode or info.st_uid != os.geteuid():
                raise OSError(f"{self.path} is not the file that was written")
            return map_payload(fd, self.lengths)
        finally:
            os.close(fd)

    @property
    def place(self) -> str:
        """Where another process of this host opens it."""
        return str(self.path)


class SpillDirectory:
    """A worker's results on disk. Not thread-safe, but for use by one thread at a time.

    :param directory: where they go; made by the first :meth:`write`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._opened = self._lock = -1
        self._numbers = itertools.count()

    def write(self, payload: Payload | Shared) -> Spilled:
        """Write a result.

        :raises OSError: the disk is full, or the like; nothing of it is left then.
        """
        if self._lock < 0:
            self._opened, self._lock = make_directory(self.directory)
        if not isinstance(payload, Payload):
            payload = payload.read()
        path = self.directory / str(next(self._numbers))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path.name, flags, 0o600, dir_fd=self._opened)
        try:
            try:
                inode = os.fstat(fd).st_ino
                lengths = write_payload(fd, payload)
            finally:
                os.close(fd)  # only now do some network file systems say that there was no room
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=self._opened)
            raise
        return Spilled(path, lengths, self._opened, inode)

    def delete(self, spilled: Spilled) -> None:
        """Remove a result; who has mapped it keeps it."""
        with contextlib.suppress(OSError):
            os.unlink(spilled.path.name, dir_fd=spilled.directory)

    def close(self) -> None:
        """Remove all."""
        if self._lock >= 0:
            shutil.rmtree(self.directory, ignore_errors=True)
            os.close(self._lock)
            os.close(self._opened)
            self._opened = self._lock = -1
