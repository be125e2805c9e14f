"""A worker's shell: its connections to the head and to those who want its results, around a WorkerReactor.

Everything here runs on the worker's event loop; tasks run in the Executor's threads. A worker ends when the head
tells it to, or when the connection to the head is over: what it was doing is then given to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpclaunch.comm import messages as m
from hpclaunch.comm.bulk import BulkServer
from hpclaunch.comm.connection import Comm, Connection, dial
from hpclaunch.comm.fetch import Fetcher, InFile, answer_fetch
from hpclaunch.comm.framing import LIMIT_PEER, Frame
from hpclaunch.comm.listener import Listener
from hpclaunch.comm.roles import permitted
from hpclaunch.comm.serialize import Payload
from hpclaunch.comm.sharing import LEAST_BYTES, Shared, node_id, open_shared, share
from hpclaunch.tasks.actor import NewActor
from hpclaunch.tasks.context import WorkerFacts
from hpclaunch.worker.actors import Actors
from hpclaunch.worker.arrivals import Arrivals, shared_bytes
from hpclaunch.worker.callee import Callee
from hpclaunch.worker.commands import Command, DeleteFile, Execute, FetchInput, TakeBack, ToHead, WriteResult
from hpclaunch.worker.executor import UNWANTED, Executor, Outcome, UnreadableInput
from hpclaunch.worker.memory import limits_of
from hpclaunch.worker.questions import WorkerQuestions
from hpclaunch.worker.reactor import WorkerReactor
from hpclaunch.worker.spill import new_directory, uploads_directory
from hpclaunch.worker.state import Version
from hpclaunch.worker.storage import Storage

if TYPE_CHECKING:
    from hpclaunch.client.client import Client

log = logging.getLogger("hpclaunch.worker")

#: Inputs that are fetched at the same time; more would only share the network, and fill the memory.
_FETCHES = 16
_FROM_PEERS = permitted("peer", "worker")
#: Seconds between two looks at whether a draining worker has nothing left to do.
_DRAIN_SECONDS = 0.02
#: Seconds that a task with a time limit waits at most for the head to be told that it begins.
_TELL_SECONDS = 1.0


class WorkerServer:
    """One worker.

    :param hello: who this worker is: name, job, threads, memory limit.
    :param listen_context: TLS context for those who fetch results; None without TLS.
    :param dial_context: TLS context for dialling the head and other workers.
    :param slots: see :class:`~hpclaunch.worker.executor.Executor`.
    :param memory: fractions of its memory at which something is done; see
        :func:`hpclaunch.worker.memory.limits_of`.
    :param facts: what clients in its tasks are told of the cluster.
    :param spill_directory: where results go on disk.
    :param on_no_memory: called in any thread when this worker can't go on for want of memory; it ends the process.
    :param door: what a Client in one of its tasks takes for the cluster; None: one that dials the head.
    """

    def __init__(
        self,
        hello: m.Hello,
        *,
        listen_context: ssl.SSLContext | None = None,
        dial_context: ssl.SSLContext | None = None,
        slots: mmap.mmap | None = None,
        memory: Mapping[str, Any] | None = None,
        spill_directory: Path | None = None,
        on_no_memory: Callable[[], None] | None = None,
        door: Any = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._facts = facts
        self._door, self._on_no_memory = door, on_no_memory
        self.hello = hello
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._listen_context, self._dial_context = listen_context, dial_context
        self._slots: Any = slots if slots is not None else bytearray(shared_bytes(hello.threads))
        self._arrivals = Arrivals(self._slots, hello.threads)
        self._fetching: dict[Version, None] = {}  # inputs that are being fetched
        self._loop = asyncio.get_running_loop()
        scratch_directory = spill_directory or new_directory()
        self._upload_directory = uploads_directory(scratch_directory)
        limits = limits_of(hello.memory_limit, (memory or {}) if spill_directory is not None else {})
        self._reactor = WorkerReactor(limits)
        self._storage = Storage(
            self._reactor,
            scratch_directory,
            carry_out=self._carry_out,
            is_idle=lambda: self._executor is None or self._executor.is_idle,
            on_hopeless=self._on_hopeless,
        )
        self._executor: Executor | None = None
        self._questions: WorkerQuestions | None = None
        self._actors: Actors | None = None
        self._head: Comm | None = None
        self._unsent: list[m.Message] = []  # answers to what came right behind the welcome
        self._listener: Listener | None = None
        self._bulk = BulkServer(hello.name, hello.cluster_id, listen_context)
        self.has_lost_head = False
        self.is_worn_out = False  # it ends so that a new process takes its place
        self._draining = ""
        self._timed: set[str] = set()  # tasks that have not begun, and whose beginning the head wants to know
        self._fetches: set[asyncio.Task[None]] = set()
        self._may_fetch = asyncio.Semaphore(_FETCHES)
        peer = m.Hello(m.PROTOCOL_VERSION, "peer", hello.name, hello.cluster_id, host=hello.host, pid=hello.pid)
        self._fetcher = Fetcher(peer, dial_context, lambda: self._head)
        self._handlers = self._handlers_for_head()

    def _handlers_for_head(self) -> dict[type, Callable[[Any], None]]:
        return {
            m.DefineFunction: self._on_function,
            m.ForgetFunctions: self._reactor.on_functions_forgotten,
            m.RunTasks: self._on_tasks_sent,
            m.RunTask: self._on_task_sent,
            m.ExpectTask: self._on_expected,
            m.SayWhenBegun: lambda msg: self._timed.update(msg.keys),
            m.RecallTasks: lambda msg: self._reactor.on_recall(msg.count),
            m.DropTasks: lambda msg: self._reactor.on_drop(msg.keys),
            m.KeepCopies: self._reactor.on_copies_wanted,
            m.FreeResults: self._on_freed,
            m.ActorCall: lambda msg: self._call_actor(self._head, msg),
            m.SendAnswer: lambda msg: self._actors.send_answer(msg) if self._actors is not None else None,
            m.Fetch: lambda msg: answer_fetch(self._head, msg, self._stored),  # type: ignore[arg-type]
            m.Goodbye: lambda msg: self.end(msg.reason),
            m.StopWorkers: self._on_stop,
            m.Request: self._on_request,
        }

    # --- beginning and end

    async def join(self, address: str, listen_host: str) -> None:
        """Listen for those who want results, then join the head at ``address``.

        :raises PeerError: the head is not there, or would not have us.
        """
        self._listener = Listener(self.hello.cluster_id, self._listen_context, self._on_peer)
        await self._listener.start([listen_host])
        self._bulk.listen(listen_host)
        host = f"[{listen_host}]" if ":" in listen_host else listen_host
        self.hello.addresses = [f"{host}:{self._listener.port}"]
        connection, welcome = await dial(
            address, self.hello, self._dial_context, self._on_frames, self._on_head_lost
        )
        self._begin(connection, welcome)

    def attach(self, comm: Any, welcome: m.Welcome) -> None:
        """Use a connection to a head in this very process."""
        comm.on_frames = self._on_frames
        comm.on_lost = self._on_head_lost
        self._begin(comm, welcome)

    def _begin(self, comm: Comm, welcome: m.Welcome) -> None:
        for path in map(os.fsdecode, welcome.python_path):
            if path not in sys.path:
                sys.path.append(path)
        self._head = comm
        for message in self._unsent:
            comm.send(message)
        self._unsent.clear()
        self._executor = Executor(
            self.hello.threads,
            self._announce,
            inline_limit=welcome.inline_limit,
            slots=self._slots,
            facts=WorkerFacts(
                self.hello.name,
                self.hello.job_id,
                self.hello.host,
                self.hello.threads,
                self.hello.memory_limit,
                self.hello.addresses[0] if self.hello.addresses else "",
            ),
            on_seceded=self._on_seceded,
            timed=self._timed,
            on_begun=self._on_begun,
            make_client=self._make_client,
            on_no_memory=self._on_no_memory,
            wait_for_room=self._storage.wait_for_room,
        )
        self._questions = WorkerQuestions(self, self._executor, self._upload_directory)
        place = self.hello.addresses[0] if self.hello.addresses else f"worker:{self.hello.name}"
        self._actors = Actors(self.hello.name, place, self._executor, lambda: self._head)
        self._storage.start()
        self._carry_out()  # what came right behind the welcome

    def end(self, reason: str) -> None:
        """End this worker: tasks that run are left to themselves."""
        if not self.ended.done():
            self.ended.set_result(reason)
        if self._executor is not None:
            self._executor.stop()
        if self._actors is not None:
            self._actors.close()
        if self._head is not None and not self._head.is_closed:
            self._head.close(reason)
        self._fetcher.close()
        self._bulk.close()
        if self._questions is not None:
            self._questions.close()

    async def close(self) -> None:
        """As :meth:`end`, and stop listening."""
        self.end("closed")
        if self._questions is not None:
            await self._questions.have_closed()
        self._storage.close()
        if self._listener is not None:
            await self._listener.close()

    def drain(self, reason: str) -> None:
        """End once the tasks that run now have ended and been reported."""
        if self._executor is None:  # told so right behind the welcome
            self.end(reason)
            return
        if self._draining:
            return
        self._draining = reason
        self._reactor.on_recall(1 << 30)
        self._carry_out()
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        """End, or look again soon: the thread of the last task may be busy a little longer than its outcome."""
        assert self._executor is not None
        if self.ended.done():
            return
        if self._executor.is_idle:
            self.end(self._draining)
        else:
            self._loop.call_later(_DRAIN_SECONDS, self._end_if_drained)

    # --- messages

    def _on_frames(self, connection: Any, frames: list[Frame]) -> None:
        for messages, buffers in frames:
            for message in messages:
                handler = self._handlers.get(type(message))
                if handler is not None:
                    handler(message)
                elif type(message) is m.Data:
                    self._fetcher.on_data(message, buffers)
                elif type(message) is m.Put:
                    self._reactor.on_result_stored(message.key, Payload(buffers[0], list(buffers[1:])))
                    self._send(m.TasksStored([message.key], [message.size], [0.0]))
                else:
                    log.warning("the head sent an unexpected %s", type(message).__name__)
        if self._executor is not None:
            self._carry_out()

    def _on_function(self, message: m.DefineFunction) -> None:
        size = message.size
        self._reactor.on_function_defined(message.function, Callee(message), size)

    def _on_expected(self, message: m.ExpectTask) -> None:
        self._reactor.state.expected.add(message.key)
        self._show_arrivals()

    def _on_tasks_sent(self, message: m.RunTasks) -> None:
        expected = self._reactor.state.expected
        self._reactor.on_tasks_sent(message)
        if expected:
            self._on_come(message.keys)

    def _on_task_sent(self, message: m.RunTask) -> None:
        self._reactor.on_task_sent(message)
        if self._reactor.state.expected:
            self._on_come([message.key])

    def _on_come(self, keys: Sequence[str]) -> None:
        """Tasks have come, and among them perhaps some that were expected."""
        self._reactor.state.expected.difference_update(keys)
        self._show_arrivals()

    def _show_arrivals(self) -> None:
        """Note for the supervisor which tasks this worker receives something for."""
        state = self._reactor.state
        waiting = (state.waiting_for.get(version, ()) for version in self._fetching)
        self._arrivals.show(chain(state.expected, (task.key for tasks in waiting for task in tasks)))

    def _on_stop(self, message: m.StopWorkers) -> None:
        if message.drain:
            self.drain(message.reason)
        else:
            self.end(message.reason)

    def _on_head_lost(self, connection: Any, reason: str) -> None:
        self._fetcher.on_head_lost(reason)
        self.has_lost_head = not self.ended.done()
        self.end(f"the connection to the head is over: {reason}")

    def _on_peer(self, connection: Connection, hello: m.Hello) -> m.Welcome:
        """Take a client or worker that wants results."""
        connection.on_frames = partial(self._on_peer_frames, hello)
        connection.on_lost = lambda *_: None
        return m.Welcome(m.PROTOCOL_VERSION, self.hello.name)

    def _on_peer_frames(self, hello: m.Hello, connection: Connection, frames: list[Frame]) -> None:
        for messages, _ in frames:
            for message in messages:
                if type(message) not in _FROM_PEERS:
                    log.warning("%s sent a %s, which is not for a worker", hello.name, type(message).__name__)
                elif type(message) is m.Fetch:
                    answer_fetch(connection, message, self._stored, self._shared, self._bulk.offer)
                elif type(message) is m.ActorCall:
                    self._call_actor(connection, message)
                elif type(message) is m.Bring:
                    connection.send(self._answer_bringer(message, hello.name))

    def _answer_bringer(self, message: m.Bring, client: str) -> m.Data:
        """Say how a client's value comes here, or take it."""
        lengths = message.lengths
        is_sound = bool(lengths) and min(lengths) >= 0 and sum(lengths) <= LIMIT_PEER
        if (
            not is_sound
            or message.key in self._reactor.state.store
            or self._draining
            or self.ended.done()
            or self._reactor.state.ledger.paused
        ):
            return m.Data(message.request, message.key, -1)
        if message.node and message.node == node_id():
            if not message.place:
                return m.Data(message.request, message.key, 0, "share")
            with contextlib.suppress(OSError):  # then it is sent
                value = open_shared(message.place, message.inode, lengths)
                return m.Data(message.request, message.key, 0 if self._keep(message, client, value) else -1)
        offer = self._bulk.expect(lengths, partial(self._keep, message, client))
        if offer is None:
            return m.Data(message.request, message.key, -1)
        return m.Data(message.request, message.key, 0, offer.place)

    def _keep(self, message: m.Bring, client: str, value: Payload | Shared) -> bool:
        """Keep what a client has brought, and tell the head; False: another value of that key is here."""
        is_kept = self._reactor.on_value_brought(message.key, message.order, value, client)
        self._carry_out()
        return is_kept

    def _call_actor(self, comm: Any, message: m.ActorCall) -> None:
        if self._actors is not None:
            self._actors.call(comm, message)

    def _on_freed(self, message: m.FreeResults) -> None:
        self._reactor.on_results_freed(message)
        if self._actors is not None:
            self._actors.drop(message.keys)

    def _stored(self, key: str) -> Payload | None:
        """Return a result for a peer that asks for it; None if it is not here."""
        stored = self._reactor.state.store.get(key)
        if stored is None or isinstance(stored, Payload):
            self._reactor.state.ledger.use(key)
            return stored
        try:
            payload: Payload = stored.read()
            return payload
        except OSError as error:
            self._on_unreadable(key, stored, error)
            return None

    def _shared(self, key: str) -> InFile | None:
        """Return a large result as a file, for a process of this host; None if it is better sent.

        :raises OSError: it can't be had so.
        """
        stored = self._reactor.state.store.get(key)
        if isinstance(stored, Payload):
            if stored.size < LEAST_BYTES or key in self._reactor.state.ledger.writing.sizes:
                return None
            stored = self._reactor.on_result_shared(key, share(stored))
        file: InFile | None = stored
        return file

    def _on_unreadable(self, key: str, file: Any, error: OSError) -> None:
        log.warning("the result of task %s can't be read back: %s", key, error)
        self._reactor.on_result_unreadable(key, file)

    def _on_hopeless(self, why: str) -> None:
        self.is_worn_out = True
        self.end(why)

    # --- commands

    def _carry_out(self) -> None:
        for command in self._reactor.take_commands():
            self._do(command)

    def _do(self, command: Command) -> None:
        assert self._executor is not None
        if type(command) is Execute:
            self._executor.put(command.function, command.keys, command.args, command.inputs)
        elif type(command) is ToHead:
            self._send(command.message)
        elif type(command) is TakeBack:
            self._send(m.TasksReturned(self._executor.take_back(command.most, command.keys)))
        elif type(command) is FetchInput:
            task = self._loop.create_task(self._fetch(command))
            self._fetches.add(task)
            task.add_done_callback(self._fetches.discard)
        elif type(command) is WriteResult or type(command) is DeleteFile:
            self._storage.do(command)

    async def _fetch(self, command: FetchInput) -> None:
        version = command.key, command.order
        try:
            async with self._may_fetch:
                self._fetching[version] = None
                self._show_arrivals()
                payload = await self._fetcher.fetch_shared(command.holders, command.key)
        except MemoryError:  # the task that asked for it is noted as the reason
            log.exception("there is no memory for %s", command.key)
            if self._on_no_memory is not None:
                self._on_no_memory()
            payload = None
        except Exception:  # whatever it is, the tasks that wait for it must be answered
            log.exception("fetching %s failed", command.key)
            payload = None
        self._fetching.pop(version, None)
        if payload is not None:
            self._reactor.on_input_arrived(command.key, command.order, payload)
        else:
            self._reactor.on_input_missing(command.key, command.order, command.holders)
        self._show_arrivals()
        self._carry_out()

    def _send(self, message: m.Message) -> None:
        if self._timed and type(message) is m.TasksReturned:
            self._timed.difference_update(message.keys)
        elif self._timed and type(message) is m.InputMissing:
            self._timed.discard(message.key)
        if self._head is None:
            self._unsent.append(message)
        elif not self._head.is_closed:
            self._head.send(message)

    # --- tasks with a time limit, and tasks that are clients

    def _on_begun(self, key: str) -> None:
        """Called in an execution thread: tell the head, and wait until that is done.

        Otherwise a task that holds the interpreter from its first moment on would keep it from being told.
        """
        told = threading.Event()

        def tell() -> None:
            self._send(m.TaskBegun(key))
            if self._head is not None:
                self._head.flush()
            told.set()

        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(tell)
            told.wait(_TELL_SECONDS)

    def _on_seceded(self, key: str, away: bool) -> None:
        """Called in an execution thread."""
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._send, m.TaskSeceded(key, away))

    def _make_client(self) -> Client:
        """Called in an execution thread: make the client that this worker's tasks share."""
        from hpclaunch.client.client import Client

        if self._door is None:
            from hpclaunch.worker.door import WorkerDoor

            self._door = WorkerDoor(self.hello, self._dial_context, self._facts)
        return Client(self._door, name=f"{self.hello.name}-task", set_as_default=False)

    # --- questions

    def _on_request(self, message: m.Request) -> None:
        if self._questions is None:  # it came right behind the welcome
            self._loop.call_soon(self._on_request, message)
            return
        self._carry_out()  # what came before it in the same frame
        reply = self._questions.take(message)
        if reply is not None:
            self._send(reply)
            return
        task = self._loop.create_task(self._answer(message))
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)

    async def _answer(self, message: m.Request) -> None:
        assert self._questions is not None
        self._send(await self._questions.answer(message))

    def forget_loaded_code(self) -> None:
        """Have all functions unpickled once more before they are called: modules have changed under them."""
        for callee in list(self._reactor.state.functions.values()):
            callee.forget()

    async def fetch_copy(self, key: str, holders: list[str], order: int) -> None:
        """Fetch a result and keep a copy."""
        if key not in self._reactor.state.store:
            await self._fetch(FetchInput(key, holders, order))

    def take_back(self, keys: frozenset[str]) -> list[str]:
        """Take those of some tasks that have not begun off whatever they wait for; return their keys."""
        taken = self._reactor.on_withdrawn(keys)
        assert self._executor is not None
        taken += self._executor.take_back(0, keys.difference(taken), is_final=False)
        self._timed.difference_update(taken)
        return taken

    # --- outcomes

    def _announce(self) -> None:
        """Called in an execution thread."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: outcomes are not wanted any more
            self._loop.call_soon_threadsafe(self._take_outcomes)

    def _take_outcomes(self) -> None:
        """Report what has ended, in columns."""
        assert self._executor is not None
        outcomes = self._executor.take_outcomes()
        keys: list[str] = []
        results: list[bytes] = []
        seconds: list[float] = []
        rest: list[Outcome] = []
        for outcome in outcomes:
            key, value, took = outcome
            if type(value) is bytes:
                keys.append(key)
                results.append(value)
                seconds.append(took)
            else:
                rest.append(outcome)
        if keys and self._head is not None and not self._head.is_closed:
            self._head.put(m.TasksDone(keys, results, seconds))
        if rest:
            self._report(rest)
            self._carry_out()
        if self._head is not None:
            self._head.flush()

    def _report(self, outcomes: list[Outcome]) -> None:
        for key, value, took in outcomes:
            if isinstance(value, Payload):
                self._reactor.on_result_stored(key, value)
                self._send(m.TasksStored([key], [value.size], [took]))
            elif isinstance(value, NewActor):
                assert self._actors is not None
                address = self._actors.add(key, value)
                self._reactor.on_actor_made(key, address)
                self._send(m.TasksStored([key], [address.size], [took]))
            elif value is UNWANTED:
                self._send(m.TasksReturned([key]))
            elif isinstance(value, UnreadableInput):
                self._on_unreadable(value.key, value.file, value.error)
                self._send(m.InputMissing(key, [value.key], [*self.hello.addresses, f"worker:{self.hello.name}"]))
            else:
                self._send(m.TasksFailed([key], [value], [took]))


def make_hello(name: str, cluster_id: str, **facts: Any) -> m.Hello:
    """Return the greeting of a worker in this process."""
    return m.Hello(
        m.PROTOCOL_VERSION,
        "worker",
        name,
        cluster_id,
        host=socket.gethostname(),
        pid=os.getpid(),
        time=time.time(),
        **facts,
    )
