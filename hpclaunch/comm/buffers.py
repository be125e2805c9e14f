"""Memory for large buffers: received data, and the copies that tasks may change.

A page of 4 KiB costs a fault, and its clearing, when it is first touched; for an array of 100 MB that is 25,000
faults and takes longer than to decrypt the array. Private memory can be had in pages of 2 MiB where the kernel's
``transparent_hugepage`` is ``madvise`` or ``always``; files in memory (memfd) can mostly not.

Pure: no I/O.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence

Buffer = bytes | bytearray | memoryview

#: Bytes from which large pages are asked for; below, the C library's memory is used again and costs less.
_LEAST_BYTES = 4 << 20

_ALIGN = 64


class OwnBytes(bytearray):
    """Memory that was made for one value; to be told from memory that users keep."""


class OwnPages(mmap.mmap):
    """As :class:`OwnBytes`, in pages."""


def allocate(size: int) -> memoryview:
    """Return writable memory of ``size`` bytes, all of them zero.

    :raises MemoryError: there is none.
    """
    if size < _LEAST_BYTES:
        return memoryview(OwnBytes(size))
    try:
        memory = OwnPages(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for {size / 1e6:.0f} MB: {error.strerror or error}") from None
    with contextlib.suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def allocate_pieces(lengths: Sequence[int]) -> list[memoryview]:
    """Return writable pieces of these lengths, each a multiple of 64 bytes behind the first, as arrays like it.

    :raises MemoryError: there is none.
    """
    starts = starts_of(lengths)
    whole = allocate(starts[-1] + lengths[-1])
    return [whole[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def starts_of(lengths: Sequence[int]) -> list[int]:
    """Return where pieces of these lengths begin if each begins at a multiple of 64."""
    starts, at = [], 0
    for length in lengths:
        starts.append(at)
        at += -(-length // _ALIGN) * _ALIGN
    return starts


def copy_of(buffer: Buffer) -> memoryview:
    """Return a writable copy of a buffer's bytes.

    :raises MemoryError: there is no memory for it.
    """
    view = memoryview(buffer).cast("B")
    copy = allocate(len(view))
    copy[:] = view
    return copy
