"""Questions that the head passes on to workers which the asker cannot reach, and their answers.

Owns, per worker, whom to tell what it answers. The head does not look into either.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpclaunch.comm import messages as m
from hpclaunch.comm.framing import Buffer

if TYPE_CHECKING:
    from hpclaunch.scheduler.server import Peer


class Relays:
    """Passes questions on.

    :param worker_at: returns the worker at an address; None if it is gone.
    """

    def __init__(self, worker_at: Callable[[str], Peer | None]) -> None:
        self._worker_at = worker_at
        self._numbers = itertools.count(1)

    def fetch(self, asker: Peer, message: m.Fetch) -> None:
        """Somebody asks for results."""
        holder = self._worker_at(message.via)
        for key in message.keys:  # one question each, so that its answer ends it
            if holder is None:
                asker.comm.send(m.Data(message.request, key, -1))
                continue
            number = next(self._numbers)
            holder.relays[number] = (asker, message.request, m.Fetch)
            holder.comm.send(m.Fetch(number, [key]))

    def call(self, asker: Peer, message: m.ActorCall) -> None:
        """Somebody calls an actor."""
        holder = self._worker_at(message.via)
        if holder is None:
            asker.comm.send(m.ActorReply(message.request, is_gone=True))
            return
        number = next(self._numbers)
        holder.relays[number] = (asker, message.request, m.ActorCall)
        holder.comm.send(m.ActorCall(number, message.key, message.name, message.args))

    def answer(self, holder: Peer, message: m.Data | m.ActorReply, buffers: Sequence[Buffer]) -> None:
        """A worker has answered."""
        asker, request, _ = holder.relays.pop(message.request, (None, 0, None))
        if asker is None or asker.comm.is_closed:
            return
        message.request = request
        if message.buffers > 0:
            asker.comm.send_buffers(message, buffers)
        else:
            asker.comm.send(message)

    def lose(self, holder: Peer) -> None:
        """A worker is gone: it answers no more."""
        for asker, request, kind in holder.relays.values():
            if asker.comm.is_closed:
                continue
            if kind is m.Fetch:
                asker.comm.send(m.Data(request, "", -1))
            else:
                asker.comm.send(m.ActorReply(request, is_lost=True))
        holder.relays.clear()
