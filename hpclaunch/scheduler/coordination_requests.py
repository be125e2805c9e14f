"""Clients' requests for locks, semaphores, events, queues, variables and datasets, and the answers to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpclaunch.comm import messages as m
from hpclaunch.comm.texts import pack
from hpclaunch.scheduler import references
from hpclaunch.scheduler.coordination import Answer, HandOver, Keep, NamedPrimitives, Release
from hpclaunch.scheduler.lifecycle import Lifecycle
from hpclaunch.scheduler.multilocks import Ticket
from hpclaunch.scheduler.peers import Peer, Peers


class CoordinationRequests:
    """Passes requests on to the named primitives, and answers to the clients when their turn has come.

    :param schedule_tick: has a tick at the end of this turn of the loop.
    """

    def __init__(self, lifecycle: Lifecycle, peers: Peers, schedule_tick: Callable[[], None]) -> None:
        self._lifecycle = lifecycle
        self._peers = peers
        self._schedule_tick = schedule_tick
        self.named = NamedPrimitives()
        self.tickets: dict[Ticket, int] = {}  # clients' requests that have not been answered, and their numbers

    def ask(
        self, peer: Peer, request: int, ticket: int, kind: str, do: str, name: str, how: dict[str, Any]
    ) -> None:
        """Note a client's request; it is answered when its turn comes.

        :raises ValueError: there is no such thing to ask for.
        """
        client = peer.hello.name
        self.tickets[client, ticket] = request
        try:
            self.named.on_asked(client, ticket, kind, do, name, **how)
        except Exception:
            self.tickets.pop((client, ticket), None)
            raise
        self._carry_out()

    def withdraw(self, peer: Peer, ticket: int) -> None:
        """A client waits for an answer no longer."""
        self.named.on_withdrawn(peer.hello.name, ticket)
        self._carry_out()

    def on_client_left(self, name: str) -> None:
        """A client's connection is over."""
        self.named.on_client_left(name)
        for ticket in [one for one in self.tickets if one[0] == name]:
            del self.tickets[ticket]
        self._carry_out()

    def _carry_out(self) -> None:
        for command in self.named.take_commands():
            if type(command) is Answer:
                request = self.tickets.pop((command.client, command.ticket), None)
                peer = self._peers.clients.get(command.client)
                if peer is not None and request is not None:
                    peer.comm.send(m.Reply(request, pack(command.value)))
            elif type(command) is Keep:
                references.keep(self._lifecycle, command.keys)
            elif type(command) is Release:
                references.release(self._lifecycle, command.keys)
            elif type(command) is HandOver:
                references.on_given(self._lifecycle, *command)
        self._schedule_tick()
