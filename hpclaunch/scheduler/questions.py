"""What clients can ask of the scheduler itself, and what the scheduler asks its workers for them.

Owns the table of questions, and the questions to workers that have not been answered. A question of the first kind
is answered at once, in its order among the client's messages; one of the second kind waits for somebody.
User data in questions and answers stays opaque. What is not in these tables goes to the head.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from hpclaunch.comm import messages as m
from hpclaunch.comm.reports import to_error, to_report
from hpclaunch.errors import CommClosedError, HPCLaunchError, UserError
from hpclaunch.scheduler import wishes

if TYPE_CHECKING:
    from hpclaunch.scheduler.server import Peer, SchedulerServer

#: What a client inside a task may ask of the head, beside all that is in these tables.
TASKS_MAY_ASK = ("info", "wait_for_workers")


class Questions:
    """Answers for a SchedulerServer; see the module's text."""

    def __init__(self, server: SchedulerServer) -> None:
        self._server = server
        self._last = 0
        self._asked: dict[int, tuple[str, asyncio.Future[Any]]] = {}  # worker, and its answer
        self._now: dict[str, Callable[..., Any]] = {}
        self._later: dict[str, Callable[..., Awaitable[Any]]] = {
            "cancel_unstarted": self._cancel_unstarted,
            "running": self._running,
        }

    # --- clients

    def take(self, peer: Peer, message: m.Request) -> bool:
        """Answer a client's question, now or later; False: it is not in these tables."""
        if message.method in self._now:
            try:
                params = msgspec.msgpack.decode(message.body, type=dict[str, Any])
                value = _call(self._now[message.method], peer, params)
                peer.comm.send(m.Reply(message.request, msgspec.msgpack.encode(value)))
            except HPCLaunchError as error:
                peer.comm.send(m.Reply(message.request, error=to_report(error)))
            return True
        return False

    async def answer(self, peer: Peer, method: str, params: dict[str, Any]) -> Any:
        """Answer a client's question that :meth:`take` has left.

        :raises UserError: a task asks what only the cluster's owner may.
        """
        call = self._later.get(method)
        if call is not None:
            return await _call(call, peer, params)
        if peer.hello.role == "task" and method not in TASKS_MAY_ASK:
            raise UserError(
                f"a task may use its cluster, not rule it: {method!r} can be asked by the cluster's owner only"
            )
        return await self._server.ask_head(method, params)

    async def _cancel_unstarted(self, peer: Peer, keys: list[str]) -> list[str]:
        """Cancel those of some tasks that have not begun; return their keys."""
        reactor = self._server.reactor
        asked = wishes.on_unstarted_cancelled(reactor, keys)
        try:
            for name, taken in (await self.ask_workers(asked, "take_back", asked)).items():
                if not isinstance(taken, HPCLaunchError) and name in reactor.state.workers:
                    reactor.on_tasks_returned(name, taken)
        finally:
            cancelled = wishes.on_recanting_ended(reactor, keys)
            self._server.schedule_round()
        return cancelled

    async def _running(self, peer: Peer, keys: list[str]) -> list[str]:
        """Return those of some tasks that run now."""
        tasks = self._server.reactor.state.tasks
        workers = {t.worker.name for key in keys if (t := tasks.get(key)) is not None and t.worker is not None}
        answers = (await self.ask_workers(workers, "running")).values()
        running = {key for answer in answers if isinstance(answer, list) for key in answer}
        return [key for key in keys if key in running]

    # --- workers

    async def ask_workers(
        self, names: Iterable[str], method: str, keys: dict[str, list[str]] | None = None, **params: Any
    ) -> dict[str, Any]:
        """Ask some workers the same, and return each one's answer, or the error that it gave instead.

        :param keys: becomes the parameter ``keys``, for each worker its own.
        """
        names = list(names)
        own = [{**params, "keys": keys[name]} if keys is not None else params for name in names]
        answers = await asyncio.gather(
            *(self.ask_worker(name, method, **one) for name, one in zip(names, own, strict=True)),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, HPCLaunchError):
                raise answer
        return dict(zip(names, answers, strict=True))

    async def ask_worker(self, name: str, method: str, **params: Any) -> Any:
        """Ask a worker something and return its answer.

        :raises CommClosedError: it is gone, or goes before it answers.
        """
        peer = self._server.worker_peer(name)
        if peer is None:
            raise CommClosedError(f"worker {name} is gone")
        self._last += 1
        number = self._last
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = name, answer
        peer.comm.send(m.Request(number, method, msgspec.msgpack.encode(params)))
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    def on_reply(self, message: m.Reply) -> None:
        """A worker has answered."""
        _, answer = self._asked.get(message.request, ("", None))
        if answer is not None and not answer.done():
            if message.error is not None:
                answer.set_exception(to_error(message.error))
            else:
                answer.set_result(msgspec.msgpack.decode(message.body))

    def on_worker_gone(self, name: str, reason: str) -> None:
        """A worker's connection is over."""
        for asked, answer in self._asked.values():
            if asked == name and not answer.done():
                answer.set_exception(CommClosedError(f"worker {name} has gone before it answered: {reason}"))


def _call(call: Callable[..., Any], peer: Peer, params: dict[str, Any]) -> Any:
    try:
        bound = inspect.signature(call).bind(peer, **params)
    except TypeError as error:
        raise UserError(f"{error}. Are both sides one version?") from None
    return call(*bound.args, **bound.kwargs)
