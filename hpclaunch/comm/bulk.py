"""Large results and values from one host to another, on connections of their own, without an event loop.

A holder *offers* a large result: it answers a question with the port of its :class:`BulkServer`, a ticket and the
lengths of the pieces. Who asked dials that port in a thread, shows the ticket, and receives the raw bytes straight
into the memory where they stay. So each byte is moved by the kernel and by TLS, and by nothing else, and neither
side's event loop is kept from its other work. On a loop the same takes twice as long: bytes are copied into TLS,
out of it, into the frame, and from there for each task.

A client that has a large value for a worker takes the same way in the other direction: the worker *expects* it on
its port, under a ticket.

The handshake is that of all connections: TLS with the cluster's certificates, Hello and Welcome. Whatever goes
wrong is an OSError or PeerError for who asked, and the result is then sent the ordinary way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hpclaunch.comm.blocking import BlockingConnection, Patience, accept_blocking, dial_blocking
from hpclaunch.comm.buffers import Buffer, allocate_pieces
from hpclaunch.comm.connection import HANDSHAKE_SECONDS
from hpclaunch.comm.framing import LIMIT_PEER
from hpclaunch.comm.messages import Bring, Data, Fetch, Hello
from hpclaunch.comm.serialize import Payload
from hpclaunch.errors import CommClosedError, PeerError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger("hpclaunch.bulk")

#: Bytes from which a result is offered; below, a question and an answer more cost as much as they save.
LEAST_BYTES = 4 << 20
#: Results that are received at once, and that are sent at once; more would only share the network.
_AT_ONCE = 8
#: Connections whose other side has not shown yet who it is; those who are here for so many seconds make way.
_STRANGERS, _LEAST_SECONDS = 32, 0.5
#: Seconds to wait for a holder's port before the ordinary way is taken.
DIAL_SECONDS = 5.0
#: Seconds that a connection may stand still in mid-transfer, or an offer wait for who asked.
STALL_SECONDS = 30.0
#: Seconds that a connection with nothing to do is kept.
_IDLE_SECONDS = 20.0
#: Seconds until the next try where a connection could not be accepted.
_RETRY_SECONDS = 0.1
#: Bytes that are given to TLS at once.
_PIECE_BYTES = 1 << 20


class Offer(NamedTuple):
    """Where a result is to be had."""

    port: int
    ticket: str
    lengths: Sequence[int]

    @property
    def place(self) -> str:
        """How a message says it."""
        return f"bulk:{self.port}:{self.ticket}"


def read_offer(place: str, lengths: Sequence[int]) -> Offer | None:
    """Return the offer that a message makes; None if it makes another one."""
    kind, _, rest = place.partition(":")
    port, _, ticket = rest.partition(":")
    if kind != "bulk" or not port.isdecimal() or not lengths or min(lengths) < 0 or sum(lengths) > LIMIT_PEER:
        return None
    return Offer(int(port), ticket, lengths)


class _Expected(NamedTuple):
    """What a peer may bring, and who is told when it is here."""

    lengths: Sequence[int]
    on_brought: Callable[[Payload], bool]


class BulkServer:
    """Sends what was offered, and takes what is expected. Its methods are for the event loop's thread.

    :param name: this worker's.
    :param cluster_id: which those who come must belong to.
    :param context: TLS context of the side that accepts; None without TLS.
    """

    def __init__(self, name: str, cluster_id: str, context: ssl.SSLContext | None) -> None:
        self._name = name
        self._cluster_id = cluster_id
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._offers: dict[str, Payload] = {}
        self._expected: dict[str, _Expected] = {}
        self._server: socket.socket | None = None
        self._strangers: list[Patience] = []  # the oldest first
        self._room = threading.Condition()  # for strangers
        self._sending = threading.BoundedSemaphore(_AT_ONCE)
        self._open: set[BlockingConnection] = set()
        self._host = ""
        self._is_closed = False

    def listen(self, host: str) -> None:
        """Say on which address; a port is opened with the first offer."""
        self._host = host

    def offer(self, payload: Payload) -> Offer | None:
        """Offer a result to the peer that asked for it; None if it is better sent the ordinary way."""
        port = self._port() if payload.size >= LEAST_BYTES else 0
        if not port:
            return None
        ticket = secrets.token_hex(16)
        self._offers[ticket] = payload
        self._loop.call_later(STALL_SECONDS, self._offers.pop, ticket, None)
        return Offer(port, ticket, lengths_of(payload))

    def expect(self, lengths: Sequence[int], on_brought: Callable[[Payload], bool]) -> Offer | None:
        """Say where a value of these lengths is to be brought; None: nowhere.

        :param on_brought: called with it, on the event loop; says whether it is kept, which its bringer is told.
        """
        port = self._port()
        if not port:
            return None
        ticket = secrets.token_hex(16)
        self._expected[ticket] = _Expected(lengths, on_brought)
        self._loop.call_later(STALL_SECONDS, self._expected.pop, ticket, None)
        return Offer(port, ticket, lengths)

    def _port(self) -> int:
        """Return the port, which is opened when it is needed first; 0 if there can be none."""
        if not self._host:
            return 0
        try:
            if self._server is None:
                family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
                server = self._server = socket.create_server((self._host, 0), family=family)
                threading.Thread(target=self._accept, args=(server,), name="hpclaunch-bulk", daemon=True).start()
            return int(self._server.getsockname()[1])
        except OSError as error:
            log.info("no port for large results: %s", error)
            return 0

    def close(self) -> None:
        """Close the port and all connections."""
        self._offers.clear()
        self._expected.clear()
        self._host, self._is_closed = "", True
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)  # so that accept() ends
            self._server.close()
        for connection in list(self._open):
            connection.cut()

    # --- in threads

    def _accept(self, server: socket.socket) -> None:
        while True:
            self._make_room()
            try:
                sock, _ = server.accept()
            except OSError as error:
                if self._is_closed:
                    return
                log.warning("the port for large results accepts nothing for now: %s", error)
                time.sleep(_RETRY_SECONDS)  # in a thread of its own: perhaps a descriptor is free then
                continue
            patience = Patience(HANDSHAKE_SECONDS)
            with self._room:
                self._strangers.append(patience)
            threading.Thread(target=self._serve, args=(sock, patience), name="hpclaunch-bulk", daemon=True).start()

    def _make_room(self) -> None:
        """Wait until there is room for one more stranger; those who have had a moment in vain make way."""
        with self._room:
            while len(self._strangers) >= _STRANGERS and not self._is_closed:
                early = time.monotonic() - _LEAST_SECONDS
                for stranger in self._strangers:
                    if stranger.since <= early:
                        stranger.end()
                self._room.wait(_RETRY_SECONDS)

    def _serve(self, sock: socket.socket, patience: Patience) -> None:
        try:
            connection = accept_blocking(sock, self._context, self._cluster_id, self._name, patience)
        except (PeerError, OSError) as error:
            log.info("a connection for large results was refused: %s", error)
            sock.close()
            return
        finally:
            with self._room:
                self._strangers.remove(patience)
                self._room.notify()
        self._open.add(connection)
        try:
            while not self._is_closed:
                messages = connection.wait(_IDLE_SECONDS)
                if not messages:
                    return
                for message in messages:
                    if type(message) is Fetch:
                        self._send(connection, message.keys)
                    elif type(message) is Bring:
                        self._take(connection, message.key)
        except (PeerError, OSError, MemoryError, CancelledError, RuntimeError) as error:
            log.info("a connection for large results ended: %s", error)
        finally:
            self._open.discard(connection)
            connection.close()

    def _send(self, connection: BlockingConnection, tickets: Sequence[str]) -> None:
        for ticket in tickets:
            payload = self._offers.pop(ticket, None)
            if payload is None:
                raise CommClosedError("an offer that was not made, or has expired")
            with self._sending:
                for piece in _pieces(payload):
                    connection.send_raw(piece, STALL_SECONDS)

    def _take(self, connection: BlockingConnection, ticket: str) -> None:
        expected = self._expected.pop(ticket, None)
        if expected is None:
            raise CommClosedError("something that was not expected, or not any more")
        with self._sending:
            connection.send([Data(0, ticket, 0)])  # go on: raw bytes would else be taken for frames
            payload = receive_pieces(connection, expected.lengths)
        keeping = asyncio.run_coroutine_threadsafe(_soon(expected.on_brought, payload), self._loop)
        connection.send([Data(0, ticket, 0 if keeping.result(STALL_SECONDS) else -1)])


async def _soon(function: Callable[[Payload], bool], payload: Payload) -> bool:
    return function(payload)


def lengths_of(payload: Payload) -> list[int]:
    """Return the lengths of a value's pieces, in bytes."""
    return [memoryview(piece).nbytes for piece in (payload.pickle, *payload.buffers)]


