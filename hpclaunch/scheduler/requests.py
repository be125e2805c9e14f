"""What clients can ask of the scheduler itself, and what the scheduler asks its workers for them.

Owns the table of questions, and the questions to workers that have not been answered. A question of the first kind
is answered at once, in its order among the client's messages; one of the second kind waits for somebody.
User data in questions and answers stays opaque. What is not in these tables goes to the head.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from hpclaunch.comm import messages as m
from hpclaunch.comm.reports import to_error, to_report
from hpclaunch.comm.texts import pack
from hpclaunch.errors import CommClosedError, HPCLaunchError, UserError, WaitTimeoutError
from hpclaunch.scheduler import client_events, rebalance, references
from hpclaunch.scheduler.admission import Room
from hpclaunch.scheduler.coordination import Answer, HandOver, Keep, LetGo, NamedThings, Ticket
from hpclaunch.scheduler.relays import backlog_of
from hpclaunch.scheduler.requirements import is_named
from hpclaunch.scheduler.scattered import places
from hpclaunch.scheduler.setups import PLUGIN, SetUp, SetUps, plain
from hpclaunch.scheduler.why import why

if TYPE_CHECKING:
    from hpclaunch.scheduler.peers import Peer
    from hpclaunch.scheduler.server import SchedulerServer

log = logging.getLogger("hpclaunch.scheduler")

#: What a client inside a task may ask of the head, beside all that is in these tables.
TASKS_MAY_ASK = ("info", "wait_for_workers")


class Questions:
    """Answers for a SchedulerServer; see the module's text."""

    def __init__(self, server: SchedulerServer) -> None:
        self._server = server
        self._last = 0
        self._asked: dict[int, tuple[str, asyncio.Future[Any]]] = {}  # worker, and its answer
        self.setups = SetUps(server, self)
        self.room = Room(self._backlog)
        self._named = NamedThings()
        self._tickets: dict[Ticket, int] = {}  # clients' questions for named things, and their requests
        self._now: dict[str, Callable[..., Any]] = {
            "named_withdrawn": self._named_withdrawn,
            "has_what": self._has_what,
            "nthreads": self._nthreads,
            "places": self._places,
            "plugins": lambda peer: self.setups.names(PLUGIN),
            "processing": self._processing,
            "who_has": self._who_has,
            "why": self._why,
        }
        self._later: dict[str, Callable[..., Awaitable[Any]]] = {
            "cancel_unstarted": self._cancel_unstarted,
            "call_stack": self._call_stack,
            "rebalance": self._rebalance,
            "replicate": self._replicate,
            "restart": self._restart,
            "room": self._room,
            "run": self._run,
            "running": self._running,
            "register_setup": self._register_setup,
            "unregister_setup": self._unregister_setup,
        }

    # --- clients

    def take(self, peer: Peer, message: m.Request) -> bool:
        """Answer a client's question, now or later; False: it is not in these tables."""
        is_named = message.method == "named"
        if is_named or message.method in self._now:
            try:
                params = msgspec.msgpack.decode(message.body, type=dict[str, Any])
                if is_named:
                    self._ask_named(peer, message.request, **params)
                else:
                    value = _call(self._now[message.method], peer, params)
                    peer.comm.send(m.Reply(message.request, pack(value)))
            except Exception as error:  # of one question: what else this client says is still to be heard
                if not isinstance(error, HPCLaunchError):
                    log.exception("question %s of %s failed", message.method, peer.hello.name)
                peer.comm.send(m.Reply(message.request, error=to_report(error)))
            return True
        return False

    async def answer(self, peer: Peer, method: str, params: dict[str, Any]) -> Any:
        """Answer a client's question that :meth:`take` has left.

        :raises UserError: a task asks what only the cluster's owner may.
        """
        call = self._later.get(method)
        if call is not None and not (method == "restart" and peer.hello.role == "task"):
            return await _call(call, peer, params)
        if peer.hello.role == "task" and method not in TASKS_MAY_ASK:
            raise UserError(
                f"a task may use its cluster, not rule it: {method!r} can be asked by the cluster's owner only"
            )
        return await self._server.ask_head(method, params)

    async def _cancel_unstarted(self, peer: Peer, keys: list[str]) -> list[str]:
        """Cancel those of some tasks that have not begun; return their keys."""
        reactor = self._server.reactor
        asked = client_events.on_unstarted_cancelled(reactor, keys)
        try:
            for name, taken in (await self.ask_workers(asked, "take_back", asked)).items():
                if not isinstance(taken, HPCLaunchError) and name in reactor.state.workers:
                    reactor.on_tasks_returned(name, taken)
        finally:
            cancelled = client_events.on_recanting_ended(reactor, keys)
            self._server.schedule_round()
        return cancelled

    async def _running(self, peer: Peer, keys: list[str]) -> list[str]:
        """Return those of some tasks that run now."""
        tasks = self._server.reactor.state.tasks
        workers = {t.worker.name for key in keys if (t := tasks.get(key)) is not None and t.worker is not None}
        answers = (await self.ask_workers(workers, "running")).values()
        running = {key for answer in answers if isinstance(answer, list) for key in answer}
        return [key for key in keys if key in running]

    async def _run(
        self, peer: Peer, function: bytes, args: bytes, workers: list[str] | None = None, wait: bool = True
    ) -> dict[str, Any]:
        """Run a function once on each of some workers, beside their tasks; return what each of them made of it.

        An answer is [True, a pickled value] or [False, a failure's kind, text, traceback and exception].
        """
        names = self._meant(workers)
        asking = self.ask_workers(names, "run", function=function, args=args, wait=wait)
        return {name: plain(answer) for name, answer in (await asking).items()}

    async def _call_stack(self, peer: Peer, keys: list[str] | None = None) -> dict[str, Any]:
        answers = (await self.ask_workers(self.names(None), "call_stack")).values()
        stacks = {key: stack for one in answers if isinstance(one, dict) for key, stack in one.items()}
        return stacks if keys is None else {key: stacks[key] for key in keys if key in stacks}

    async def _register_setup(
        self, peer: Peer, kind: str, name: str, data: bytes, idempotent: bool = False
    ) -> dict[str, Any]:
        return await self.setups.register(SetUp(kind, name, data), idempotent=idempotent)

    async def _unregister_setup(self, peer: Peer, kind: str, name: str) -> dict[str, Any]:
        return await self.setups.unregister(kind, name)

    async def _replicate(
        self, peer: Peer, keys: list[str], n: int | None = None, workers: list[str] | None = None
    ) -> None:
        """Have results kept on ``n`` of some workers each, fetched by these from those who have them."""
        tasks, names = self._server.reactor.state.tasks, self._meant(workers)
        wanted: dict[str, list[list[Any]]] = {}
        for i, key in enumerate(keys):
            task = tasks.get(key)
            if task is None or not task.holders:
                continue  # small ones are with the scheduler, which outlives every worker
            have = {worker.name for worker in task.holders}
            missing = [name for name in names[i % len(names) :] + names[: i % len(names)] if name not in have]
            places = [worker.place for worker in task.holders]
            for name in missing[: None if n is None else max(0, n - len(have.intersection(names)))]:
                wanted.setdefault(name, []).append([key, places, task.order])
        await self._have_held(wanted)

    async def _rebalance(self, peer: Peer, keys: list[str] | None = None, workers: list[str] | None = None) -> int:
        """Move results until workers hold about the same share of their memory; return how many were moved."""
        state = self._server.reactor.state
        moves = rebalance.plan(state, self._meant(workers), None if keys is None else set(keys))
        wanted: dict[str, list[list[Any]]] = {}
        for key, _, taker in moves:
            places = [worker.place for worker in state.tasks[key].holders or ()]
            wanted.setdefault(taker, []).append([key, places, state.tasks[key].order])
        await self._have_held(wanted)
        gone = rebalance.let_go(state, moves)
        self._server.carry_out(gone)
        return len(gone)

    async def _have_held(self, wanted: dict[str, list[list[Any]]]) -> None:
        """Have workers fetch results from those places, and keep them. One that is lost meanwhile is left out."""
        await asyncio.gather(
            *(self.ask_worker(name, "hold", results=results) for name, results in wanted.items()),
            return_exceptions=True,
        )

    async def _restart(self, peer: Peer, timeout: float | None = 30.0, wait: bool = True) -> int:
        """Forget all tasks and replace all worker processes; return how many workers there are then, or now."""
        old = self.names(None)
        if not self._server.replacing.can_replace(old):
            raise UserError("these workers can't be restarted: they are threads of a process that nobody watches")
        client_events.on_restarted(self._server.reactor)
        self._server.replacing.restarted = frozenset(old)
        self._server.replacing.replace(old, (), "the cluster was restarted")
        if not wait:
            return len(self.names(None))
        try:
            async with asyncio.timeout(timeout):
                while set(old) & set(self.names(None)) or len(self.names(None)) < len(old):
                    await self._server.wait_for_change()
        except TimeoutError:
            left = len(self.names(None))
            raise WaitTimeoutError(
                f"{left} of {len(old)} workers are there {timeout:g} s after a restart"
            ) from None
        return len(self.names(None))

    async def _room(self, peer: Peer, size: int) -> None:
        """Return when a client may send a value of so many bytes."""
        await self.room.ask(peer, size)

    def _backlog(self) -> int:
        """Return how many bytes wait here for workers."""
        peers = (self._server.worker_peer(name) for name in self._server.reactor.state.workers)
        return sum(backlog_of(peer) for peer in peers if peer is not None)

    # --- named things

    def _ask_named(
        self, peer: Peer, request: int, ticket: int, kind: str, do: str, name: str, how: dict[str, Any]
    ) -> None:
        """Note a question for a named thing; it is answered when its turn comes."""
        client = peer.hello.name
        self._tickets[client, ticket] = request
        try:
            self._named.on_asked(client, ticket, kind, do, name, **how)
        except Exception:
            self._tickets.pop((client, ticket), None)
            raise
        self._carry_out_named()

    def _named_withdrawn(self, peer: Peer, ticket: int) -> None:
        self._named.on_withdrawn(peer.hello.name, ticket)
        self._carry_out_named()

    def on_client_left(self, name: str) -> None:
        """A client's connection is over."""
        self._named.on_client_left(name)
        for ticket in [one for one in self._tickets if one[0] == name]:
            del self._tickets[ticket]
        self._carry_out_named()

    def _carry_out_named(self) -> None:
        reactor = self._server.reactor
        for command in self._named.take_commands():
            if type(command) is Answer:
                request = self._tickets.pop((command.client, command.ticket), None)
                peer = self._server.client_peer(command.client)
                if peer is not None and request is not None:
                    peer.comm.send(m.Reply(request, pack(command.value)))
            elif type(command) is Keep:
                references.keep(reactor, command.keys)
            elif type(command) is LetGo:
                references.let_go(reactor, command.keys)
            elif type(command) is HandOver:
                references.on_given(reactor, *command)
        self._server.schedule_round()

    # --- at once

    def _nthreads(self, peer: Peer, workers: list[str] | None = None) -> dict[str, int]:
        known = self._server.reactor.state.workers
        return {name: known[name].threads - len(known[name].seceded) for name in self.names(workers)}

    def _why(self, peer: Peer, key: str) -> str:
        """Return in words how a task stands; empty if it is not known."""
        return why(self._server.reactor.state, key, time.monotonic(), self._server.silence.reasons())

    def _who_has(self, peer: Peer, keys: list[str] | None = None) -> dict[str, list[str]]:
        tasks = self._server.reactor.state.tasks
        some = [key for key, task in tasks.items() if task.holders] if keys is None else keys
        return {key: [w.name for w in tasks[key].holders or ()] if key in tasks else [] for key in some}

    def _has_what(self, peer: Peer, workers: list[str] | None = None) -> dict[str, list[str]]:
        known = self._server.reactor.state.workers
        return {name: list(known[name].holds) for name in self.names(workers)}

    def _processing(self, peer: Peer, workers: list[str] | None = None) -> dict[str, list[str]]:
        known = self._server.reactor.state.workers
        return {name: list(known[name].assigned) for name in self.names(workers)}

    def _places(self, peer: Peer, sizes: list[int], workers: list[str] | None = None) -> list[tuple[str, int]]:
        """Say where values of these sizes are to be brought, and their orders; nowhere if there is no worker."""
        names = self.names(workers)
        if workers is not None and not names:
            raise UserError(f"there is no worker {', '.join(workers)} to keep this: scheduler_info() lists all")
        return places(self._server.reactor.state, sizes, names)

    def names(self, wished: list[str] | None) -> list[str]:
        """Return the workers that are there, or those that are meant by name, address, host or job."""
        known = self._server.reactor.state.workers
        if wished is None:
            return list(known)
        texts = [wished] if isinstance(wished, str) else wished
        meant = frozenset(text.rpartition("://")[2] for text in texts)
        return [name for name, worker in known.items() if is_named(worker, meant)]

    def _meant(self, wished: list[str] | None) -> list[str]:
        """Return the workers that are there, or those that are meant.

        :raises UserError: one of those that are named is not there.
        """
        texts = [wished] if isinstance(wished, str) else wished or []
        absent = [text for text in texts if not self.names([text])]
        if absent:
            raise UserError(f"there is no worker {', '.join(absent)}: scheduler_info() lists all")
        return self.names(wished)

    # --- workers

    async def ask_workers(
        self, names: Iterable[str], method: str, keys: dict[str, list[str]] | None = None, /, **params: Any
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

    async def ask_worker(self, name: str, method: str, /, **params: Any) -> Any:
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
        peer.comm.send(m.Request(number, method, pack(params)))
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
        self.setups.on_worker_gone(name)
        for asked, answer in self._asked.values():
            if asked == name and not answer.done():
                answer.set_exception(CommClosedError(f"worker {name} has gone before it answered: {reason}"))


def _call(call: Callable[..., Any], peer: Peer, params: dict[str, Any]) -> Any:
    try:
        bound = inspect.signature(call).bind(peer, **params)
    except TypeError as error:
        raise UserError(f"{error}. Are both sides one version?") from None
    return call(*bound.args, **bound.kwargs)
