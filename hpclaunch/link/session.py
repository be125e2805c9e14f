"""A client's connection to a head: requests with answers, and everything else handed on.

Used by :class:`~hpclaunch.client.client.Client` for tasks and by the cluster classes for control. Lives on an
asyncio loop; not thread-safe.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpclaunch.comm import tls
from hpclaunch.comm.connection import Comm, dial
from hpclaunch.comm.framing import Frame
from hpclaunch.comm.memory import MemoryConnection
from hpclaunch.comm.messages import PROTOCOL_VERSION, Goodbye, Hello, Message, Notice, Reply, Request, Welcome
from hpclaunch.comm.reports import to_error
from hpclaunch.comm.texts import pack_arguments
from hpclaunch.errors import (
    ClusterNotFoundError,
    CommClosedError,
    HandshakeError,
    HPCLaunchError,
    PeerError,
    PeerSilentError,
)
from hpclaunch.rundir import read_facts

#: Seconds of silence after which a head is asked whether it lives, and in which it must say so. It answers that
#: at once whatever it does, so one that does not is frozen, or cannot be reached any more.
SILENCE_SECONDS = 15.0

OnMessages = Callable[[list[Message], list[memoryview]], None]


class HeadSession:
    """One authenticated connection to a head.

    :param on_messages: called with the messages of a frame that are not answers, and the frame's buffers.
    :param on_lost: called once with an error when the connection is over and :meth:`close` did not end it.
    """

    def __init__(self, on_messages: OnMessages | None, on_lost: Callable[[PeerError], None] | None) -> None:
        self._on_messages = on_messages
        self._on_lost = on_lost
        self._on_notice: Callable[[HPCLaunchError], None] | None = None
        self._early_notice: HPCLaunchError | None = None
        self.on_recovered: Callable[[], None] | None = None  # told that what a notice said is over
        self.on_warning: Callable[[str], None] | None = None  # told what the user should know, and can live with
        self.comm: Comm | None = None
        self.welcome: Welcome | None = None
        self.address = ""
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last_request = 0
        self._farewell = ""
        self._closing = False

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        name: str,
        on_messages: OnMessages | None = None,
        on_lost: Callable[[PeerError], None] | None = None,
        timeout: float = 10.0,
    ) -> HeadSession:
        """Dial the head whose run directory this is, at each of its addresses in turn.

        :raises ClusterNotFoundError: there is no such directory, or no answer at any address.
        :raises HandshakeError: the head has refused this client.
        """
        facts = read_facts(directory)
        context = tls.client_context(directory, "client") if facts.get("security", True) else None
        hello = Hello(PROTOCOL_VERSION, "client", name, facts["id"], host=socket.gethostname(), pid=os.getpid())
        try:
            return await cls.to(
                facts["addresses"], hello, context, on_messages=on_messages, on_lost=on_lost, timeout=timeout
            )
        except CommClosedError as error:
            raise ClusterNotFoundError(
                f"the head of cluster {facts['name']} does not answer: {error}. "
                f"It ran on {facts.get('host')} as process {facts.get('pid')}; its log is {directory / 'head.log'}"
            ) from None

    @classmethod
    async def to(
        cls,
        addresses: Sequence[str],
        hello: Hello,
        context: ssl.SSLContext | None,
        *,
        on_messages: OnMessages | None = None,
        on_lost: Callable[[PeerError], None] | None = None,
        timeout: float = 10.0,
    ) -> HeadSession:
        """Dial a head at each of these addresses in turn, as ``hello`` says.

        :raises CommClosedError: there is no answer at any address.
        :raises HandshakeError: the head has refused this client.
        """
        session = cls(on_messages, on_lost)
        failures: list[str] = []
        for address in addresses:
            try:
                connection, welcome = await dial(
                    address, hello, context, session._on_frames, session._on_gone, timeout=timeout
                )
            except HandshakeError:
                raise
            except PeerError as error:
                failures.append(str(error))
                continue
            session.comm, session.welcome, session.address = connection, welcome, address
            return session
        raise CommClosedError("; ".join(failures))

    def attach(self, comm: MemoryConnection, welcome: Welcome) -> None:
        """Use a connection to a head in this very process."""
        comm.on_frames = self._on_frames
        comm.on_lost = self._on_gone
        self.comm, self.welcome, self.address = comm, welcome, "memory"

    def listen(self, on_notice: Callable[[HPCLaunchError], None]) -> None:
        """Have ``on_notice`` called when the head says that the cluster cannot work; now if it has said so."""
        self._on_notice = on_notice
        if self._early_notice is not None:
            on_notice(self._early_notice)

    async def request(self, method: str, **params: Any) -> Any:
        """Ask the head something and return the answer (plain values).

        :raises HPCLaunchError: the head's own error, as the class it was there.
        :raises CommClosedError: the head went away before it answered.
        :raises ValueError: a parameter can't be encoded; TypeError if it is of a kind that can't be sent.
        """
        if self.comm is None or self.comm.is_closed:
            raise CommClosedError(f"the connection to the head is closed{self._because()}")
        body = pack_arguments(method, params)
        self._last_request += 1
        number = self._last_request
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self.comm.send(Request(number, method, body))
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def ask(self, method: str, *, silence: float | None = None, **params: Any) -> Any:
        """As :meth:`request`, of a head that may be frozen: however long the answer takes, it must show life.

        :param silence: seconds, instead of ``SILENCE_SECONDS``.
        :raises PeerSilentError: it shows no life.
        """
        seconds = SILENCE_SECONDS if silence is None else silence
        asking = asyncio.ensure_future(self.request(method, **params))
        try:
            while not (await asyncio.wait([asking], timeout=seconds))[0]:
                await self._check_life(asking, seconds)
            return asking.result()
        finally:
            asking.cancel()

    async def _check_life(self, asking: asyncio.Future[Any], seconds: float) -> None:
        ping = asyncio.ensure_future(self.request("ping"))
        try:
            done, _ = await asyncio.wait([ping, asking], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ping.cancel()
        if not done:
            raise PeerSilentError(f"it has said nothing for {2 * seconds:g} s")
        error = ping.exception() if ping in done else None
        if isinstance(error, PeerError) and asking not in done:  # any other error is an answer, too
            raise error

    @property
    def is_asking(self) -> bool:
        """True while a request is not answered."""
        return bool(self._waiting)

    def close(self) -> None:
        """Close the connection. Unanswered requests raise CommClosedError."""
        self._closing = True
        if self.comm is not None:
            self.comm.close()

    def _on_frames(self, connection: Any, frames: list[Frame]) -> None:
        for messages, buffers in frames:
            rest = [m for m in messages if not self._take(m)]
            if rest and self._on_messages is not None:
                self._on_messages(rest, buffers)

    def _take(self, message: Message) -> bool:
        """Handle a message that is this layer's own."""
        if type(message) is Reply:
            answer = self._waiting.get(message.request)
            if answer is not None and not answer.done():
                if message.error is not None:
                    answer.set_exception(to_error(message.error))
                else:
                    answer.set_result(msgspec.msgpack.decode(message.body))
            return True
        if type(message) is Notice and message.kind == "warning":
            if self.on_warning is not None:
                self.on_warning(message.error.text)
            return True
        if type(message) is Notice and message.kind == "recovered":
            self._early_notice = None
            if self.on_recovered is not None:
                self.on_recovered()
            return True
        if type(message) is Notice:
            error = to_error(message.error)
            if self._on_notice is not None:
                self._on_notice(error)
            else:
                self._early_notice = error
            return True
        if type(message) is Goodbye:
            self._farewell = message.reason
            return True
        return False

    def _on_gone(self, connection: Any, reason: str) -> None:
        self._farewell = self._farewell or reason
        error = CommClosedError(f"the connection to the head ended{self._because()}")
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
        if self._on_lost is not None and not self._closing:
            self._on_lost(error)

    def _because(self) -> str:
        return f": {self._farewell}" if self._farewell else ""
