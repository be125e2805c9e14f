"""A connection without an event loop: for the supervisor, which forks, and for bulk data in threads.

The same frames, handshake and TLS as :mod:`hpclaunch.comm.connection`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Sequence

from hpclaunch.comm import tls
from hpclaunch.comm.connection import check_hello, notice_dead_hosts, sent_away
from hpclaunch.comm.framing import LIMIT_PEER, LIMIT_STRANGER, FrameDecoder
from hpclaunch.comm.mending import encode_all
from hpclaunch.comm.messages import PROTOCOL_VERSION, Goodbye, Hello, Message, Welcome
from hpclaunch.errors import CommClosedError, HandshakeError, PeerError

#: Seconds between two looks at the patience with a stranger that says nothing.
_LOOK_SECONDS = 0.1
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BlockingConnection:
    """A connected, authenticated socket; non-blocking underneath, so that it can be selected on."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._decoder = FrameDecoder(LIMIT_STRANGER)
        self._early: list[Message] = []
        self._over = ""  # why nothing more will come

    def fileno(self) -> int:
        """The descriptor to select on; call :meth:`receive` until it gives nothing."""
        return self._sock.fileno()

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The socket if it speaks TLS, else None."""
        return self._sock if isinstance(self._sock, ssl.SSLSocket) else None

    def trust(self) -> None:
        """Take frames of any sensible size from now on."""
        self._decoder.limit = LIMIT_PEER

    def send(self, messages: Sequence[Message], timeout: float = 10.0) -> None:
        """Send messages in one frame.

        :raises CommClosedError: the connection is over, or takes nothing for ``timeout`` seconds.
        """
        data = b"".join(bytes(piece) for piece in encode_all(messages, ()))
        until = time.monotonic() + timeout
        try:
            while data:
                try:
                    data = data[self._sock.send(data) :]
                except _WOULD_BLOCK:
                    if not select.select([], [self._sock], [], max(0.0, until - time.monotonic()))[1]:
                        raise CommClosedError("the other side takes no data") from None
        except OSError as error:
            raise CommClosedError(f"the connection broke: {error.strerror or error}") from None

    def receive(self) -> list[Message]:
        """Return the messages that have come; does not wait.

        :raises CommClosedError: the connection is over, and all that came before its end was returned.
        :raises FrameError: what came is none of ours.
        """
        messages, self._early = self._early, []
        try:
            while not self._over:
                data = self._sock.recv(1 << 16)
                if not data:
                    self._over = "the other side closed the connection"
                for frame in self._decoder.feed(data):
                    messages += frame.messages
        except _WOULD_BLOCK:
            return messages
        except OSError as error:
            self._over = f"the connection broke: {error.strerror or error}"
        if not messages:
            raise CommClosedError(self._over)
        return messages

    def wait(self, timeout: float) -> list[Message]:
        """Return the next messages; an empty list if none comes within ``timeout`` seconds."""
        until = time.monotonic() + timeout
        while True:
            messages = self.receive()
            left = until - time.monotonic()
            if messages or left <= 0:
                return messages
            select.select([self._sock], [], [], left)

    def put_back(self, messages: list[Message]) -> None:
        """Give messages to the next :meth:`receive`."""
        self._early = messages + self._early

    def send_raw(self, view: memoryview, timeout: float) -> None:
        """Send bytes that are in no frame.

        :raises OSError: the connection is over, or takes nothing for ``timeout`` seconds.
        """
        self._sock.settimeout(timeout)
        try:
            self._sock.sendall(view)
        finally:
            self._sock.setblocking(False)

    def receive_raw(self, view: memoryview, timeout: float) -> None:
        """Fill memory with bytes that are in no frame.

        :raises OSError: the connection ends before, or nothing comes for ``timeout`` seconds.
        """
        self._sock.settimeout(timeout)
        try:
            while view:
                count = self._sock.recv_into(view)
                if not count:
                    raise OSError("the other side closed the connection in the middle")
                view = view[count:]
        finally:
            self._sock.setblocking(False)

    def is_alive(self) -> bool:
        """Say whether nothing has come on a connection on which nothing is to come: not even its end."""
        return not select.select([self._sock], [], [], 0)[0]

    def cut(self) -> None:
        """End the connection under a thread that uses it."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # not SSLSocket's, which takes TLS from under it

    def local_host(self) -> str:
        """The address of this side, without its port."""
        return str(self._sock.getsockname()[0])

    def close(self) -> None:
        """Close, saying goodbye on the TLS level."""
        with contextlib.suppress(OSError, ValueError):
            self._sock.close()

    def abandon(self) -> None:
        """In a forked child: close the descriptor without a word on the wire; the parent goes on using it."""
        with contextlib.suppress(OSError):
            socket.close(self._sock.detach())


