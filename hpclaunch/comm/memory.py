"""Connections between two parties on one event loop, without a network.

Each message still passes through the real encoder and decoder, so that what works in memory works on the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from hpclaunch.comm.buffers import Buffer
from hpclaunch.comm.framing import LIMIT_PEER, Frame, FrameDecoder
from hpclaunch.comm.mending import OnUnsendable, encode_all, mend
from hpclaunch.comm.messages import Message
from hpclaunch.errors import FrameError


class MemoryConnection:
    """One end of a pair; see :class:`hpclaunch.comm.connection.Comm` for what it does."""

    def __init__(self, name: str) -> None:
        self.peer = name
        self.other: MemoryConnection | None = None
        self.on_frames: Callable[[MemoryConnection, list[Frame]], None] = lambda *_: None
        self.on_lost: Callable[[MemoryConnection, str], None] = lambda *_: None
        self.on_unsendable: OnUnsendable = mend
        self.local_host = "memory"
        self._loop = asyncio.get_running_loop()
        self._queue: list[Message] = []
        self._flush_due = False
        self._decoder = FrameDecoder(LIMIT_PEER)
        self._closed = False

    @property
    def is_closed(self) -> bool:
        return self._closed

    def send(self, message: Message) -> None:
        self._queue.append(message)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def put(self, message: Message) -> None:
        self._queue.append(message)

    def send_buffers(self, message: Message, buffers: Sequence[Buffer]) -> None:
        self.flush()
        self._deliver([message], buffers)

    def close(self, reason: str = "") -> None:
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._loop.call_soon(self.on_lost, self, reason or "closed")
        if self.other is not None:
            self._loop.call_soon(self.other._end, reason)

    def abort(self, reason: str) -> None:
        """Close; in memory nothing can be left behind."""
        self._queue.clear()
        self.close(reason)

    def _end(self, reason: str) -> None:
        if not self._closed:
            self._closed = True
            self.on_lost(self, reason or "the other side closed it")

    def flush(self) -> None:
        self._flush_due = False
        if self._queue:
            messages, self._queue = self._queue, []
            self._deliver(messages, ())

    def _deliver(self, messages: list[Message], buffers: Sequence[Buffer]) -> None:
        if self.other is None or self._closed:
            return
        try:
            pieces = encode_all(messages, buffers, self.on_unsendable)
        except FrameError as error:
            self.abort(str(error))
            return
        if pieces:
            self._loop.call_soon(self.other._receive, b"".join(map(bytes, pieces)))

    def _receive(self, data: bytes) -> None:
        if not self._closed:
            self.on_frames(self, self._decoder.feed(data))


def memory_pair(a: str, b: str) -> tuple[MemoryConnection, MemoryConnection]:
    """Return two connected ends; the first is what ``a`` holds, and its peer is named ``b``."""
    left, right = MemoryConnection(b), MemoryConnection(a)
    left.other, right.other = right, left
    return left, right
