"""A virtual clock and a virtual network: an event loop that jumps from event to event, and slow connections.

A connection keeps the order of what is sent on it, as TCP does, and loses nothing but when it breaks. It may
stall, or break: then what is under way is lost, and its two ends learn of that at different times.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hpclaunch.comm.framing import LIMIT_PEER, Buffer, Frame, FrameDecoder, encode
from hpclaunch.comm.messages import Message


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time goes on only when there is nothing to do: to the moment of the next timer."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        """Stand in for the module ``time`` in code that asks for the monotonic clock."""
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again")
        self._loop.now += timeout
        return []


class End:
    """One end of a connection; see :class:`hpclaunch.comm.connection.Comm` for what it does."""

    def __init__(self, link: Link, here: str, peer: str) -> None:
        self.peer = peer
        self.here = here
        self.local_host = here
        self.on_frames: Callable[[Any, list[Frame]], None] = lambda *_: None
        self.on_lost: Callable[[Any, str], None] = lambda *_: None
        self.other: End
        self._link = link
        self._queue: list[Message] = []
        self._flush_due = False
        self._decoder = FrameDecoder(LIMIT_PEER)
        self._under_way: deque[bytes | str] = deque()  # to the other end; a text is the end of the connection
        self._is_carrying = False
        self.is_closed = False

    def send(self, message: Message) -> None:
        self._queue.append(message)
        if not self._flush_due:
            self._flush_due = True
            self._link.loop.call_soon(self.flush)

    def put(self, message: Message) -> None:
        self._queue.append(message)

    def send_buffers(self, message: Message, buffers: Sequence[Buffer]) -> None:
        self.flush()
        self._put([message], buffers)

    def flush(self) -> None:
        self._flush_due = False
        if self._queue:
            messages, self._queue = self._queue, []
            self._put(messages, ())

    def close(self, reason: str = "") -> None:
        if self.is_closed:
            return
        self.flush()
        self._under_way.append(reason or "the other side closed it")
        self._link.carry(self)
        self.end(reason or "closed")

    def abort(self, reason: str) -> None:
        """Close, and leave behind what is under way; the other end hears of it when it can."""
        if not self.is_closed:
            self._queue.clear()
            self._under_way.clear()
            self.close(reason)

    def end(self, reason: str) -> None:
        """It is over, as far as this end knows."""
        if not self.is_closed:
            self.is_closed = True
            self._link.loop.call_soon(self.on_lost, self, reason)

    @property
    def backlog_bytes(self) -> int:
        return sum(len(piece) for piece in self._under_way)

    def _put(self, messages: list[Message], buffers: Sequence[Buffer]) -> None:
        if not self.is_closed:
            self._under_way.append(b"".join(bytes(piece) for piece in encode(messages, buffers)))
            self._link.carry(self)

    def arrive(self) -> None:
        """What was sent first arrives at the other end."""
        self._is_carrying = False
        if not self._under_way or self._link.is_stalled:
            return
        piece = self._under_way.popleft()
        if isinstance(piece, str):
            self.other.end(piece)
        elif not self.other.is_closed:
            self.other.on_frames(self.other, self.other._decoder.feed(piece))
        self._link.carry(self)

    def may_carry(self) -> bool:
        """Say whether something is to be carried that is not on its way yet, and note that it is."""
        if self._is_carrying or not self._under_way:
            return False
        self._is_carrying = True
        return True


class Link:
    """A connection."""

    def __init__(self, loop: VirtualLoop, a: str, b: str, rng: random.Random) -> None:
        self.loop = loop
        self._rng = rng
        self.latency = rng.choice((0.0002, 0.002, 0.05))
        self.is_stalled = False
        self.ends = End(self, a, b), End(self, b, a)
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]

    def carry(self, end: End) -> None:
        """Have the next piece arrive after a while, one after another."""
        if not self.is_stalled and end.may_carry():
            self.loop.call_later(self._rng.expovariate(1 / self.latency), end.arrive)

    def stall(self, seconds: float) -> None:
        """Carry nothing for so long."""
        self.is_stalled = True
        self.loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self.is_stalled = False
        for end in self.ends:
            self.carry(end)

    def cut(self, *, late: float = 0.0) -> None:
        """Break: nothing arrives any more. One end learns of it now, and the other so much later."""
        first = self._rng.randrange(2)
        for end in self.ends:
            end._under_way.clear()
        self.ends[first].end("the connection broke")
        self.loop.call_later(late, self.ends[1 - first].end, "the connection broke")
        self.is_stalled = True


class Network:
    """All connections."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.seed = seed
        self.links: list[Link] = []
        self.blocked: set[str] = set()  # names that others can't dial
        self._counts: dict[str, int] = {}

    def connect(self, a: str, b: str) -> tuple[End, End]:
        """Return two connected ends; the first is what ``a`` holds, and its peer is named ``b``."""
        count = self._counts[a] = self._counts.get(a, 0) + 1
        self.links = [one for one in self.links if not all(end.is_closed for end in one.ends)]
        # Chance of its own for each connection: what others do does not change what happens on this one.
        link = Link(self.loop, a, b, random.Random(f"{self.seed} {a} {b} {count}"))
        self.links.append(link)
        return link.ends

    def links_of(self, names: Iterable[str], other: str = "") -> list[Link]:
        """Return the connections of these peers, or those of them that lead to ``other``."""
        some = set(names)
        found = []
        for link in self.links:
            a, b = link.ends[0].here, link.ends[1].here
            if (a in some and other in ("", b)) or (b in some and other in ("", a)):
                found.append(link)
        return found
