"""The scheduler's shell: connections in and out of a Reactor, and the clock. No policy here.

Owns the connections of clients, workers, supervisors and peers of one cluster. Messages are applied as they come;
placement runs once per tick of the loop, after all of them. Nothing is unpickled here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hpclaunch.comm import messages as m
from hpclaunch.comm.framing import Frame
from hpclaunch.comm.roles import CLIENTS, named_workers, permitted
from hpclaunch.errors import HandshakeError, IllegalTransitionError, MemoryFullError
from hpclaunch.scheduler import client_events, heartbeats, memory_pressure, oversized, references, sizes, timeouts
from hpclaunch.scheduler.demand import Demand, Meter
from hpclaunch.scheduler.draining import wait_until_drained
from hpclaunch.scheduler.heartbeats import Heartbeats
from hpclaunch.scheduler.job_runs import JobRuns
from hpclaunch.scheduler.large_functions import forget_idle
from hpclaunch.scheduler.load import Load, WorkerInfo, infos_of, load_of, worker_of
from hpclaunch.scheduler.notices import Notices
from hpclaunch.scheduler.peers import Peer, Peers
from hpclaunch.scheduler.placement import place
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.relays import Relays
from hpclaunch.scheduler.requests import Requests
from hpclaunch.scheduler.restarts import Restarts
from hpclaunch.scheduler.restricted import complaints
from hpclaunch.scheduler.scattered import on_data_brought
from hpclaunch.scheduler.state import LOST, Worker
from hpclaunch.scheduler.ticks import Ticks

log = logging.getLogger("hpclaunch.scheduler")

#: Seconds that a supervisor has to say how its worker died, after the worker's connection broke.
BLAME_SECONDS = 1.0
TIMER_SECONDS = 0.1
#: What each role may say here.
PERMITTED = {role: permitted(role, "head") for role in (*CLIENTS, "worker", "supervisor")}


class SchedulerServer:
    """The embedded scheduler as a part of the head.

    :param on_worker_joined: called with the Hello of a worker that has come.
    :param on_worker_left: called with (job_id, worker name, how it ended).
    :param on_job_ends: called with (job_id, seconds left, the signal by which the batch system said so, or "").
    :param on_job_left: called with (job_id, why no more workers come; "": its supervisor's connection ended).
    :param on_client_left: called with the name of a client whose connection is over.
    :param coming: returns the memory limits, in bytes, of the workers that the cluster may yet start; 0 is none.
    :param on_request: answers control requests: (method, params) -> plain value; may raise.
    """

    def __init__(
        self,
        cluster_id: str,
        *,
        python_path: list[str] | None = None,
        allowed_failures: int = 3,
        on_worker_joined: Callable[[m.Hello], None] = lambda hello: None,
        on_worker_left: Callable[[str, str, str], None] = lambda job, worker, how: None,
        on_request: Callable[[str, dict[str, Any]], Awaitable[Any]] | None = None,
        on_client_left: Callable[[str], None] = lambda name: None,
        on_job_ends: Callable[[str, float, str], None] = lambda job, seconds, why: None,
        coming: Callable[[], Sequence[int]] = tuple,
        on_job_left: Callable[[str, str], None] = lambda job, reason: None,
    ) -> None:
        self.cluster_id = cluster_id
        self.python_path = python_path or []
        self.reactor = Reactor(allowed_failures=allowed_failures)
        self.peers = Peers()
        self._coming = coming
        self._on_worker_joined = on_worker_joined
        self._on_worker_left = on_worker_left
        self._on_client_left = on_client_left
        self._on_job_ends = on_job_ends
        self._on_job_left = on_job_left
        self._lost: dict[str, asyncio.TimerHandle] = {}  # workers whose end has not been explained yet
        self._job_runs = JobRuns()
        self._meter = Meter()
        self._stall_monitor = memory_pressure.StallMonitor()
        self._loop = asyncio.get_running_loop()
        self.ticks = Ticks(self._loop, self._tick)
        self.schedule_tick = self.ticks.schedule
        self.notices = Notices(self.peers)
        self.heartbeats = Heartbeats(self.peers)
        self.restarts = Restarts(self.reactor, self.peers)
        self.relays = Relays(self.peers.worker_at, self.reactor.state.size_of)
        self.requests = Requests(
            self.reactor,
            self.peers,
            notices=self.notices,
            heartbeats=self.heartbeats,
            restarts=self.restarts,
            schedule_tick=self.schedule_tick,
            ask_head=on_request,
        )
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(TIMER_SECONDS, self._on_timer)
        self._handlers = self._handlers_for_clients()
        self._worker_handlers = self._handlers_for_workers()

    def _handlers_for_clients(self) -> dict[type, Callable[[Peer, Any], None]]:
        life = self.reactor.lifecycle
        return {
            m.DefineFunction: lambda peer, msg: client_events.on_function_sent(life, peer.hello.name, msg),
            m.ForgetFunctions: lambda peer, msg: client_events.on_functions_forgotten(life, peer.hello.name, msg),
            m.SubmitTasks: self._on_submit,
            m.ReleaseKeys: lambda peer, msg: self.reactor.on_keys_released(peer.hello.name, msg.keys),
            m.CancelKeys: lambda peer, msg: self.restarts.on_cancel(msg),
            m.SeeThrough: lambda peer, msg: client_events.on_tasks_sent_off(life, msg.keys),
            m.RetryKeys: lambda peer, msg: client_events.on_tasks_retried(life, peer.hello.name, msg.keys),
            m.Taken: lambda peer, msg: references.on_taken(life, peer.hello.name, msg.ticket),
            m.ResultNames: lambda peer, msg: references.on_result_names(life, msg),
            m.Fence: lambda peer, msg: client_events.on_fence(life, peer.hello.name, msg.number),
            m.WantKeys: lambda peer, msg: client_events.on_keys_wanted(life, peer.hello.name, msg.keys),
            m.LocateKeys: lambda peer, msg: client_events.on_results_not_found(life, peer.hello.name, msg),
            m.Request: self.requests.on_request,
            m.Fetch: self.relays.fetch,
            m.ActorCall: self.relays.call,
        }

    def _handlers_for_workers(self) -> dict[type, Callable[[Peer, Any], None]]:
        return {
            m.TasksDone: lambda peer, msg: self.reactor.on_tasks_done(peer.hello.name, msg, time.monotonic()),
            m.Brought: lambda peer, msg: on_data_brought(self.reactor.lifecycle, peer.hello.name, msg),
            m.TasksStored: lambda peer, msg: self.reactor.on_tasks_stored(peer.hello.name, msg, time.monotonic()),
            m.TasksFailed: lambda peer, msg: self.reactor.on_tasks_failed(peer.hello.name, msg, time.monotonic()),
            m.TasksReturned: lambda peer, msg: self.reactor.on_tasks_returned(peer.hello.name, msg.keys),
            m.CopiesHeld: lambda peer, msg: self.reactor.on_copies_held(peer.hello.name, msg),
            m.InputMissing: lambda peer, msg: self.reactor.on_input_missing(peer.hello.name, msg),
            m.WorkerPaused: self._on_worker_paused,
            m.TaskSeceded: lambda peer, msg: client_events.on_task_seceded(
                self.reactor.lifecycle, peer.hello.name, msg
            ),
            m.TaskBegun: lambda peer, msg: timeouts.on_task_begun(
                self.reactor.lifecycle, peer.hello.name, msg.key, time.monotonic()
            ),
            m.Reply: lambda peer, msg: self.requests.workers.on_reply(msg),
        }

    # --- connections

    def on_peer(self, comm: Any, hello: m.Hello) -> m.Welcome:
        """Take a connection whose peer has shown who it is; for :class:`hpclaunch.comm.listener.Listener`.

        :raises HandshakeError: it may not come in: its name is taken, or its job is to end.
        """
        peer = Peer(comm, hello, time.monotonic())
        roles = {"worker": self._join_worker, "supervisor": self._join_supervisor}
        roles |= dict.fromkeys(CLIENTS, self._join_client)
        join = roles.get(hello.role)
        if join is None:
            raise HandshakeError(f"the head has no use for a {hello.role}")
        join(peer)
        comm.on_frames = lambda _, frames: self._on_frames(peer, frames)
        comm.on_lost = lambda _, reason: self._on_lost(peer, reason)
        self.schedule_tick()
        return m.Welcome(
            m.PROTOCOL_VERSION,
            self.cluster_id,
            python_path=list(map(os.fsencode, self.python_path)),
            heartbeat_seconds=heartbeats.HEARTBEAT_SECONDS,
        )

    def _join_client(self, peer: Peer) -> None:
        if peer.hello.name in self.peers.clients:
            raise HandshakeError(f"a client named {peer.hello.name} is connected already")
        self.peers.clients[peer.hello.name] = peer
        self.reactor.on_client_joined(peer.hello.name)
        self._loop.call_soon(self.notices.greet, peer)  # behind the welcome

    def _join_worker(self, peer: Peer) -> None:
        hello = peer.hello
        if hello.job_id in self.peers.stopping:
            raise HandshakeError(f"job {hello.job_id} is to end: {self.peers.stopping[hello.job_id]}")
        if hello.name in self.peers.workers:
            raise HandshakeError(f"a worker named {hello.name} is connected already")
        self._explain_loss(hello.name, None, "its process was replaced", "worker")
        self.peers.workers[hello.name] = peer
        now = time.monotonic()
        worker = worker_of(hello, now)
        self.requests.setups.on_worker_joining(worker)
        self.reactor.on_worker_joined(worker, now)
        log.info("worker %s on %s joined at %s", hello.name, hello.host, hello.head_address)
        if not worker.refuses:
            self.notices.forgive()
        self._on_worker_joined(hello)
        if hello.seconds_left > 0:
            self._on_job_ends(hello.job_id, hello.seconds_left, "")
        self.peers.note_change()

    def _join_supervisor(self, peer: Peer) -> None:
        job_id = peer.hello.job_id
        if job_id in self.peers.stopping:
            raise HandshakeError(f"job {job_id} is to end: {self.peers.stopping[job_id]}")
        if host := self._job_runs.newer(peer.hello):
            raise HandshakeError(f"job {job_id} was put back, and runs again on {host}")
        old = self.peers.supervisors.pop(job_id, None)
        if self._job_runs.take(peer.hello):
            self._end_older_run(job_id, old, f"job {job_id} was put back, and runs again on {peer.hello.host}")
        elif old is not None:
            old.comm.close("another connection of this supervisor has come")
        self.peers.supervisors[job_id] = peer

    def _end_older_run(self, job_id: str, supervisor: Peer | None, reason: str) -> None:
        """A new run of a job has come, and the one before may not have been ended."""
        if supervisor is not None:
            supervisor.comm.send(m.StopWorkers(reason))
        for worker in self._workers_of(job_id):
            peer = self.peers.workers.pop(worker.name)
            peer.comm.close(reason)
            self.requests.on_worker_gone(worker.name, reason)
            self.relays.lose(peer)
            self._lose(worker.name, job_id, None, f"worker {worker.name} (on {worker.host}): {reason}", "none")

    def _on_frames(self, peer: Peer, frames: list[Frame]) -> None:
        peer.last_seen = time.monotonic()
        role = peer.hello.role
        for messages, buffers in frames:
            for message in messages:
                try:
                    if not self._may_say(peer, message):
                        continue
                    if role == "worker":
                        self._from_worker(peer, message, buffers)
                    elif role in CLIENTS:
                        self._from_client(peer, message, buffers)
                    else:
                        self._from_supervisor(peer, message)
                except IllegalTransitionError:  # the rest of what it says is still to be heard
                    log.exception("a rule of the scheduler was broken by a message of %s", peer.hello.name)
                except Exception:  # no peer may harm the others
                    log.exception("%s %s sent what cannot be", role, peer.hello.name)
                    peer.comm.close(f"a {type(message).__name__} that cannot be")
                    self.schedule_tick()
                    return
        self.schedule_tick()

    def _may_say(self, peer: Peer, message: m.Message) -> bool:
        """Say whether that is for a peer to say, of its own job if it is about workers; else tell the log once."""
        kind, hello, trouble = type(message), peer.hello, ""
        if kind not in PERMITTED[hello.role]:
            trouble = "its role may not say that"
        elif hello.role == "supervisor":
            known = self.reactor.state.workers
            others = [n for n in named_workers(message) if n in known and known[n].job_id != hello.job_id]
            trouble = f"worker {others[0]} is of another job" if others else ""
        if trouble and kind not in peer.refused:
            peer.refused.add(kind)
            log.warning("a %s of %s %s is ignored: %s", kind.__name__, hello.role, hello.name, trouble)
        return not trouble

    def _from_client(self, peer: Peer, message: m.Message, buffers: list[memoryview]) -> None:
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(peer, message)
        elif type(message) is m.Put:
            self.requests.on_put(peer, message, buffers)

    def _from_worker(self, peer: Peer, message: m.Message, buffers: list[memoryview]) -> None:
        if peer.hello.name not in self.reactor.state.workers:
            return  # late words of a worker that was given up
        handler = self._worker_handlers.get(type(message))
        if handler is not None:
            handler(peer, message)
        elif type(message) is m.Data or type(message) is m.ActorReply:
            self.relays.answer(peer, message, buffers)
        elif type(message) is m.Fetch:
            self.relays.fetch(peer, message)
        elif type(message) is m.Goodbye:
            self.peers.stopping.setdefault(peer.hello.job_id, message.reason) if message.final else None

    def _from_supervisor(self, peer: Peer, message: m.Message) -> None:
        if self.peers.supervisors.get(peer.hello.job_id) is not peer:
            return  # of a run of its job that is over
        if type(message) is m.Heartbeat:
            peer.vitals = {v.name: v for v in message.workers}
            self.heartbeats.on_heartbeat(peer)
            peer.comm.send(m.Heartbeat())
        elif type(message) is m.WorkerDied:
            self._on_worker_died(peer, message)
        elif type(message) is m.JobEnding:
            self._on_job_ends(peer.hello.job_id, 0.0, message.signal)
        elif type(message) is m.Goodbye:
            self._on_job_left(peer.hello.job_id, self.peers.stopping.setdefault(peer.hello.job_id, message.reason))

    # --- messages

    def _on_submit(self, peer: Peer, message: m.SubmitTasks) -> None:
        if message.function not in self.reactor.state.functions:
            peer.comm.close("tasks of a function that was not defined")
            return
        self.reactor.on_tasks_submitted(peer.hello.name, message)

    def _on_worker_paused(self, peer: Peer, message: m.WorkerPaused) -> None:
        memory_pressure.on_worker_paused(self.reactor.state, peer.hello.name, message)
        self._stall_monitor.on_paused(peer.hello.name, message)
        doing = "pauses" if message.paused else "takes tasks again"
        log.warning("worker %s %s: %s", peer.hello.name, doing, message.why)

    # --- ends

    def _on_lost(self, peer: Peer, reason: str) -> None:
        hello = peer.hello
        if hello.role in CLIENTS and self.peers.clients.get(hello.name) is peer:
            del self.peers.clients[hello.name]
            self.reactor.on_client_left(hello.name)
            self.requests.on_client_left(hello.name)
            self._on_client_left(hello.name)
        elif hello.role == "worker" and self.peers.workers.get(hello.name) is peer:
            del self.peers.workers[hello.name]
            self.requests.on_worker_gone(hello.name, reason)
            self._worker_gone(peer, reason)
        elif hello.role == "supervisor" and self.peers.supervisors.get(hello.job_id) is peer:
            del self.peers.supervisors[hello.job_id]
            self._on_job_left(hello.job_id, "")
        self.schedule_tick()

    def _worker_gone(self, peer: Peer, reason: str) -> None:
        """A worker's connection is over. Its supervisor may say more; wait for that a moment."""
        name, job_id = peer.hello.name, peer.hello.job_id
        self.relays.lose(peer)
        self.reactor.state.workers[name].refuses |= LOST
        self.reactor.state.index(self.reactor.state.workers[name])
        if job_id in self.peers.stopping:
            self._lose(name, job_id, None, self.peers.stopping[job_id], "none")
            return
        how = f"worker {name} (job {job_id}, host {peer.hello.host}) was lost with its job: {reason}"
        self._lost[name] = self._loop.call_later(BLAME_SECONDS, self._explain_loss, name, None, how, "job")

    def _on_worker_died(self, peer: Peer, message: m.WorkerDied) -> None:
        how = f"{message.detail} (worker {message.name}, job {peer.hello.job_id}, host {peer.hello.host})"
        log.warning("%s", how)
        by = "others" if message.is_by_others else "worker"
        blame = "none" if peer.hello.job_id in self.peers.stopping else by
        whole = "\n".join(text for text in (how, message.log, message.advice) if text)
        guilty = [*message.running, *sizes.much_of(self.reactor.state, message.name, message.receiving)]
        old = self.peers.workers.pop(message.name, None)
        if old is not None:
            old.comm.close("its process has ended")
            self.requests.on_worker_gone(message.name, how)
            self.relays.lose(old)
            self._lose(message.name, peer.hello.job_id, guilty, whole, blame)
        else:
            self._explain_loss(message.name, guilty, whole, blame)

    def _explain_loss(self, name: str, running: list[str] | None, how: str, blame: str) -> None:
        """Carry out the loss of a worker whose connection broke a moment ago."""
        timer = self._lost.pop(name, None)
        if timer is not None:
            timer.cancel()
            worker = self.reactor.state.workers[name]
            if blame == "job" and worker.job_id in self.peers.stopping:
                blame, how = "none", self.peers.stopping[worker.job_id]
            self._lose(name, worker.job_id, running, how, blame)

    def _lose(self, name: str, job_id: str, running: list[str] | None, how: str, blame: str) -> None:
        if name in self.reactor.state.workers:
            self.reactor.on_worker_lost(name, running=running, how=how, blame=blame, now=time.monotonic())
        how = how.partition("\n")[0]  # without what it printed
        log.info("worker %s left: %s", name, how)
        self._on_worker_left(job_id, name, how)
        self.peers.note_change()
        self.schedule_tick()

    # --- ticks

    def _tick(self) -> None:
        """Send what there is to say, and place what is ready.

        In this order: a result must be freed before its task is sent to the same worker again.
        """
        state = self.reactor.state
        commands = self.reactor.take_commands()
        if (state.ready.count or state.restricted) and (state.idle or state.open):
            commands += place(state, time.monotonic())
            texts = complaints(state) if state.overlong else []
            if state.oversized:
                texts += oversized.refuse(self.reactor.lifecycle, self._coming())
                commands += self.reactor.take_commands()
            for text in texts:
                self.notices.warn(text)
        if commands:
            self.peers.send(commands)
            self.ticks.stay_awake(state)

    def _on_timer(self) -> None:
        now = time.monotonic()
        self.reactor.on_timer(now)
        self.peers.send(forget_idle(self.reactor.state, now))
        if complaint := self._stall_monitor.warning(self.reactor.state, now):
            self.notices.complain(MemoryFullError(complaint))
        self.restarts.on_timer()
        self.relays.on_timer()
        self.requests.admission.serve()
        self.schedule_tick()
        self.heartbeats.on_timer(now)
        self._timer = self._loop.call_later(TIMER_SECONDS, self._on_timer)

    # --- for the head

    def load(self) -> Load:
        """Say how much there is to do."""
        return load_of(self.reactor.state)

    def demand(self) -> Demand:
        """Say how much work there is and of what kind, for adaptive scaling."""
        return self._meter.measure(self.reactor.state, time.monotonic())

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that are connected now."""
        vitals = {
            name: of for supervisor in self.peers.supervisors.values() for name, of in supervisor.vitals.items()
        }
        return infos_of(self.peers.workers.values(), self.reactor.state, vitals, time.monotonic())

    async def wait_for_change(self) -> None:
        """Return when a worker has joined or left."""
        await self.peers.wait_for_change()

    async def retire_job(
        self, job_id: str, *, drain: bool, reason: str, timeout: float = 10.0, patience: float = 5.0
    ) -> None:
        """Make a job's workers end. Wait up to ``timeout`` seconds.

        :param drain: first let them finish what they run, and move what only they hold to others.
        :param patience: seconds to wait for a worker that can take that; without, it is made again when needed.
        """
        self.peers.stopping[job_id] = reason
        until = time.monotonic() + timeout
        for worker in self._workers_of(job_id):
            self.reactor.on_worker_draining(worker.name)
        self.schedule_tick()
        if drain:
            await wait_until_drained(
                self.reactor.state,
                lambda: self._workers_of(job_id),
                self.peers.send,
                until=until,
                patient_until=time.monotonic() + patience,
            )
        message = m.StopWorkers(reason, drain=drain)
        for worker in self._workers_of(job_id):
            self.peers.workers[worker.name].comm.send(message)
        supervisor = self.peers.supervisors.get(job_id)
        if supervisor is not None:
            supervisor.comm.send(message)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(1.0, until - time.monotonic())):
                while any(p.hello.job_id == job_id for p in self.peers.workers.values()):
                    await self.peers.wait_for_change()

    def _workers_of(self, job_id: str) -> list[Worker]:
        workers = self.reactor.state.workers
        return [w for w in workers.values() if w.job_id == job_id and w.name in self.peers.workers]

    def stop_jobs(self, reason: str) -> None:
        """Have all workers end at once, and no more come."""
        for job_id, supervisor in self.peers.supervisors.items():
            self.peers.stopping[job_id] = reason
            supervisor.comm.send(m.StopWorkers(reason))

    async def close(self, reason: str) -> None:
        """Tell every peer to end, and close all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for timer in self._lost.values():
            timer.cancel()
        self._lost.clear()
        for peer in self.peers.supervisors.values():
            self.peers.stopping[peer.hello.job_id] = reason
            peer.comm.send(m.StopWorkers(reason))
        for peer in [*self.peers.workers.values(), *self.peers.clients.values()]:
            peer.comm.send(m.Goodbye(reason))
        for peer in [*self.peers.supervisors.values(), *self.peers.workers.values(), *self.peers.clients.values()]:
            peer.comm.close(reason)
        self.requests.close()
