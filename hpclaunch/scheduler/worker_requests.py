"""What the scheduler asks its workers, and their answers.

Owns the requests to workers that have not been answered. What they carry of user data stays opaque.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from hpclaunch.comm import messages as m
from hpclaunch.comm.reports import to_error
from hpclaunch.comm.texts import pack
from hpclaunch.errors import CommClosedError, HPCLaunchError
from hpclaunch.scheduler.peers import Peers


class WorkerRequests:
    """Asks workers."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._last = 0
        self.pending: dict[int, tuple[str, asyncio.Future[Any]]] = {}  # worker, and its answer

    async def ask_all(
        self, names: Iterable[str], method: str, keys: dict[str, list[str]] | None = None, /, **params: Any
    ) -> dict[str, Any]:
        """Ask some workers the same, and return each one's answer, or the error that it gave instead.

        :param keys: becomes the parameter ``keys``, for each worker its own.
        """
        names = list(names)
        own = [{**params, "keys": keys[name]} if keys is not None else params for name in names]
        answers = await asyncio.gather(
            *(self.ask(name, method, **one) for name, one in zip(names, own, strict=True)),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, HPCLaunchError):
                raise answer
        return dict(zip(names, answers, strict=True))

    async def ask(self, name: str, method: str, /, **params: Any) -> Any:
        """Ask a worker something and return its answer.

        :raises CommClosedError: it is gone, or goes before it answers.
        """
        peer = self._peers.workers.get(name)
        if peer is None:
            raise CommClosedError(f"worker {name} is gone")
        self._last += 1
        number = self._last
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.pending[number] = name, answer
        peer.comm.send(m.Request(number, method, pack(params)))
        try:
            return await answer
        finally:
            self.pending.pop(number, None)

    def on_reply(self, message: m.Reply) -> None:
        """A worker has answered."""
        _, answer = self.pending.get(message.request, ("", None))
        if answer is not None and not answer.done():
            if message.error is not None:
                answer.set_exception(to_error(message.error))
            else:
                answer.set_result(msgspec.msgpack.decode(message.body))

    def on_worker_gone(self, name: str, reason: str) -> None:
        """A worker's connection is over."""
        for asked, answer in self.pending.values():
            if asked == name and not answer.done():
                answer.set_exception(CommClosedError(f"worker {name} has gone before it answered: {reason}"))
