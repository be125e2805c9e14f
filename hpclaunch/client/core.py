"""What all parts of a client share: its link to the head, its futures, and how both begin and end."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpclaunch.client.futures.free_memory import PART
from hpclaunch.client.futures.future import FAILED
from hpclaunch.client.futures.outstanding import OutstandingCalls
from hpclaunch.client.futures.table import FutureTable
from hpclaunch.comm import messages as m, tls
from hpclaunch.comm.fetch import Fetcher
from hpclaunch.comm.mending import mend
from hpclaunch.comm.texts import checked_text, escaped
from hpclaunch.errors import CommClosedError, PeerError
from hpclaunch.link.head_link import HeadLink
from hpclaunch.link.liveness import look_after
from hpclaunch.link.session import HeadSession
from hpclaunch.notes import warn_from_afar


class ClientCore:
    """The link of one client and the futures that hang on it.

    :param cluster: a cluster object; the name of a running cluster, its directory or its cluster file.
    :param name: shown on the cluster's side.
    :param timeout: seconds to wait for the head.
    :param asynchronous: calls that block return awaitables.
    """

    def __init__(self, cluster: Any, *, name: str | None, timeout: float, asynchronous: bool = False) -> None:
        self.cluster = None if isinstance(cluster, str | os.PathLike) else cluster
        self.link = HeadLink(
            f"{checked_text('name=', name or 'client')}-{secrets.token_hex(4)}", asynchronous=asynchronous
        )
        self.table = FutureTable(self.link)
        self.outstanding = OutstandingCalls(self.table, self.cluster)  # of executors
        self.fetcher: Fetcher  # once the link is open
        self.on_open: list[Callable[[Fetcher], None]] = []  # called on the loop when the link is opened
        self.on_close: list[Callable[[], None]] = []  # called on the loop before the link is closed
        self._opening = (cluster, timeout)
        self._liveness: asyncio.Future[None]

    @property
    def asynchronous(self) -> bool:
        """True if calls that block return awaitables."""
        return self.link.asynchronous

    # --- the beginning

    def open(self) -> None:
        """Connect, unless calls that block return awaitables: :meth:`start` does it then."""
        if not self.asynchronous:
            self.link.begin(self.link.thread.run(self._open(*self._opening)))

    async def start(self) -> None:
        """Connect; called on the user's own loop."""
        if self.link.is_open:
            return
        opening = asyncio.run_coroutine_threadsafe(self._open(*self._opening), self.link.thread.loop)
        self.link.begin(await asyncio.wrap_future(opening))

    async def _open(self, cluster: Any, timeout: float) -> HeadSession:
        name = self.link.name
        if hasattr(cluster, "open_session"):
            session: HeadSession = await cluster.open_session(
                name=name, on_messages=self.on_messages, on_lost=self.on_lost
            )
            facts: Mapping[str, Any] = cluster.facts
            directory = cluster.directory
        else:
            from hpclaunch.rundir import find_cluster, read_facts

            directory = find_cluster(cluster)
            session = await HeadSession.open(
                directory, name=name, on_messages=self.on_messages, on_lost=self.on_lost, timeout=timeout
            )
            facts = read_facts(directory)
        self.table.results.memory_part = facts.get("result_memory", PART)
        if session.comm is not None:
            session.comm.on_unsendable = self._on_unsendable
        session.listen(self.link.on_failure)
        session.on_warning, session.on_recovered = warn_from_afar, self.link.on_recovered
        hello = m.Hello(m.PROTOCOL_VERSION, "peer", name, facts["id"], host=socket.gethostname(), pid=os.getpid())
        context = getattr(cluster, "peer_context", None)
        if context is None and directory is not None and facts.get("security", True):
            context = tls.client_context(Path(directory), "client")
        self.fetcher = self.table.results.fetcher = Fetcher(hello, context, lambda: session.comm)
        for prepare in self.on_open:
            prepare(self.fetcher)
        self._liveness = asyncio.ensure_future(look_after(session, lambda: self._is_waiting(session)))
        return session

    def _is_waiting(self, session: HeadSession) -> bool:
        """Say whether a caller may wait for the head."""
        return session.is_asking or self.table.is_pending

    # --- what the head and the connection say

    def on_messages(self, messages: list[m.Message], buffers: list[memoryview]) -> None:
        """Take in what the head says; called on the loop."""
        table = self.table
        for message in messages:
            if type(message) is m.TasksDone:
                table.on_done(message)
            elif type(message) is m.TasksStored:
                table.on_stored(message)
            elif type(message) is m.TasksFailed:
                table.on_failed(message)
            elif type(message) is m.TasksCancelled:
                table.on_cancelled(message)
            elif type(message) is m.TasksRetried:
                table.on_retried(message)
            elif type(message) is m.Fence:
                table.on_fence(message)
            elif type(message) is m.Data:
                self.fetcher.on_data(message, buffers)
            elif type(message) is m.ActorReply:
                self.fetcher.on_reply(message, buffers, "head")

    def _on_unsendable(self, message: m.Message, error: Exception) -> m.Message | None:
        """A message can't be encoded, though its parts were checked: tasks in it fail, and no others."""
        if type(message) is not m.SubmitTasks:
            return mend(message, error)
        text = escaped(f"the call can't be sent: {error}. One of its options has a value that no message holds")
        failure = m.Failure("SerializationError", text)
        self.table.resolve([(key, FAILED, failure) for key in message.keys])
        return None

    def on_lost(self, error: PeerError) -> None:
        """The connection to the head is over; called on the loop."""
        if not self.link.is_closing:
            self.outstanding.warn_of_loss(str(error), warn_from_afar)
        self.link.closed = self.link.closed or str(error)
        self.fetcher.on_head_lost(str(error))
        self.table.lose_all(error)

    # --- the end

    def close(self) -> None:
        """Release all futures and disconnect."""
        if not self.link.is_closing:
            self.link.is_closing = True
            self.outstanding.warn_of_loss("the client was closed")
            self.link.closed = self.link.closed or "it was closed by close()"
            self.link.thread.run(self.disconnect())
            self.table.lose_all(CommClosedError("the client was closed"))
        self.table.end_callbacks()

    async def disconnect(self) -> None:
        """Send what was queued and end all connections; runs on the loop."""
        if not self.link.is_open:
            return
        self.link.flush()
        self._liveness.cancel()
        for end in self.on_close:  # before connections close: actors would be looked for
            end()
        self.fetcher.close()
        self.link.session.close()
