"""Questions that the head passes on to workers which the asker cannot reach, and their answers.

Owns, per worker, whom to tell what it answers, and the questions for results that wait. The head looks into
neither. Of one asker only a few questions for results are under way at a time, and none while what it was sent
piles up here: so a slow one makes the head keep a few results, however many it asks for.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpclaunch.comm import messages as m
from hpclaunch.comm.buffers import Buffer

if TYPE_CHECKING:
    from hpclaunch.scheduler.server import Peer


#: Results that are under way to one asker at a time.
AT_ONCE = 4
#: Bytes that may wait here for one asker before its next question is passed on.
MOST_BYTES = 16 << 20


class Relays:
    """Passes questions on.

    :param worker_at: returns the worker at an address; None if it is gone.
    """

    def __init__(self, worker_at: Callable[[str], Peer | None]) -> None:
        self._worker_at = worker_at
        self._numbers = itertools.count(1)
        self._waiting: dict[Peer, deque[tuple[int, str, str]]] = {}  # asker -> request, key, address of a holder
        self._under_way: dict[Peer, int] = {}

    def fetch(self, asker: Peer, message: m.Fetch) -> None:
        """Somebody asks for results."""
        waiting = self._waiting.setdefault(asker, deque())
        waiting.extend((message.request, key, message.via) for key in message.keys)  # each answer ends one
        self._pass_on(asker)

    def on_tick(self) -> None:
        """Every tenth of a second or so: pass on what askers have room for by now."""
        for asker in list(self._waiting):
            self._pass_on(asker)

    def _pass_on(self, asker: Peer) -> None:
        """Pass on as many of an asker's questions for results as it may have under way."""
        waiting = self._waiting.get(asker)
        if waiting is None:
            return
        if asker.comm.is_closed:
            waiting.clear()
        while waiting and self._under_way.get(asker, 0) < AT_ONCE and _backlog(asker) < MOST_BYTES:
            request, key, address = waiting.popleft()
            holder = self._worker_at(address)
            if holder is None:
                asker.comm.send(m.Data(request, key, -1))
                continue
            number = next(self._numbers)
            self._under_way[asker] = self._under_way.get(asker, 0) + 1
            holder.relays[number] = (asker, request, m.Fetch)
            holder.comm.send(m.Fetch(number, [key]))
        if not waiting:
            self._waiting.pop(asker, None)

    def _arrived(self, asker: Peer) -> None:
        """A question for a result has been answered, one way or the other."""
        left = self._under_way.pop(asker, 1) - 1
        if left:
            self._under_way[asker] = left

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
        asker, request, kind = holder.relays.pop(message.request, (None, 0, None))
        if asker is None:
            return
        if kind is m.Fetch:
            self._arrived(asker)
        if asker.comm.is_closed:
            return
        message.request = request
        if message.buffers > 0:
            asker.comm.send_buffers(message, buffers)
        else:
            asker.comm.send(message)
        self._pass_on(asker)

    def lose(self, holder: Peer) -> None:
        """A worker is gone: it answers no more."""
        for asker, request, kind in holder.relays.values():
            if kind is m.Fetch:
                self._arrived(asker)
            if asker.comm.is_closed:
                continue
            if kind is m.Fetch:
                asker.comm.send(m.Data(request, "", -1))
            else:
                asker.comm.send(m.ActorReply(request, is_lost=True))
        holder.relays.clear()


def _backlog(asker: Peer) -> int:
    """Return how many bytes wait for an asker; a client in this process takes everything at once."""
    return int(getattr(asker.comm, "backlog_bytes", 0))
