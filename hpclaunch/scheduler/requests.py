"""What clients can ask of the scheduler itself: one table of methods that are answered at once, one of others.

A request of the first kind is answered in its order among the client's messages; one of the second kind waits for
workers. User data in requests and answers stays opaque. What is not in these tables goes to the head.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from hpclaunch.comm import messages as m
from hpclaunch.comm.messages import INLINE_BYTES
from hpclaunch.comm.reports import to_report
from hpclaunch.comm.texts import pack
from hpclaunch.errors import HandshakeError, HPCLaunchError, UserError
from hpclaunch.scheduler import client_events
from hpclaunch.scheduler.admission import Admission
from hpclaunch.scheduler.coordination_requests import CoordinationRequests
from hpclaunch.scheduler.eligibility import workers_named
from hpclaunch.scheduler.heartbeats import Heartbeats
from hpclaunch.scheduler.inspection import Inspection
from hpclaunch.scheduler.notices import Notices
from hpclaunch.scheduler.peers import Peer, Peers
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.replication import Replication
from hpclaunch.scheduler.restarts import Restarts
from hpclaunch.scheduler.scattered import assign_values
from hpclaunch.scheduler.setups import PLUGIN, SetUp, SetUps, plain
from hpclaunch.scheduler.worker_requests import WorkerRequests

log = logging.getLogger("hpclaunch.scheduler")

#: What a client inside a task may ask of the head, beside all that is in these tables.
TASKS_MAY_ASK = ("info", "wait_for_workers")

AskHead = Callable[[str, dict[str, Any]], Awaitable[Any]]


class Requests:
    """Answers clients' requests; see the module's text.

    :param schedule_tick: has a tick at the end of this turn of the loop.
    :param ask_head: answers what is not asked of the scheduler: (method, params) -> plain value; may raise.
    """

    def __init__(
        self,
        reactor: Reactor,
        peers: Peers,
        *,
        notices: Notices,
        heartbeats: Heartbeats,
        restarts: Restarts,
        schedule_tick: Callable[[], None],
        ask_head: AskHead | None,
    ) -> None:
        self._reactor = reactor
        self._state = reactor.state
        self._peers = peers
        self._schedule_tick = schedule_tick
        self._ask_head = ask_head
        self.workers = WorkerRequests(peers)
        self.setups = SetUps(reactor.state, peers, self.workers, notices, restarts, schedule_tick)
        self.admission = Admission(lambda: sum(peer.backlog_bytes for peer in peers.workers.values()))
        self.coordination = CoordinationRequests(reactor.lifecycle, peers, schedule_tick)
        self._replication = Replication(reactor.state, peers, self.workers)
        self._running_tasks: set[asyncio.Task[None]] = set()
        inspection = Inspection(reactor.state, heartbeats.silent)
        self._at_once: dict[str, Callable[..., Any]] = {
            "has_what": inspection.has_what,
            "nthreads": inspection.nthreads,
            "places": self._assign_values,
            "plugins": lambda: self.setups.names(PLUGIN),
            "processing": inspection.processing,
            "who_has": inspection.who_has,
            "why": inspection.why,
        }
        self._later: dict[str, Callable[..., Awaitable[Any]]] = {
            "cancel_unstarted": self._cancel_unstarted,
            "call_stack": self._call_stack,
            "rebalance": self._rebalance,
            "replicate": self._replicate,
            "restart": restarts.restart_all,
            "run": self._run,
            "running": self._running,
            "register_setup": self._register_setup,
            "unregister_setup": self.setups.unregister,
        }

    # --- clients

    def on_request(self, peer: Peer, message: m.Request) -> None:
        """A client asks for something: answer now or later."""
        try:
            if message.method == "named":
                self.coordination.ask(peer, message.request, **_params(message))
            elif message.method == "named_withdrawn":
                self.coordination.withdraw(peer, **_params(message))
                peer.comm.send(m.Reply(message.request, pack(None)))
            elif message.method in self._at_once:
                value = _call(self._at_once[message.method], _params(message))
                peer.comm.send(m.Reply(message.request, pack(value)))
            else:
                task = asyncio.get_running_loop().create_task(self._answer(peer, message))
                self._running_tasks.add(task)
                task.add_done_callback(self._running_tasks.discard)
        except Exception as error:  # of one request: what else this client says is still to be heard
            if not isinstance(error, HPCLaunchError):
                log.exception("request %s of %s failed", message.method, peer.hello.name)
            peer.comm.send(m.Reply(message.request, error=to_report(error)))

    async def _answer(self, peer: Peer, message: m.Request) -> None:
        """Answer one request; an error goes back to the client that asked."""
        try:
            value = await self._ask(peer, message.method, _params(message))
            reply = m.Reply(message.request, pack(value))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, HPCLaunchError | TimeoutError):
                log.exception("request %s failed", message.method)
            reply = m.Reply(message.request, error=to_report(error))
        if not peer.comm.is_closed:
            peer.comm.send(reply)

    async def _ask(self, peer: Peer, method: str, params: dict[str, Any]) -> Any:
        """Answer a request that has to wait, or pass it on to the head.

        :raises UserError: a task asks what only the cluster's owner may.
        """
        if method == "room":
            return await _call(lambda size: self.admission.admit(peer, size), params)
        call = self._later.get(method)
        if call is not None and not (method == "restart" and peer.hello.role == "task"):
            return await _call(call, params)
        if peer.hello.role == "task" and method not in TASKS_MAY_ASK:
            raise UserError(
                f"a task may use its cluster, not rule it: {method!r} can be asked by the cluster's owner only"
            )
        if self._ask_head is None:
            raise HandshakeError("this scheduler has no head to answer that")
        return await self._ask_head(method, params)

    def on_client_left(self, name: str) -> None:
        """A client's connection is over."""
        self.coordination.on_client_left(name)

    def on_worker_gone(self, name: str, reason: str) -> None:
        """A worker's connection is over."""
        self.setups.on_worker_gone(name)
        self.workers.on_worker_gone(name, reason)

    def close(self) -> None:
        """Answer no more of what waits."""
        for task in self._running_tasks:
            if task is not asyncio.current_task():
                task.cancel()

    # --- tasks

    async def _cancel_unstarted(self, keys: list[str]) -> list[str]:
        """Cancel those of some tasks that have not begun; return their keys."""
        reactor = self._reactor
        asked = client_events.on_unstarted_cancelled(reactor.lifecycle, keys)
        try:
            for name, returned in (await self.workers.ask_all(asked, "take_back", asked)).items():
                if not isinstance(returned, HPCLaunchError) and name in self._state.workers:
                    reactor.on_tasks_returned(name, returned)
        finally:
            cancelled = client_events.on_unstarted_settled(reactor.lifecycle, keys)
            self._schedule_tick()
        return cancelled

    async def _running(self, keys: list[str]) -> list[str]:
        """Return those of some tasks that run now."""
        tasks = self._state.tasks
        workers = {t.worker.name for key in keys if (t := tasks.get(key)) is not None and t.worker is not None}
        answers = (await self.workers.ask_all(workers, "running")).values()
        running = {key for answer in answers if isinstance(answer, list) for key in answer}
        return [key for key in keys if key in running]

    async def _call_stack(self, keys: list[str] | None = None) -> dict[str, Any]:
        answers = (await self.workers.ask_all(workers_named(self._state, None), "call_stack")).values()
        stacks = {key: stack for one in answers if isinstance(one, dict) for key, stack in one.items()}
        return stacks if keys is None else {key: stacks[key] for key in keys if key in stacks}

    # --- workers

    async def _run(
        self, function: bytes, args: bytes, workers: list[str] | None = None, wait: bool = True
    ) -> dict[str, Any]:
        """Run a function once on each of some workers, beside their tasks; return what each of them made of it.

        An answer is [True, a pickled value] or [False, a failure's kind, text, traceback and exception].
        """
        answers = self.workers.ask_all(self._named(workers), "run", function=function, args=args, wait=wait)
        return {name: plain(answer) for name, answer in (await answers).items()}

    async def _register_setup(self, kind: str, name: str, data: bytes, idempotent: bool = False) -> dict[str, Any]:
        return await self.setups.register(SetUp(kind, name, data), idempotent=idempotent)

    def _named(self, names: list[str] | None) -> list[str]:
        """Return all workers, or those that go by these names.

        :raises UserError: one of those that are named is not there.
        """
        texts = [names] if isinstance(names, str) else names or []
        missing = [text for text in texts if not workers_named(self._state, [text])]
        if missing:
            raise UserError(f"there is no worker {', '.join(missing)}: scheduler_info() lists all")
        return workers_named(self._state, names)

    # --- values and results

    def on_put(self, peer: Peer, message: m.Put, buffers: list[memoryview]) -> None:
        """Take a client's value: keep it if it is small, pass it on to a worker if it is large."""
        small = bytes(buffers[0]) if message.size <= INLINE_BYTES and len(buffers) == 1 else None
        if message.workers:  # by name, address, host or job
            message.workers = workers_named(self._state, message.workers) or message.workers
        taker = client_events.on_data_put(self._reactor.lifecycle, peer.hello.name, message, small)
        worker = self._peers.workers.get(taker or "")
        if worker is not None:
            worker.comm.send_buffers(m.Put(message.key, message.size), buffers)
        if small is None:
            self.admission.on_received(peer, message.size)

    async def _replicate(self, keys: list[str], n: int | None = None, workers: list[str] | None = None) -> None:
        await self._replication.replicate(keys, self._named(workers), n)

    async def _rebalance(self, keys: list[str] | None = None, workers: list[str] | None = None) -> int:
        return await self._replication.rebalance(self._named(workers), None if keys is None else set(keys))

    def _assign_values(self, sizes: list[int], workers: list[str] | None = None) -> list[tuple[str, int]]:
        """Say where values of these sizes are to be brought, and their orders; nowhere if there is no worker."""
        names = workers_named(self._state, workers)
        if workers is not None and not names:
            raise UserError(f"there is no worker {', '.join(workers)} to keep this: scheduler_info() lists all")
        return assign_values(self._state, sizes, names)


def _params(message: m.Request) -> dict[str, Any]:
    return msgspec.msgpack.decode(message.body, type=dict[str, Any])


def _call(call: Callable[..., Any], params: dict[str, Any]) -> Any:
    try:
        bound = inspect.signature(call).bind(**params)
    except TypeError as error:
        raise UserError(f"{error}. Are both sides one version?") from None
    return call(*bound.args, **bound.kwargs)
