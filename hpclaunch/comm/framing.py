"""How messages become bytes: frames of a length-prefixed msgpack body and raw buffers behind it.

A frame is::

    u32 length of body | u32 number of buffers | u64 length of each buffer | body | buffers

in network byte order. The body is one msgpack array of messages: all that a peer was sent in one tick of the
event loop. The decoder is fed bytes and gives frames; it allocates nothing before it has checked a length
against its limit, so that a stranger can make it hold at most ``limit`` bytes.

A transport either hands pieces of bytes over (``feed``), or receives into memory that the decoder offers
(``space``, then ``received``): a large frame is then received where it stays.

Pure: no I/O. Errors are :class:`~hpclaunch.errors.FrameError`, after which a decoder takes nothing more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from hpclaunch.comm import messages as m
from hpclaunch.comm.buffers import Buffer, allocate, copy_of
from hpclaunch.errors import FrameError

_HEAD = struct.Struct("!II")
_LENGTH = struct.Struct("!Q")
_MAX_BUFFERS = 65536

#: Bytes that a peer may make us hold before it has shown who it is.
LIMIT_STRANGER = 64 * 1024
#: Bytes in one frame from a peer that we know.
LIMIT_PEER = 1 << 35
#: A body holds messages, not bulk data; msgpack cannot hold more in one field anyway.
LIMIT_BODY = (1 << 32) - 1
#: Messages in one frame, which are decoded at once.
MOST_MESSAGES = 1 << 16
#: Messages in columns: row i of ``keys`` belongs to item i of every list that is as long.
IN_COLUMNS = frozenset[type](
    {
        m.SubmitTasks,
        m.ReleaseKeys,
        m.CancelKeys,
        m.LocateKeys,
        m.RunTasks,
        m.DropTasks,
        m.WantKeys,
        m.SeeThrough,
        m.RetryKeys,
        m.FreeResults,
        m.TasksDone,
        m.TasksStored,
        m.TasksFailed,
        m.TasksCancelled,
        m.TasksRetried,
        m.TasksReturned,
        m.CopiesHeld,
        m.KeepCopies,
    }
)
_LONG_ARRAY = 0xDD  # msgpack's array with a count of 32 bits

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[m.Message]] = msgspec.msgpack.Decoder(list[m.Message])


class Frame(NamedTuple):
    """One decoded frame: its messages, and the raw buffers that belong to them in order."""

    messages: list[m.Message]
    buffers: list[memoryview]


def encode(messages: Sequence[m.Message], buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return the frame as a list of byte strings to be written one after another.

    Messages that exceed 4 GiB, or are very many, become several frames; one in columns is cut into two.

    :raises FrameError: if a single message exceeds 4 GiB and is not in columns.
    """
    if buffers or len(messages) <= MOST_MESSAGES:
        try:
            return _encode(messages, buffers)
        except FrameError:
            if buffers or not messages:
                raise
    pieces: list[Buffer] = []
    for half in _halves(messages):
        pieces += encode(half)
    return pieces


