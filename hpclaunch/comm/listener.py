"""Accepts connections, and hands on those whose peer has shown who it is; the others are kept few.

Strangers can reach the port, and each of their connections takes a descriptor for as long as its handshake may
last. So there are at most so many at a time, in all and from one address. When there is no room, the oldest one of
the address that has most of them makes way, but not before it had a moment for its handshake: until then, further
connections wait in the kernel's queue. Some descriptors are always left for what the head must do besides, such as
running a batch system's commands.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence

from hpclaunch.comm import connection as connections
from hpclaunch.comm.connection import Connection, check_hello
from hpclaunch.comm.framing import Frame
from hpclaunch.comm.messages import Goodbye, Hello, Welcome
from hpclaunch.errors import HandshakeError, PeerError

log = logging.getLogger("hpclaunch.comm")

#: Connections that have not shown yet who they are: in all, and from one address.
MOST_UNPROVED, MOST_OF_ADDRESS = 512, 256
#: Descriptors that connections leave free.
RESERVE = 64
#: Seconds that a connection has for its handshake, even if others wait for its place.
_LEAST_SECONDS = 1.0
#: Seconds until the next try to accept, where there is no room.
_PAUSE_SECONDS = 0.05
#: Connections that are accepted in one turn of the loop.
_AT_ONCE = 64


class _Stranger:
    """A connection whose peer has not shown who it is."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.sock = sock
        self.address = address
        self.since = time.monotonic()
        self.connection: Connection | None = None
        self.task: asyncio.Task[None] | None = None

    def drop(self, reason: str) -> None:
        """Close it."""
        if self.connection is not None:
            self.connection.abort(reason)
        elif self.task is not None:
            self.task.cancel()


