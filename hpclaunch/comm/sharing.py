"""Results that processes of one host share as files in memory, instead of sending them to each other.

The first of them that is asked for a large result writes it into a sealed file without a name (memfd), and
answers with where that is to be opened, below ``/proc``. The kernel opens it for processes of the same user only.
Who asked maps it privately: nothing is copied before it is written to. Results on disk are shared likewise.

Raw buffers begin at multiples of 64 bytes in such a file, as arrays like it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from hpclaunch.comm.buffers import Buffer, OwnPages, starts_of
from hpclaunch.comm.serialize import Payload, PrivatePayload

#: Bytes from which a result is shared; below, sending it is as quick.
LEAST_BYTES = 1 << 20
#: Files that one process keeps for others; each takes a file descriptor.
_MOST_FILES = 200

_F_ADD_SEALS, _SEALS = 1033, 0x0002 | 0x0004 | 0x0008  # against shrinking, growing and writing


@cache
def node_id() -> str:
    """Return what only processes have in common that can share: the host since it was started, and their view.

    Empty where that can't be told, and nothing is shared.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


class Shared:
    """A result in a file that is open here. It is closed with the last reference; mappings of it stay."""

    alive: ClassVar[int] = 0

    def __init__(self, fd: int, lengths: Sequence[int]) -> None:
        self._fd = fd
        self.lengths = tuple(lengths)
        Shared.alive += 1

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.lengths)

    @property
    def place(self) -> str:
        """Where another process of this host opens it."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @property
    def inode(self) -> int:
        """What tells it from a file that is opened under the same number later."""
        return os.fstat(self._fd).st_ino

    def read(self) -> Payload:
        """Map it into memory, for the caller alone.

        :raises OSError: there is no room for it.
        """
        return map_payload(self._fd, self.lengths)

    def __del__(self) -> None:
        Shared.alive -= 1
        with contextlib.suppress(OSError):
            os.close(self._fd)


def share(payload: Payload) -> Shared:
    """Write a result into a file in memory that can't be changed any more.

    :raises OSError: there is no memory for it, or there are too many files.
    """
    if Shared.alive >= _MOST_FILES:
        raise OSError("too many shared results")
    fd = os.memfd_create("hpclaunch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        lengths = write_payload(fd, payload)
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return Shared(fd, lengths)


def open_shared(place: str, inode: int, lengths: Sequence[int]) -> Shared:
    """Open what another process of this host shares.

    :raises OSError: it is not there any more, or not what it should be.
    """
    fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    info = os.fstat(fd)
    is_it = stat.S_ISREG(info.st_mode) and info.st_ino == inode and info.st_uid == os.geteuid()
    if not is_it or not lengths or info.st_size < end_of(lengths):
        os.close(fd)
        raise OSError(f"{place} is not the result that it was")
    return Shared(fd, lengths)


# --- the file -----------------------------------------------------------------------------------------------


def write_payload(fd: int, payload: Payload) -> tuple[int, ...]:
    """Write a result into an empty file; return the lengths of its pieces.

    :raises OSError: it does not fit.
    """
    pieces = [memoryview(piece).cast("B") for piece in (payload.pickle, *payload.buffers)]
    lengths = tuple(len(piece) for piece in pieces)
    for start, piece in zip(starts_of(lengths), pieces, strict=True):
        at = start
        while piece:
            count = os.pwrite(fd, piece[: 1 << 30], at)  # Linux takes no more than 2 GiB at once
            piece, at = piece[count:], at + count
    os.ftruncate(fd, end_of(lengths))
    return lengths


def map_payload(fd: int, lengths: Sequence[int]) -> PrivatePayload:
    """Map a file that :func:`write_payload` wrote; what is changed in it is not seen by others.

    :raises OSError: it can't be mapped, or was cut short.
    """
    if os.fstat(fd).st_size < end_of(lengths):
        raise OSError("the file was cut short")
    view = memoryview(OwnPages(fd, 0, access=mmap.ACCESS_COPY))
    pieces = [view[at : at + length] for at, length in zip(starts_of(lengths), lengths, strict=True)]
    return PrivatePayload(pieces[0], list[Buffer](pieces[1:]))


def end_of(lengths: Sequence[int]) -> int:
    """Return the size of a file with pieces of these lengths."""
    return starts_of(lengths)[-1] + lengths[-1]
