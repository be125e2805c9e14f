"""The connections of a scheduler: clients, workers and supervisors that have shown who they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

from hpclaunch.comm import messages as m
from hpclaunch.comm.connection import Comm
from hpclaunch.scheduler.commands import Command, ToClient


class Peer:
    """A connection that has shown who it is."""

    __slots__ = ("comm", "frozen", "hello", "last_seen", "refused", "relays", "vitals")

    def __init__(self, comm: Any, hello: m.Hello, now: float) -> None:
        self.comm: Comm = comm
        self.hello = hello
        self.last_seen = now
        self.vitals: dict[str, m.WorkerVitals] = {}
        self.frozen: dict[str, float] = {}  # workers that are stopped, and since when
        #: Types of its messages that were not for it to say, and of which the log knows.
        self.refused: set[type] = set()
        self.relays: dict[int, RelayedRequest] = {}  # those that it is to answer, by their numbers

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait here for it; none for a peer in this process, which takes everything at once."""
        return int(getattr(self.comm, "backlog_bytes", 0))


class RelayedRequest(NamedTuple):
    """What a worker is to answer for another peer."""

    asker: Peer
    request: int  # the asker's own number for it
    size: int  # bytes that there is room for; 0: an actor is called, and its answer is small or waits
    is_call: bool


class Peers:
    """All that are connected now, and what they are told."""

    def __init__(self) -> None:
        self.clients: dict[str, Peer] = {}
        self.workers: dict[str, Peer] = {}
        self.supervisors: dict[str, Peer] = {}  # by job id
        self.stopping: dict[str, str] = {}  # job ids that were told to end, and why
        self._changed = asyncio.Event()

    def supervisor_of(self, name: str) -> Peer | None:
        """Return the connection to a worker's supervisor; None if it has none, or is gone itself."""
        peer = self.workers.get(name)
        return self.supervisors.get(peer.hello.job_id) if peer is not None else None

    def worker_at(self, address: str) -> Peer | None:
        """Return the worker that can be reached at an address; None if it is gone."""
        for name, peer in self.workers.items():
            if address in peer.hello.addresses or address == f"worker:{name}":
                return peer
        return None

    def send(self, commands: Iterable[Command]) -> None:
        """Carry out commands: send their messages, all those to one peer at once."""
        addressed: set[Comm] = set()
        for command in commands:
            peers = self.clients if type(command) is ToClient else self.workers
            peer = peers.get(command[0])
            if peer is not None:
                peer.comm.put(command.message)
                addressed.add(peer.comm)
                if type(command.message) is m.ExpectTask:
                    peer.comm.flush()
        for comm in addressed:  # now, not a tick later: a round trip has four of these
            comm.flush()

    def note_change(self) -> None:
        """A worker has joined or left."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self) -> None:
        """Return when a worker has joined or left."""
        await self._changed.wait()
