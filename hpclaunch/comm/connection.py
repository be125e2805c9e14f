"""One connection between two of our processes, on an asyncio loop: messages in, messages out.

Owns: a transport, a frame decoder, and the queue of messages of the current tick of the loop. Everything that is
sent to a peer in one tick goes out as one frame in one write. ``on_messages`` is called once per piece of
received bytes, with all messages in it.

Does not: reconnect, retry, or know what a message means (except the handshake in this file's functions).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from hpclaunch.comm import tls, turns
from hpclaunch.comm.buffers import Buffer
from hpclaunch.comm.framing import LIMIT_PEER, LIMIT_STRANGER, Frame, FrameDecoder
from hpclaunch.comm.mending import OnUnsendable, encode_all, mend
from hpclaunch.comm.messages import PROTOCOL_VERSION, Goodbye, Hello, Message, Welcome
from hpclaunch.errors import CommClosedError, FrameError, HandshakeError, PeerError

log = logging.getLogger("hpclaunch.comm")

#: Seconds that a stranger may take for the TLS handshake, and again for its first message.
HANDSHAKE_SECONDS = 10.0
#: Bytes that are received at once at most.
SCRATCH_BYTES = 256 * 1024
#: Bytes that are given to TLS at once: with more, uvloop moves the whole rest about for every record, and a 200 MB
#: result takes eight times as long.
PIECE_BYTES = 256 * 1024
#: Bytes that may wait in the transport before bulk data waits here.
_HIGH_WATER = 1 << 20
#: Seconds after which a peer that has said very much waits until others have had their turn.
_TURN_SECONDS = 0.01

#: The certificate that a peer of this role must have. None of their own for the last three.
_CERTIFICATE = {
    "client": ("client",),
    "task": ("worker",),  # a client inside a task: it may use the cluster, not rule it
    "worker": ("worker",),
    "supervisor": ("worker",),
    "peer": ("client", "worker"),
}


class Comm(Protocol):
    """What the reactors' shells need of a connection; TCP here, in memory in ``comm/memory.py``."""

    peer: str
    on_unsendable: OnUnsendable  # called in the sending of a message that can't be encoded

    def send(self, message: Message) -> None:
        """Queue a message for the end of this tick of the loop."""

    def put(self, message: Message) -> None:
        """Queue a message for the next :meth:`flush`, which the caller promises: no turn of the loop is spent."""

    def send_buffers(self, message: Message, buffers: Sequence[Buffer]) -> None:
        """Send one message with raw buffers behind it, after all that is queued."""

    def flush(self) -> None:
        """Send what is queued now: for who knows that nothing more comes in this tick."""

    def close(self, reason: str = "") -> None:
        """Send what is queued and close."""

    @property
    def is_closed(self) -> bool:
        """True once nothing more will be received."""


