"""Getting large results from those who hold them: straight from the worker, or through the head.

Used by clients and workers. One connection per holder, kept; questions that are asked at once share it. Where
the network lets us not reach a holder, the head passes question and answer on, and that holder is asked
through the head from then on. A holder that has died can't be reached either, and no peer is to be told to look at
the network for that: what is said waits until the holder has answered through the head.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from hpclaunch.comm.buffers import Buffer
from hpclaunch.comm.bulk import LEAST_BYTES, BulkClient, Offer, lengths_of, read_offer
from hpclaunch.comm.connection import Comm, Connection, dial
from hpclaunch.comm.framing import Frame
from hpclaunch.comm.messages import ActorReply, Bring, Data, Fetch, Hello, Message
from hpclaunch.comm.serialize import Payload
from hpclaunch.comm.sharing import Shared, node_id, open_shared, share
from hpclaunch.errors import CommClosedError, PeerError

log = logging.getLogger("hpclaunch.fetch")

#: Seconds to wait for a worker's port before the way through the head is taken.
DIAL_SECONDS = 5.0


class Fetcher:
    """Asks holders for results.

    :param hello: how we introduce ourselves to a worker (role "peer").
    :param context: TLS context, or None where the cluster runs without.
    :param head: returns the connection to the head, for what can't be had directly.
    """

    def __init__(self, hello: Hello, context: ssl.SSLContext | None, head: Callable[[], Comm | None]) -> None:
        self._hello = hello
        self._context = context
        self._head = head
        self._connections: dict[str, asyncio.Task[Connection]] = {}
        self._unreachable: dict[str, str] = {}  # address -> why; empty once that was said
        self._bulk = BulkClient(hello, context)
        self._no_offers: set[str] = set()  # addresses whose offers could not be taken
        self._waiting: dict[tuple[int, str], asyncio.Future[Payload | Shared | Offer | None]] = {}
        self._bringing: dict[tuple[int, str], asyncio.Future[Data]] = {}
        self._background: set[asyncio.Future[None]] = set()
        self._last_request = 0
        #: Called with (answer, buffers, source) for answers of actors, and (source, reason) when one is gone.
        self.on_reply: Callable[[ActorReply, Sequence[Buffer], str], None] = lambda *_: None
        self.on_source_lost: Callable[[str, str], None] = lambda *_: None

    async def fetch(self, holders: Sequence[str], key: str) -> Payload | None:
        """Return the result of task ``key`` from one of its holders; None if none of them has it.

        :raises MemoryError: there is no memory for it here; or an OSError that says so.
        """
        result = await self.fetch_shared(holders, key)
        return result if result is None or isinstance(result, Payload) else result.read()

    async def fetch_shared(self, holders: Sequence[str], key: str) -> Payload | Shared | None:
        """As :meth:`fetch`; gives the file if the result is in one that its holder shares with this host."""
        for address in holders:
            try:
                payload = await self._ask(address, key)
            except PeerError as error:
                log.info("no %s from %s: %s", key, address, error)
                continue
            if payload is not None:
                return payload
        return None

    async def _ask(self, address: str, key: str) -> Payload | Shared | None:
        node, trouble = node_id(), ""
        while True:
            comm, via, source = await self.way_to(address)
            try:
                answer = await self._question(comm, key, via, source, node)
            except OSError as error:  # it could not be opened: have it sent
                log.info("%s is not shared by %s: %s", key, address, error)
                node = ""
                continue
            except PeerError as error:
                if not via:
                    self._unreachable.setdefault(address, str(error))
                    continue
                raise
            if via and answer is not None:
                self.on_relayed(address)
            if not isinstance(answer, Offer):
                if trouble and answer is not None:
                    log.warning("%s did not come from %s by itself (%s); it was sent", key, address, trouble)
                return answer
            try:
                return await self._bulk.take(address, answer)
            except (OSError, PeerError) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOMEM:
                    raise
                trouble = str(error) or type(error).__name__
                self._no_offers.add(address)

    async def bring(self, address: str, key: str, order: int, payload: Payload) -> bool:
        """Have a worker keep a large value, without the head between; False: that can't be.

        It tells the head when it has it.
        """
        if payload.size < LEAST_BYTES or address in self._no_offers:
            return False
        try:
            comm, via, source = await self.way_to(address)
            if via:
                return False
            lengths = lengths_of(payload)
            said = await self._ask_keeper(comm, source, Bring(0, key, order, lengths, node_id()))
            if said.place == "share":
                shared = await self._bulk.in_thread(share, payload)
                again = Bring(0, key, order, lengths, node_id(), shared.place, shared.inode)
                said = await self._ask_keeper(comm, source, again)
            offer = read_offer(said.place, lengths)
            if offer is not None:
                return await self._bulk.bring(address, offer, payload)
        except (OSError, PeerError) as error:
            log.info("%s was not brought to %s: %s", key, address, error)
            return False
        return said.buffers == 0 and not said.place

    def look_after(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background, at most until :meth:`close`."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _ask_keeper(self, comm: Comm, source: str, message: Bring) -> Data:
        self._last_request += 1
        message.request = self._last_request
        answer: asyncio.Future[Data] = asyncio.get_running_loop().create_future()
        self._bringing[message.request, source] = answer
        comm.send(message)
        try:
            return await answer
        finally:
            self._bringing.pop((message.request, source), None)

    async def way_to(self, address: str) -> tuple[Comm, str, str]:
        """Return a connection to a worker, straight or through the head.

        :returns: the connection; what messages on it must say in ``via``; where answers will come from.
        :raises PeerError: there is none, not even to the head.
        """
        if address.startswith("worker:"):
            self._unreachable[address] = ""
        if address not in self._unreachable:
            try:
                return await asyncio.shield(self._connect(address)), "", address  # others may wait for it too
            except PeerError as error:
                self._unreachable.setdefault(address, str(error))
        head = self._head()
        if head is None or head.is_closed:
            raise CommClosedError("the connection to the head is closed")
        return head, address, "head"

    def on_relayed(self, address: str) -> None:
        """A worker has answered through the head: it is there, and only not to be reached from here."""
        if why := self._unreachable.get(address):
            log.warning("%s can't be reached directly (%s); asking through the head", address, why)
            self._unreachable[address] = ""

    async def _question(
        self, comm: Comm, key: str, via: str, source: str, node: str
    ) -> Payload | Shared | Offer | None:
        self._last_request += 1
        number = self._last_request
        answer: asyncio.Future[Payload | Shared | Offer | None] = asyncio.get_running_loop().create_future()
        self._waiting[number, source] = answer
        if via:
            comm.send(Fetch(number, [key], via))
        else:
            comm.send(Fetch(number, [key], "", node, takes_offers=source not in self._no_offers))
        try:
            return await answer
        finally:
            self._waiting.pop((number, source), None)

    def _connect(self, address: str) -> asyncio.Task[Connection]:
        task = self._connections.get(address)
        if task is None:
            task = asyncio.ensure_future(self._dial(address))
            self._connections[address] = task
        return task

    async def _dial(self, address: str) -> Connection:
        try:
            connection, _ = await dial(
                address,
                self._hello,
                self._context,
                lambda _, frames: self._on_frames(address, frames),
                lambda _, reason: self._on_lost(address, reason),
                expect_role="worker",
                timeout=DIAL_SECONDS,
            )
        except BaseException:
            self._connections.pop(address, None)
            raise
        return connection

    def _on_frames(self, address: str, frames: list[Frame]) -> None:
        for messages, buffers in frames:
            for message in messages:
                if type(message) is Data:
                    self.on_data(message, buffers, address)
                elif type(message) is ActorReply:
                    self.on_reply(message, buffers, address)

    def _on_lost(self, address: str, reason: str) -> None:
        self._connections.pop(address, None)
        self._fail(address, reason)

    def _fail(self, source: str, reason: str) -> None:
        questions: list[tuple[tuple[int, str], asyncio.Future[Any]]]
        questions = [*self._waiting.items(), *self._bringing.items()]
        for (_, where), answer in questions:
            if where == source and not answer.done():
                answer.set_exception(CommClosedError(reason))
        self.on_source_lost(source, reason)

    def on_data(self, message: Data, buffers: Sequence[Buffer], source: str = "head") -> None:
        """Take an answer; the owner of the connection to the head passes those that come through it."""
        kept = self._bringing.get((message.request, source))
        if kept is not None and not kept.done():
            kept.set_result(message)
            return
        answer = self._waiting.get((message.request, source))
        if answer is None or answer.done():
            return
        offer = read_offer(message.place, message.lengths) if source != "head" else None
        if offer is not None:
            answer.set_result(offer)
        elif message.place and source != "head":
            try:
                answer.set_result(open_shared(message.place, message.inode, message.lengths))
            except OSError as error:
                answer.set_exception(error)
        elif message.buffers < 1 or len(buffers) != message.buffers:
            answer.set_result(None)
        else:
            answer.set_result(Payload(buffers[0], list(buffers[1:])))

    def on_head_lost(self, reason: str) -> None:
        """The connection to the head is over: nothing more comes through it."""
        self._fail("head", reason)

    def close(self) -> None:
        """Close all connections to holders."""
        for work in list(self._background):
            work.cancel()
        for task in self._connections.values():
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().close()
            else:
                task.cancel()
        self._connections.clear()
        for source in {source for _, source in [*self._waiting, *self._bringing]}:
            self._fail(source, "closed on this side")
        self._bulk.close()


class InFile(Protocol):
    """A result in a file that another process of this host can open."""

    lengths: tuple[int, ...]

    @property
    def place(self) -> str:
        """Its path."""

    @property
    def inode(self) -> int:
        """Its number in its file system."""


def answer_fetch(
    comm: Comm,
    message: Fetch,
    stored: Callable[[str], Payload | None],
    shared: Callable[[str], InFile | None] = lambda key: None,
    offer: Callable[[Payload], Offer | None] = lambda payload: None,
) -> None:
    """Send the results that are asked for, or say where they are to be opened, or that they are not here.

    :param stored: gives a result by its key.
    :param shared: gives it in a file that others of this host can open, if it is better had so.
    :param offer: offers it on a connection of its own, if it is better had so.
    """
    is_near = message.node != "" and message.node == node_id()
    for key in message.keys:
        with contextlib.suppress(OSError):  # then it is sent
            file = shared(key) if is_near else None
            if file is not None:
                comm.send(Data(message.request, key, 0, file.place, file.inode, list(file.lengths)))
                continue
        payload = stored(key)
        reply: Message
        if payload is None:
            reply = Data(message.request, key, -1)
            comm.send(reply)
        elif message.takes_offers and (offered := offer(payload)) is not None:
            comm.send(Data(message.request, key, 0, offered.place, 0, list(offered.lengths)))
        else:
            reply = Data(message.request, key, 1 + len(payload.buffers))
            comm.send_buffers(reply, [payload.pickle, *payload.buffers])