class Listener:
    """Accepts connections on given interfaces, and hands on those whose peer has shown who it is.

    :param on_peer: called with (connection, hello); returns the welcome to send, or raises HandshakeError to
        refuse, another PeerError if the peer may try again. It sets ``on_frames`` and ``on_lost``.
    """

    def __init__(
        self,
        cluster_id: str,
        context: ssl.SSLContext | None,
        on_peer: Callable[[Connection, Hello], Welcome],
    ) -> None:
        self.cluster_id = cluster_id
        self._context = context
        self._on_peer = on_peer
        self._sockets: list[socket.socket] = []
        self._strangers: dict[int, _Stranger] = {}  # the oldest first
        self._by_connection: dict[Connection, int] = {}
        self._counts: Counter[str] = Counter()
        self._last = 0
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(8, min(MOST_UNPROVED, (soft - RESERVE) // 2))
        self.refused = 0  # connections whose handshake failed, or for which there was no room
        self._loop = asyncio.get_running_loop()
        self.port = 0

    async def start(self, hosts: Sequence[str], port: int = 0) -> None:
        """Listen on ``hosts`` (addresses) at one port for all of them, a free one if 0.

        :raises OSError: the port is taken, or an address is not ours.
        """
        for attempts_left in reversed(range(20)):  # a port that is free on one address may be taken on another
            try:
                self.port = port
                for host in hosts:
                    self._listen(host)
                return
            except OSError:
                self._stop_listening()
                if port or not attempts_left:
                    raise

    def _listen(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, self.port), family=family, backlog=1024)
        sock.setblocking(False)
        self._sockets.append(sock)
        self.port = sock.getsockname()[1]
        self._loop.add_reader(sock, self._accept, sock)

    def _stop_listening(self) -> None:
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    # --- strangers

    @property
    def unproved(self) -> int:
        """How many connections are open whose peer has not shown who it is."""
        return len(self._strangers)

    def _accept(self, server: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if not self._make_room():
                self._pause(server)
                return
            try:
                sock, address = server.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left; it comes again
                log.warning("port %d: no connection can be accepted: %s", self.port, error.strerror)
                self._pause(server)
                return
            self._meet(sock, str(address[0]))

    def _pause(self, server: socket.socket) -> None:
        self._loop.remove_reader(server)
        self._loop.call_later(_PAUSE_SECONDS, self._go_on, server)

    def _go_on(self, server: socket.socket) -> None:
        if server in self._sockets:
            self._loop.add_reader(server, self._accept, server)

    def _make_room(self) -> bool:
        """Say whether there is room for one more, perhaps because another had to go."""
        if len(self._strangers) < self._most:
            return True
        (address, _), *_ = self._counts.most_common(1)
        return self._drop_oldest(address)

    def _drop_oldest(self, address: str) -> bool:
        for number, stranger in self._strangers.items():
            if stranger.address == address:
                if time.monotonic() - stranger.since < _LEAST_SECONDS:
                    return False
                self._forget(number)
                stranger.drop("others wait for its place")
                self._note_refusal()
                return True
        return False

    def _meet(self, sock: socket.socket, address: str) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        is_full = self._counts[address] >= min(MOST_OF_ADDRESS, self._most) and not self._drop_oldest(address)
        if is_full or sock.fileno() >= soft - RESERVE:
            sock.close()
            self._note_refusal()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._last += 1
        stranger = self._strangers[self._last] = _Stranger(sock, address)
        self._counts[address] += 1
        stranger.task = self._loop.create_task(self._shake_hands(self._last, stranger))

    async def _shake_hands(self, number: int, stranger: _Stranger) -> None:
        """Take part in the TLS handshake; its failure is not told: the connection is just closed."""
        seconds = {"ssl_handshake_timeout": connections.HANDSHAKE_SECONDS} if self._context is not None else {}

        def factory() -> Connection:
            return Connection(self._first_frames, self._gone, on_made=made)

        def made(connection: Connection) -> None:
            stranger.connection = connection
            self._by_connection[connection] = number
            self._loop.call_later(connections.HANDSHAKE_SECONDS, self._expire, connection)

        try:
            await self._loop.connect_accepted_socket(factory, stranger.sock, ssl=self._context, **seconds)
        except (OSError, asyncio.CancelledError):
            self._forget(number)
            self._note_refusal()
            stranger.sock.close()

    def _forget(self, number: int) -> None:
        stranger = self._strangers.pop(number, None)
        if stranger is not None:
            self._counts[stranger.address] -= 1
            if not self._counts[stranger.address]:
                del self._counts[stranger.address]

    def _note_refusal(self) -> None:
        self.refused += 1
        if str(self.refused).rstrip("0") == "1":  # the 1st, 10th, 100th, ...: a scanner does not fill the log
            log.warning(
                "port %d: a connection was refused before anything was read from it: its peer has no "
                "certificate of this cluster, or does not speak TLS (%d so far)",
                self.port,
                self.refused,
            )

    def _expire(self, connection: Connection) -> None:
        if connection in self._by_connection:
            connection.abort("no greeting came in time")

    def _gone(self, connection: Connection, reason: str) -> None:
        self._forget(self._by_connection.pop(connection, 0))

    # --- members

    def _first_frames(self, connection: Connection, frames: list[Frame]) -> None:
        head, rest = connections.first_of(frames)
        try:
            hello = check_hello(head, connection, self.cluster_id, secure=self._context is not None)
            welcome = self._on_peer(connection, hello)
        except PeerError as error:
            log.warning("%s was sent away: %s", connection.peer, error)
            connection.send(Goodbye(str(error), final=isinstance(error, HandshakeError)))
            connection.close(str(error))
            return
        self._forget(self._by_connection.pop(connection, 0))
        connection.trust()
        connection.send(welcome)
        later = [Frame(rest, frames[0].buffers), *frames[1:]] if rest else frames[1:]
        if later:
            connection.on_frames(connection, later)

    async def close(self) -> None:
        """Stop listening; connections that were handed on stay open."""
        self._stop_listening()
        for stranger in list(self._strangers.values()):
            stranger.drop("the listener is closed")