class _Scratch(threading.local):
    """Memory that all connections of one thread receive into: one after another, as its loop calls them."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(SCRATCH_BYTES))


_scratch = _Scratch()


class Connection(asyncio.BufferedProtocol):
    """A TCP connection with or without TLS.

    It is a *buffered* protocol because for the other kind uvloop makes 256 KiB of new memory for each piece of
    TLS that arrives, and gives it back: a third of what a small message cost the head.

    :param on_frames: called with (connection, frames) for all that arrives.
    :param on_lost: called once with (connection, reason) when it is over, by either side.
    """

    def __init__(
        self,
        on_frames: Callable[[Connection, list[Frame]], None],
        on_lost: Callable[[Connection, str], None],
        *,
        on_made: Callable[[Connection], None] | None = None,
    ) -> None:
        self.on_frames = on_frames
        self.on_lost = on_lost
        self.on_made = on_made
        self.on_unsendable: OnUnsendable = mend
        self.peer = "?"
        self.close_reason = ""
        self._decoder = FrameDecoder(LIMIT_STRANGER, _scratch.memory)
        self._is_known = False
        self._queue: list[Message] = []
        self._flush_due = False
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._can_write = True  # the transport has room
        self._backlog: deque[memoryview] = deque()  # pieces of bulk data, and all that came after them
        self._closes_after_backlog = False
        self._incoming: deque[Iterator[Frame]] = deque()  # what has come, and is not handed on yet
        self._is_ending = False  # by this side: what comes is of no interest any more
        self._lost = ""  # the connection's end, which is told when all that came before it is handed on

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        address = transport.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "local"
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)  # type: ignore[union-attr]
        notice_dead_hosts(transport.get_extra_info("socket"))
        if self.on_made is not None:
            self.on_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.space()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            frames = self._decoder.received(nbytes)
        except FrameError as error:
            self._refuse(str(error))
            return
        if not frames:
            return
        if not self._incoming and not turns.is_long(frames):
            self.on_frames(self, frames)
            return
        if not self._incoming:
            self._loop.call_soon(self._hand_on)
            if self._transport is not None:
                self._transport.pause_reading()
        self._incoming.extend(map(turns.pieces, frames))

    def _hand_on(self) -> None:
        """Hand on as much of what has come as is due in one turn of the loop; others are served in between."""
        until = time.monotonic() + _TURN_SECONDS
        while self._incoming and not self._is_ending:
            piece = next(self._incoming[0], None)
            if piece is None:
                self._incoming.popleft()
                continue
            self.on_frames(self, [piece])
            if time.monotonic() >= until:
                self._loop.call_soon(self._hand_on)
                return
        self._incoming.clear()
        if self._lost:
            self.on_lost(self, self._lost)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._queue.clear()
        self._backlog.clear()
        reason = self.close_reason or (str(error) if error else "the other side closed it")
        if self._incoming:
            self._lost = reason
        else:
            self.on_lost(self, reason)

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        self._pump()

    # --- Comm

    @property
    def is_closed(self) -> bool:
        return self._transport is None or self._closes_after_backlog or self._transport.is_closing()

    @property
    def tls(self) -> Any:
        """The TLS object of the transport, or None."""
        return self._transport.get_extra_info("ssl_object") if self._transport is not None else None

    @property
    def local_host(self) -> str:
        """The address of this side of the connection, without its port."""
        name = self._transport.get_extra_info("sockname") if self._transport is not None else None
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def backlog_bytes(self) -> int:
        """Bytes, about, that wait because the other side takes no more for now."""
        return len(self._backlog) * PIECE_BYTES

    def _refuse(self, reason: str) -> None:
        """Close for what the other side has sent; a peer that is known is told why."""
        if self._is_known and not self.is_closed:
            self.send(Goodbye(reason))
            self.close(reason)
        else:
            self.abort(reason)

    def trust(self) -> None:
        """Take frames of any sensible size from now on: the peer is known."""
        self._is_known = True
        self._decoder.limit = LIMIT_PEER

    def send(self, message: Message) -> None:
        self._queue.append(message)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def put(self, message: Message) -> None:
        self._queue.append(message)

    def send_buffers(self, message: Message, buffers: Sequence[Buffer]) -> None:
        self.flush()
        self._write([message], buffers)

    def close(self, reason: str = "") -> None:
        self._is_ending = True
        self.flush()
        self.close_reason = self.close_reason or reason
        if self._backlog:
            self._closes_after_backlog = True
        elif self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once; what is queued is lost."""
        self._is_ending = True
        self.close_reason = self.close_reason or reason
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        self._flush_due = False
        if self._queue:
            messages, self._queue = self._queue, []
            self._write(messages, ())

    def _write(self, messages: list[Message], buffers: Sequence[Buffer]) -> None:
        if self._transport is None or self.is_closed:
            return
        try:
            pieces = encode_all(messages, buffers, self.on_unsendable)
        except FrameError as error:
            self.abort(str(error))
            return
        for piece in pieces:
            if not self._backlog and len(piece) <= PIECE_BYTES:
                self._transport.write(piece)
                continue
            view = memoryview(piece).cast("B")
            self._backlog.extend(view[at : at + PIECE_BYTES] for at in range(0, len(view), PIECE_BYTES))
        self._pump()

    def _pump(self) -> None:
        """Give the transport as much of the backlog as it has room for."""
        while self._backlog and self._can_write and self._transport is not None:
            self._transport.write(self._backlog.popleft())
        if self._closes_after_backlog and not self._backlog and self._transport is not None:
            self._loop.call_soon(self._transport.close)  # not now: a transport calls this in mid-write


