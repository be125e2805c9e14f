"""Questions that the head passes on to workers which the asker cannot reach, and their answers.

Owns, per worker, whom to tell what it answers, and the questions for results that wait. The head looks into
neither, but it knows how large a result is, and lets no more come than it has room for. A large answer of an actor
is announced by its worker, with its size, and is then asked for as a result is.

* What is under way to one asker, or waits here because that takes no more for now, stays below ``MOST_BYTES``; a
  result that is larger than that comes alone. So a slow asker makes the head keep little, however much it asks.
* What is under way to all of them stays below ``MOST_BYTES_IN_ALL``. While that is full, askers take turns, and a
  large result is not overtaken by small ones without end.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hpclaunch.comm import messages as m
from hpclaunch.comm.buffers import Buffer
from hpclaunch.scheduler.peers import Peer, RelayedRequest

#: Bytes that may be under way to one asker, or wait here for it.
MOST_BYTES = 32 << 20
#: Bytes that may be under way to all askers.
MOST_BYTES_IN_ALL = 256 << 20
#: What a result counts at least: so many questions at once are enough.
LEAST_BYTES = 1 << 16


class _Queued(NamedTuple):
    """Something that an asker is to have once there is room."""

    request: int  # the asker's own number for it
    key: str
    address: str  # of a holder
    answer: Answer | None = None


class Answer(NamedTuple):
    """An actor's answer, which waits at its worker."""

    holder: Peer
    number: int  # of the call, there
    size: int  # bytes


class Relays:
    """Passes questions on.

    :param worker_at: returns the worker at an address; None if it is gone.
    :param size_of: returns the bytes of the result with this key; 0 if there is none.
    """

    def __init__(self, worker_at: Callable[[str], Peer | None], size_of: Callable[[str], int]) -> None:
        self._worker_at = worker_at
        self._size_of = size_of
        self._numbers = itertools.count(1)
        self._waiting: dict[Peer, deque[_Queued]] = {}
        self._under_way: dict[Peer, int] = {}  # bytes
        self._in_all = 0
        self._is_full = False  # a peer waits for room in all

    def fetch(self, asker: Peer, message: m.Fetch) -> None:
        """A peer asks for results."""
        waiting = self._waiting.setdefault(asker, deque())
        waiting.extend(_Queued(message.request, key, message.via) for key in message.keys)  # each answer ends one
        self._take_turns(asker)

    def on_timer(self) -> None:
        """Every tenth of a second or so: pass on what askers have room for by now."""
        self._is_full = False
        for asker in list(self._waiting):
            if not self._pass_on(asker):
                self._is_full = True
                return

    def _take_turns(self, asker: Peer) -> None:
        """A peer may have room: pass its requests on, or those of the one that has waited for longest."""
        if self._is_full:
            self.on_timer()
        elif not self._pass_on(asker):
            self._is_full = True

    def _pass_on(self, asker: Peer) -> bool:
        """Pass on as many of an asker's questions for results as it has room for.

        Returns False if it is the head that has no room for the next one.
        """
        waiting = self._waiting.get(asker)
        if waiting is None:
            return True
        while asker.comm.is_closed and waiting:
            self._forget(waiting.popleft())
        has_room = True
        while waiting:
            queued = waiting[0]
            size = max(self._size_of(queued.key) if queued.answer is None else queued.answer.size, LEAST_BYTES)
            if not self._has_room_at(asker, size):
                self._waiting[asker] = self._waiting.pop(asker)  # it has had its turn
                break
            has_room = not self._in_all or self._in_all + size <= MOST_BYTES_IN_ALL
            if not has_room:
                break
            waiting.popleft()
            self._ask(asker, queued, size)
        if not waiting:
            self._waiting.pop(asker, None)
        return has_room

    def _has_room_at(self, asker: Peer, size: int) -> bool:
        under_way, backlog = self._under_way.get(asker, 0), asker.backlog_bytes
        return under_way + backlog + size <= MOST_BYTES or (not under_way and backlog < MOST_BYTES)

    def _ask(self, asker: Peer, queued: _Queued, size: int) -> None:
        """Pass one question for a result on, or ask for an answer that waits."""
        answer = queued.answer
        if answer is not None and answer.holder.comm.is_closed:
            asker.comm.send(m.ActorReply(queued.request, is_lost=True))
            return
        holder = self._worker_at(queued.address) if answer is None else answer.holder
        if holder is None:
            asker.comm.send(m.Data(queued.request, queued.key, -1))
            return
        number = next(self._numbers) if answer is None else answer.number
        self._under_way[asker] = self._under_way.get(asker, 0) + size
        self._in_all += size
        holder.relays[number] = RelayedRequest(asker, queued.request, size, is_call=answer is not None)
        holder.comm.send(m.Fetch(number, [queued.key]) if answer is None else m.SendAnswer(number))

    def _forget(self, queued: _Queued) -> None:
        """No peer is there to have it."""
        if queued.answer is not None and not queued.answer.holder.comm.is_closed:
            queued.answer.holder.comm.send(m.SendAnswer(queued.answer.number, is_wanted=False))

    def _arrived(self, asker: Peer, size: int) -> None:
        """A question for a result has been answered, one way or the other."""
        self._in_all -= size
        left = self._under_way.pop(asker) - size
        if left:
            self._under_way[asker] = left

    def call(self, asker: Peer, message: m.ActorCall) -> None:
        """A peer calls an actor."""
        holder = self._worker_at(message.via)
        if holder is None:
            asker.comm.send(m.ActorReply(message.request, is_gone=True))
            return
        number = next(self._numbers)
        holder.relays[number] = RelayedRequest(asker, message.request, 0, is_call=True)
        holder.comm.send(m.ActorCall(number, message.key, message.name, message.args))

    def answer(self, holder: Peer, message: m.Data | m.ActorReply, buffers: Sequence[Buffer]) -> None:
        """A worker has answered."""
        question = holder.relays.pop(message.request, None)
        if question is None:
            return
        asker, number = question.asker, message.request
        message.request = question.request
        if question.size:
            self._arrived(asker, question.size)
        if isinstance(message, m.ActorReply) and message.waits:
            answer = Answer(holder, number, message.waits)
            waiting = self._waiting.setdefault(asker, deque())
            waiting.append(_Queued(question.request, "", "", answer))
            self._take_turns(asker)
            return
        if not asker.comm.is_closed and message.buffers > 0:
            asker.comm.send_buffers(message, buffers)
        elif not asker.comm.is_closed:
            asker.comm.send(message)
        self._take_turns(asker)

    def lose(self, holder: Peer) -> None:
        """A worker is gone: it answers no more."""
        for asker, request, size, is_call in holder.relays.values():
            if size:
                self._arrived(asker, size)
            if asker.comm.is_closed:
                continue
            if is_call:
                asker.comm.send(m.ActorReply(request, is_lost=True))
            else:
                asker.comm.send(m.Data(request, "", -1))
        holder.relays.clear()