def dial_blocking(
    address: str, hello: Hello, context: ssl.SSLContext | None, *, expect_role: str = "head", timeout: float = 10.0
) -> tuple[BlockingConnection, Welcome]:
    """Connect to ``host:port`` and greet.

    :raises HandshakeError: the other side is not who it should be, or sent us away.
    :raises CommClosedError: no peer is there, or it took longer than ``timeout`` seconds.
    """
    host, _, port = address.rpartition(":")
    sock: socket.socket | None = None
    try:
        sock = socket.create_connection((host.strip("[]"), int(port)), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        notice_dead_hosts(sock)
        if context is not None:
            secure = context.wrap_socket(sock)
            sock = secure
            if tls.peer_role(secure) != expect_role:
                raise HandshakeError(f"{address} is not the {expect_role} of this cluster")
        sock.setblocking(False)
        connection = BlockingConnection(sock)
        connection.send([hello])
        messages = connection.wait(timeout)
        if messages and isinstance(messages[0], Welcome):
            connection.trust()
            connection.put_back(messages[1:])
            return connection, messages[0]
        if messages and isinstance(messages[0], Goodbye):
            raise sent_away(address, messages[0])
        raise CommClosedError(f"{address} did not answer within {timeout:g} s")
    except PeerError:
        _drop(sock)
        raise
    except ssl.SSLError as error:
        _drop(sock)
        raise HandshakeError(f"{address} is not a member of this cluster: {error.reason}") from None
    except OSError as error:
        _drop(sock)
        why = error.strerror or str(error) or "the other side closed it during the handshake"
        raise CommClosedError(f"no connection to {address}: {why}") from None


def was_refused(error: PeerError) -> bool:
    """Say whether :func:`dial_blocking` failed because the host is there and nothing listens."""
    return isinstance(error.__context__, ConnectionRefusedError)


class Patience:
    """Seconds that a stranger has; another thread may cut them short."""

    def __init__(self, seconds: float) -> None:
        self.since = time.monotonic()
        self._until = self.since + seconds

    def left(self) -> float:
        """Return how many seconds are left; none of them are if this is not positive."""
        return self._until - time.monotonic()

    def end(self) -> None:
        """Leave none."""
        self._until = self.since


def accept_blocking(
    sock: socket.socket, context: ssl.SSLContext | None, cluster_id: str, me: str, patience: Patience
) -> BlockingConnection:
    """Hear who has connected, and greet.

    :param me: this side's name.
    :param patience: for all of it.
    :raises HandshakeError: it is not who it should be.
    :raises OSError: it went away, or took too long.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    notice_dead_hosts(sock)
    sock.setblocking(False)
    if context is not None:
        secure = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        sock = secure
        _shake_hands(secure, patience)
    connection = BlockingConnection(sock)
    try:
        messages: list[Message] = []
        while not messages and patience.left() > 0:
            messages = connection.wait(min(patience.left(), _LOOK_SECONDS))
        check_hello(messages[0] if messages else None, connection, cluster_id, secure=context is not None)
        connection.trust()
        connection.put_back(messages[1:])
        connection.send([Welcome(PROTOCOL_VERSION, me)])
    except BaseException:
        connection.close()
        raise
    return connection


def _shake_hands(sock: ssl.SSLSocket, patience: Patience) -> None:
    while True:
        wants_to_write = False
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            wants_to_write = True
        except BaseException:
            sock.close()
            raise
        else:
            return
        writers = [sock] if wants_to_write else []
        while not any(select.select([sock], writers, [], max(0.0, min(patience.left(), _LOOK_SECONDS)))):
            if patience.left() <= 0:
                sock.close()
                raise TimeoutError("no TLS handshake came in time")


def _drop(sock: socket.socket | None) -> None:
    if sock is not None:
        sock.close()