def receive_pieces(connection: BlockingConnection, lengths: Sequence[int]) -> Payload:
    """Receive a value of pieces of these lengths.

    :raises OSError: it did not come.
    :raises MemoryError: there is no room for it.
    """
    pieces = allocate_pieces(lengths)
    for piece in pieces:
        connection.receive_raw(piece, STALL_SECONDS)
    return Payload(pieces[0], list[Buffer](pieces[1:]))


def _pieces(payload: Payload) -> Iterator[memoryview]:
    buffers: list[Buffer] = [payload.pickle, *payload.buffers]
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        for at in range(0, len(view), _PIECE_BYTES):
            yield view[at : at + _PIECE_BYTES]


class BulkClient:
    """Takes offers, and brings what is expected.

    :param hello: how we introduce ourselves (role "peer").
    :param context: TLS context of the side that dials; None without TLS.
    """

    def __init__(self, hello: Hello, context: ssl.SSLContext | None) -> None:
        self._hello = hello
        self._context = context
        self._threads: ThreadPoolExecutor | None = None
        self._idle: dict[str, list[BlockingConnection]] = {}
        self._busy: set[BlockingConnection] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    async def take(self, holder: str, offer: Offer) -> Payload:
        """Receive what a holder offers.

        :param holder: its ordinary address, ``host:port``.
        :raises OSError: it can't be reached, or stands still.
        :raises PeerError: it is not who it should be, or has ended.
        :raises MemoryError: there is no room for it.
        """
        received: Payload = await self._on_connection(holder, offer, self._take)
        return received

    async def bring(self, keeper: str, offer: Offer, payload: Payload) -> bool:
        """Bring a worker what it expects; say whether it keeps it.

        :param keeper: its ordinary address, ``host:port``.
        :raises OSError: it can't be reached, or stands still.
        :raises PeerError: it is not who it should be, or has ended.
        """
        kept: bool = await self._on_connection(keeper, offer, partial(_bring, payload))
        return kept

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in one of the threads that are there for transfers."""
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(_AT_ONCE, "hpclaunch-bulk")
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _on_connection(
        self, worker: str, offer: Offer, do: Callable[[BlockingConnection, Offer], Any]
    ) -> Any:
        return await self.in_thread(self._do, f"{worker.rpartition(':')[0]}:{offer.port}", offer, do)

    @staticmethod
    def _take(connection: BlockingConnection, offer: Offer) -> Payload:
        connection.send([Fetch(0, [offer.ticket])])
        return receive_pieces(connection, offer.lengths)

    def _do(self, address: str, offer: Offer, do: Callable[[BlockingConnection, Offer], Any]) -> Any:
        connection = self._connection(address)
        try:
            done = do(connection, offer)
        except BaseException:
            with self._lock:
                self._busy.discard(connection)
            connection.close()
            raise
        with self._lock:
            self._busy.discard(connection)
            if not self._is_closed:
                self._idle.setdefault(address, []).append(connection)
                return done
        connection.close()
        return done

    def _connection(self, address: str) -> BlockingConnection:
        with self._lock:
            idle = self._idle.get(address, [])
            while idle:
                connection = idle.pop()
                if connection.is_alive():
                    self._busy.add(connection)
                    return connection
                connection.close()
        connection, _ = dial_blocking(
            address, self._hello, self._context, expect_role="worker", timeout=DIAL_SECONDS
        )
        with self._lock:
            self._busy.add(connection)
            if self._is_closed:
                connection.cut()
        return connection

    def close(self) -> None:
        """Close all connections; what is being received fails."""
        with self._lock:
            self._is_closed = True
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()
            for connection in self._busy:
                connection.cut()
        if self._threads is not None:
            self._threads.shutdown(wait=False)


def _bring(payload: Payload, connection: BlockingConnection, offer: Offer) -> bool:
    connection.send([Bring(0, offer.ticket, 0, list(offer.lengths))])
    _hear(connection)
    for piece in _pieces(payload):
        connection.send_raw(piece, STALL_SECONDS)
    return _hear(connection) == 0


def _hear(connection: BlockingConnection) -> int:
    messages = connection.wait(STALL_SECONDS)
    if not messages or type(messages[0]) is not Data:
        raise CommClosedError("the worker does not answer")
    return messages[0].buffers