def _halves(messages: Sequence[m.Message]) -> Iterator[Sequence[m.Message]]:
    middle = len(messages) // 2
    if middle:
        yield messages[:middle]
        yield messages[middle:]
        return
    (message,) = messages
    count = len(message.keys) if type(message) in IN_COLUMNS else 0  # type: ignore[union-attr]
    if count < 2:
        raise FrameError(f"a {type(message).__name__} of more than {LIMIT_BODY} bytes does not fit into one frame")
    for rows in (slice(count // 2), slice(count // 2, None)):
        yield [cut_columns(message, rows)]


def cut_columns(message: m.Message, rows: slice) -> m.Message:
    """Return a message in columns with some of its rows."""
    count = len(message.keys)  # type: ignore[union-attr]
    values = msgspec.structs.asdict(message)
    columns = {k: v[rows] for k, v in values.items() if isinstance(v, list) and len(v) == count}
    return msgspec.structs.replace(message, **columns)


def _encode(messages: Sequence[m.Message], buffers: Sequence[Buffer]) -> list[Buffer]:
    start = _HEAD.size + _LENGTH.size * len(buffers)
    body = bytearray(start)
    _encoder.encode_into(messages, body, start)
    if len(body) - start > LIMIT_BODY:
        raise FrameError(f"messages of {len(body) - start} bytes do not fit into one frame")
    _HEAD.pack_into(body, 0, len(body) - start, len(buffers))
    for i, buffer in enumerate(buffers):
        _LENGTH.pack_into(body, _HEAD.size + i * _LENGTH.size, memoryview(buffer).nbytes)
    return [body, *buffers]


class FrameDecoder:
    """Takes bytes in pieces of any size, gives whole frames.

    :param limit: bytes that one frame may have in all; may be raised once the peer is known.
    :param scratch: memory to receive into, which decoders may share: nothing is left in it between two calls.
    """

    __slots__ = ("_filled", "_pending", "_scratch", "_target", "limit")

    def __init__(self, limit: int = LIMIT_STRANGER, scratch: memoryview | None = None) -> None:
        self.limit = limit
        self._scratch = scratch if scratch is not None else memoryview(b"")
        self._pending: bytes | bytearray = b""  # the beginning of a frame, shorter than its header says
        self._target: memoryview | None = None  # a large frame being filled in place
        self._filled = 0

    def space(self) -> memoryview:
        """Return where the next bytes are to be received; never empty if there is scratch memory."""
        return self._scratch if self._target is None else self._target[self._filled :]

    def received(self, count: int) -> list[Frame]:
        """Return the frames that end in the ``count`` bytes that were received into :meth:`space`.

        :raises FrameError: the bytes are no frame of ours, or one over the limit.
        """
        if self._target is None:
            return self.feed(self._scratch[:count])
        self._filled += count
        if self._filled < len(self._target):
            return []
        view, self._target = self._target, None
        try:
            return [_decode(view)]
        except FrameError:
            self.limit = -1
            raise

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Return the frames that end in ``data``. Nothing of a memoryview is kept, what is needed is copied.

        :raises FrameError: the bytes are no frame of ours, or one over the limit.
        """
        try:
            return self._feed(data)
        except FrameError:
            self.limit = -1  # whatever comes next is over it
            raise

    def _feed(self, data: bytes | memoryview) -> list[Frame]:
        frames: list[Frame] = []
        if self._target is not None:
            data = self._fill(data, frames)
            if self._target is not None:
                return frames
        if self._pending:
            data = bytes(self._pending) + data
            self._pending = b""
        offset, size = 0, len(data)
        while size - offset >= _HEAD.size:
            total = self._frame_size(data, offset)
            if total is None:
                break
            if offset + total > size:
                self._begin(data, offset, total)
                return frames
            frames.append(_decode(memoryview(data)[offset : offset + total], is_lent=type(data) is memoryview))
            offset += total
        self._pending = bytes(data[offset:])
        return frames

    def _frame_size(self, data: bytes | memoryview, offset: int) -> int | None:
        """Return the size of the frame at ``offset``; None if its header is not there yet."""
        body, count = _HEAD.unpack_from(data, offset)
        head = _HEAD.size + count * _LENGTH.size
        if count > _MAX_BUFFERS or head + body > self.limit:
            raise FrameError(
                f"a frame of {head + body} bytes and {count} buffers; the limit is {self.limit} bytes"
            )
        if len(data) - offset < head:
            return None
        lengths = struct.unpack_from(f"!{count}Q", data, offset + _HEAD.size) if count else ()
        total: int = head + body + sum(lengths)
        if total > self.limit:
            raise FrameError(f"a frame of {total} bytes; the limit is {self.limit} bytes")
        return total

    def _begin(self, data: bytes | memoryview, offset: int, total: int) -> None:
        """Keep the beginning of a frame; a large one gets its whole memory now, so it is copied once."""
        have = len(data) - offset
        if total < 65536:
            self._pending = bytes(data[offset:])
            return
        self._target = allocate(total)
        self._target[:have] = memoryview(data)[offset:]
        self._filled = have

    def _fill(self, data: bytes | memoryview, frames: list[Frame]) -> bytes | memoryview:
        """Copy ``data`` into the large frame; return what is left behind its end."""
        assert self._target is not None
        missing = len(self._target) - self._filled
        if len(data) < missing:
            self._target[self._filled : self._filled + len(data)] = data
            self._filled += len(data)
            return b""
        self._target[self._filled :] = memoryview(data)[:missing]
        view, self._target = self._target, None
        frames.append(_decode(view))
        return data[missing:]


def _decode(frame: memoryview, *, is_lent: bool = False) -> Frame:
    """Decode one whole frame; messages are copies of its bytes, buffers are views of it unless it is lent."""
    body, count = _HEAD.unpack_from(frame)
    start = _HEAD.size + count * _LENGTH.size
    if body > MOST_MESSAGES and frame[start] == _LONG_ARRAY:
        (said,) = struct.unpack_from("!I", frame, start + 1)
        if said > MOST_MESSAGES:
            raise FrameError(f"a frame of {said} messages; the limit is {MOST_MESSAGES}")
    try:
        messages = _decoder.decode(frame[start : start + body])
    except (ValueError, RecursionError) as error:  # also of invalid UTF-8
        raise FrameError(f"a frame that is no message of ours: {error}") from None
    if not count:
        return Frame(messages, [])
    buffers: list[memoryview] = []
    at = start + body
    if is_lent:
        frame = copy_of(frame)
    for length in struct.unpack_from(f"!{count}Q", frame, _HEAD.size):
        buffers.append(frame[at : at + length])
        at += length
    return Frame(messages, buffers)