def notice_dead_hosts(sock: Any) -> None:
    """Have the kernel break a connection whose other host is gone: such a host closes nothing itself."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)


# --- handshake ----------------------------------------------------------------------------------------------


class Secured(Protocol):
    """What may speak TLS."""

    @property
    def tls(self) -> Any:
        """The TLS object, or None."""


def check_hello(hello: object, connection: Secured, cluster_id: str, *, secure: bool) -> Hello:
    """Return a peer's first message if it may come in.

    :raises HandshakeError: it is no Hello, of another version or cluster, or claims a role that its
        certificate does not have.
    """
    if not isinstance(hello, Hello):
        raise HandshakeError("the first message was no greeting")
    if hello.version != PROTOCOL_VERSION:
        raise HandshakeError(
            f"{hello.role} {hello.name} speaks protocol version {hello.version}, this side {PROTOCOL_VERSION}: "
            "install the same hpclaunch on both sides"
        )
    if hello.cluster_id != cluster_id:
        raise HandshakeError(f"{hello.role} {hello.name} belongs to cluster {hello.cluster_id}, not {cluster_id}")
    allowed = _CERTIFICATE.get(hello.role, ())
    if not allowed or (secure and tls.peer_role(connection.tls) not in allowed):
        raise HandshakeError(f"{hello.name} may not act as {hello.role!r} with its certificate")
    return hello


async def dial(
    address: str,
    hello: Hello,
    context: ssl.SSLContext | None,
    on_frames: Callable[[Connection, list[Frame]], None],
    on_lost: Callable[[Connection, str], None],
    *,
    expect_role: str = "head",
    timeout: float = HANDSHAKE_SECONDS,
) -> tuple[Connection, Welcome]:
    """Connect to ``host:port``, say hello, and return the connection and the other side's welcome.

    Frames that come right behind the welcome are passed to ``on_frames`` before this returns.

    :raises HandshakeError: the other side is not who it should be, or sent us away.
    :raises CommClosedError: no peer is there, or it took longer than ``timeout`` seconds.
    """
    loop = asyncio.get_running_loop()
    greeting = _Greeting(address, on_frames, on_lost)
    host, _, port = address.rpartition(":")
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout):
            _, connection = await loop.create_connection(
                lambda: Connection(greeting.on_frames, greeting.on_lost),
                host.strip("[]"),
                int(port),
                ssl=context,
                server_hostname="" if context else None,
            )
            if context is not None and tls.peer_role(connection.tls) != expect_role:
                raise HandshakeError(f"{address} is not the {expect_role} of this cluster")
            connection.trust()  # what comes right behind the welcome, or with it, may be large already
            connection.send(hello)
            return connection, await greeting.answer
    except PeerError:
        _drop(connection)
        raise
    except TimeoutError:
        _drop(connection)
        raise CommClosedError(f"{address} did not answer within {timeout:g} s") from None
    except ssl.SSLError as error:
        raise HandshakeError(f"{address} is not a member of this cluster: {error.reason}") from None
    except OSError as error:
        why = error.strerror or str(error) or "the other side closed it during the handshake"
        raise CommClosedError(f"no connection to {address}: {why}") from None
    except BaseException:
        _drop(connection)
        raise


class _Greeting:
    """The time between our hello and the other side's welcome."""

    def __init__(
        self,
        address: str,
        on_frames: Callable[[Connection, list[Frame]], None],
        on_lost: Callable[[Connection, str], None],
    ) -> None:
        self.answer: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        self._address = address
        self._then = (on_frames, on_lost)

    def on_frames(self, connection: Connection, frames: list[Frame]) -> None:
        head, rest = first_of(frames)
        if self.answer.done():
            return
        if isinstance(head, Welcome):
            connection.on_frames, connection.on_lost = self._then
            self.answer.set_result(head)
            later = [Frame(rest, frames[0].buffers), *frames[1:]] if rest else frames[1:]
            if later:
                connection.on_frames(connection, later)
        elif isinstance(head, Goodbye):
            self.answer.set_exception(sent_away(self._address, head))
        else:
            self.answer.set_exception(HandshakeError(f"{self._address} did not answer our greeting"))

    def on_lost(self, _: Connection, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(CommClosedError(f"{self._address} closed the connection: {reason}"))


def first_of(frames: list[Frame]) -> tuple[Message | None, list[Message]]:
    messages = frames[0].messages
    return (messages[0], messages[1:]) if messages else (None, [])


def sent_away(address: str, goodbye: Goodbye) -> PeerError:
    """Return the error of one whose greeting was answered so; a :class:`CommClosedError` if it may try again."""
    if goodbye.final:
        return HandshakeError(f"{address} sent us away: {goodbye.reason}")
    return CommClosedError(f"{address} does not let us in yet: {goodbye.reason}")


def _drop(connection: Connection | None) -> None:
    if connection is not None:
        connection.on_lost = lambda *_: None
        connection.abort("gave up")
