"""A small cluster without a network, a clock or threads: the real reactors of the head and of the workers, and
queues of messages between them, which a test empties in any order it likes.

Every message passes through the real encoder. A worker's queue of messages keeps its order, as a connection does.
The world checks the states of all reactors after each event, that a worker answers each task once, and that a
task is run with its inputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from hpclaunch.comm import messages as m
from hpclaunch.comm.framing import FrameDecoder, encode
from hpclaunch.comm.serialize import Payload
from hpclaunch.scheduler import client_events, invariants, memory_pressure, oversized, scattered, sizes, timeouts
from hpclaunch.scheduler.commands import ToClient
from hpclaunch.scheduler.evacuation import Requested, moves
from hpclaunch.scheduler.function import Function
from hpclaunch.scheduler.placement import place
from hpclaunch.scheduler.reactor import Reactor
from hpclaunch.scheduler.state import CANCELLED, DONE, FAILED, PAUSED, RELEASED, Worker
from hpclaunch.worker.commands import DeleteFile, Execute, FetchInput, TakeBack, ToHead, WriteResult
from hpclaunch.worker.memory import Limits
from hpclaunch.worker.reactor import WorkerReactor

PENDING = "pending"
#: A worker that can take whatever tests ask for.
ALL_ROUNDER: dict[str, Any] = {"resources": {"GPU": 2.0, "disk": 10.0}, "host": "host-a"}
FUNCTIONS = (b"function-1", b"function-2")


def through_the_wire(message: m.Message) -> m.Message:
    """Encode and decode a message."""
    data = b"".join(bytes(piece) for piece in encode([message]))
    (frame,) = FrameDecoder(1 << 28).feed(data)
    return frame.messages[0]


def teach(function: Function, seconds: float) -> None:
    """Have a function be known to take so long, whatever it took before."""
    function.calls = function.calls or 1.0
    function.took = seconds * function.calls


def value_of(key: str) -> bytes:
    """What every run of a task returns."""
    return f"value of {key}".encode()


#: Workers have little memory: three results or so, and the rest goes to disk.
LIMITS = Limits(memory=100, target=30, spill=70, pause=80)


class FakeFile:
    """A result on disk."""

    def __init__(self, payload: Payload) -> None:
        self.payload = payload

    def read(self) -> Payload:
        return self.payload


class FakeClient:
    """What a client knows: the keys of its futures, and how they stand."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.futures: dict[str, Any] = {}  # key -> PENDING, "done", ("stored", holders), "failed", "cancelled"
        self.errors: dict[str, m.Failure] = {}
        self.inbox: deque[m.Message] = deque()

    def receive(self) -> None:
        message = self.inbox.popleft()
        if isinstance(message, m.TasksDone):
            for key, result in zip(message.keys, message.results, strict=True):
                assert result == value_of(key)
                self._end(key, "done")
        elif isinstance(message, m.TasksStored):
            for key, holders in zip(message.keys, message.holders, strict=True):
                self._end(key, ("stored", holders))
        elif isinstance(message, m.TasksFailed):
            for key, failure in zip(message.keys, message.failures, strict=True):
                self._end(key, "failed")
                self.errors[key] = failure
        elif isinstance(message, m.TasksRetried):
            for key in message.keys:
                if self.futures.get(key) == "failed":
                    self.futures[key] = PENDING
        else:
            assert isinstance(message, m.TasksCancelled)
            for key in message.keys:
                self._end(key, "cancelled")

    def _end(self, key: str, how: Any) -> None:
        if self.futures.get(key) == PENDING:
            self.futures[key] = how


class FakeWorker:
    """A real WorkerReactor, with an executor that does what the test says."""

    def __init__(self, world: World, name: str, threads: int) -> None:
        self.world = world
        self.name = name
        self.address = f"{name}:1"
        self.threads = threads
        self.reactor = WorkerReactor(LIMITS)
        self.writes: list[WriteResult] = []
        self.files: list[FakeFile] = []
        self.inbox: deque[m.Message] = deque()
        self.outbox: deque[m.Message] = deque()
        self.owed: set[str] = set()  # tasks that have not been answered
        self.known: set[bytes] = set()
        self.queue: deque[str] = deque()
        self.running: list[str] = []
        self.fetches: list[FetchInput] = []
        self.draining = False
        self.timed: set[str] = set()  # tasks whose beginning the head wants to know

    # --- the head's messages

    def receive(self) -> None:
        message = self.inbox.popleft()
        reactor = self.reactor
        if isinstance(message, m.DefineFunction):
            assert message.function not in self.known
            self.known.add(message.function)
            reactor.on_function_defined(message.function, message.function)
        elif isinstance(message, m.ForgetFunctions):
            assert self.known.issuperset(message.functions)
            self.known.difference_update(message.functions)
            reactor.on_functions_forgotten(message)
            assert reactor.state.functions.keys() == self.known
        elif isinstance(message, m.RunTasks):
            for key in message.keys:
                self._owe(key, message.function)
            reactor.on_tasks_sent(message)
            reactor.state.expected.difference_update(message.keys)
        elif isinstance(message, m.RunTask):
            self._owe(message.key, message.function)
            assert frozenset(i.key for i in message.inputs) in self.world.submitted[message.key]
            reactor.on_task_sent(message)
            reactor.state.expected.discard(message.key)
        elif isinstance(message, m.ExpectTask):
            reactor.state.expected.add(message.key)
        elif isinstance(message, m.SayWhenBegun):
            self.timed.update(message.keys)
        elif isinstance(message, m.KeepCopies):
            reactor.on_copies_wanted(message)
        elif isinstance(message, m.RecallTasks):
            reactor.on_recall(message.count)
        elif isinstance(message, m.DropTasks):
            reactor.on_drop(message.keys)
        else:
            assert isinstance(message, m.FreeResults)
            reactor.on_results_freed(message)
        self.carry_out()

    def _owe(self, key: str, function: bytes) -> None:
        assert key not in self.owed, f"{key} was sent to {self.name} twice"
        assert function in self.known
        self.owed.add(key)

    # --- commands of the reactor

    def carry_out(self) -> None:
        self.reactor.state.check()
        for command in self.reactor.take_commands():
            if isinstance(command, Execute):
                self._execute(command)
            elif isinstance(command, FetchInput):
                self.fetches.append(command)
            elif isinstance(command, TakeBack):
                self._say(m.TasksReturned(self._take_back(command)))
            elif isinstance(command, WriteResult):
                self.writes.append(command)
            elif isinstance(command, DeleteFile):
                self.files.remove(command.file)
            else:
                assert isinstance(command, ToHead)
                self._say(command.message)
        assert set(self.queue) | set(self.running) | set(self.reactor.state.fetching) == self.owed

    def _execute(self, command: Execute) -> None:
        for key in command.keys:
            inputs = command.inputs or {}
            assert frozenset(inputs) in self.world.submitted[key]
            for one, given in inputs.items():
                value = given.read() if isinstance(given, FakeFile) else given
                assert bytes(value.pickle if isinstance(value, Payload) else value) == value_of(one)
            self.queue.append(key)

    def _take_back(self, command: TakeBack) -> list[str]:
        taken = [key for key in self.queue if key in command.keys]
        for key in taken:
            self.queue.remove(key)
        while len(taken) < command.most and self.queue:
            taken.append(self.queue.pop())
        return taken

    def _say(self, message: m.Message) -> None:
        if isinstance(message, m.TasksDone | m.TasksStored | m.TasksFailed | m.TasksReturned):
            answered = message.keys
        elif isinstance(message, m.InputMissing):
            answered = [message.key]
        else:
            answered = []
        for key in answered:
            self.owed.remove(key)
        self.outbox.append(through_the_wire(message))

    # --- what happens on it

    def start(self) -> bool:
        if self.queue and len(self.running) < self.threads:
            key = self.queue.popleft()
            self.running.append(key)
            if key in self.timed:
                self.timed.discard(key)
                self._say(m.TaskBegun(key))
            return True
        return False

    def finish(self, key: str, how: str) -> None:
        """A running task ends: "small", "large" or "failed"."""
        self.running.remove(key)
        if how == "small":
            self._say(m.TasksDone([key], [value_of(key)], [0.001]))
        elif how == "large":
            self.reactor.on_result_stored(key, Payload(value_of(key), []))
            self._say(m.TasksStored([key], [1_000_000], [0.5]))
        else:
            self._say(m.TasksFailed([key], [m.Failure("", "it raised")], [0.001]))
        self.carry_out()

    def measure(self, process: int) -> None:
        """The process is found to have so many bytes."""
        self.reactor.on_memory_measured(process, self.world.now)
        self.carry_out()

    def end_write(self, command: WriteResult, *, fits: bool) -> None:
        self.writes.remove(command)
        if fits:
            self.files.append(FakeFile(command.payload))
            self.reactor.on_result_written(command.key, command.payload, self.files[-1])
        else:
            self.reactor.on_result_not_written(command.key, command.payload, "no space left on device")
        self.carry_out()

    def end_fetch(self, command: FetchInput, *, reachable: bool) -> None:
        self.fetches.remove(command)
        payload = self.world.fetch(command.holders, command.key) if reachable else None
        if payload is None:
            self.reactor.on_input_missing(command.key, command.order, command.holders)
        else:
            self.reactor.on_input_arrived(command.key, command.order, payload)
        self.carry_out()


class World:
    """All of it."""

    def __init__(self, *, allowed_failures: int = 3) -> None:
        self.reactor = Reactor(allowed_failures=allowed_failures)
        self.state = self.reactor.state
        self.clients: dict[str, FakeClient] = {}
        self.workers: dict[str, FakeWorker] = {}
        self.submitted: dict[str, set[frozenset[str]]] = {}
        self.now = 0.0
        self.asked: Requested = {}  # results that were asked for by move()
        self.coming: list[int] = []  # memory limits of workers that the cluster may start
        self.warnings: list[str] = []  # what users were told of tasks that wait for them
        self._count = 0

    def check(self) -> None:
        invariants.check(self.state)

    # --- clients

    def join_client(self) -> FakeClient:
        self._count += 1
        client = self.clients[f"c{self._count}"] = FakeClient(f"c{self._count}")
        self.reactor.on_client_joined(client.name)
        for function in FUNCTIONS:
            self.define(client, function)
        self.check()
        return client

    def define(self, client: FakeClient, function: bytes) -> None:
        """Have a client send a function if the head does not know it from this client."""
        if function not in self.state.clients[client.name].functions:
            client_events.on_function_sent(
                self.reactor.lifecycle, client.name, m.DefineFunction(function, "f", b"bytes")
            )

    def forget(self, client: FakeClient, *functions: bytes) -> None:
        """Have a client say that it will send these again if it needs them."""
        client_events.on_functions_forgotten(
            self.reactor.lifecycle, client.name, m.ForgetFunctions(list(functions))
        )
        self.check()

    def leave_client(self, client: FakeClient) -> None:
        del self.clients[client.name]
        self.reactor.on_client_left(client.name)
        self.check()

    def submit(
        self,
        client: FakeClient,
        keys: Sequence[str],
        inputs: Sequence[Sequence[str]] = (),
        *,
        retries: int = 0,
        priority: int = 0,
        function: bytes = FUNCTIONS[0],
        terms: m.Terms | None = None,
        actor: int = -1,
        args: bytes = b"args",
    ) -> None:
        for i, key in enumerate(keys):
            self.submitted.setdefault(key, set()).add(frozenset(inputs[i] if inputs else ()))
            client.futures.setdefault(key, PENDING)
        self.define(client, function)
        message = m.SubmitTasks(
            function,
            list(keys),
            [args] * len(keys),
            [list(one) for one in inputs],
            retries,
            priority,
            terms,
            actor,
        )
        self.reactor.on_tasks_submitted(client.name, through_the_wire(message))  # type: ignore[arg-type]
        self.check()

    def release(self, client: FakeClient, *keys: str) -> None:
        for key in keys:
            client.futures.pop(key, None)
        self.reactor.on_keys_released(client.name, keys)
        self.check()

    def cancel(self, client: FakeClient, *keys: str) -> None:
        for key in keys:
            if client.futures.get(key) == PENDING:
                client.futures[key] = "cancelled"
        self.reactor.on_keys_cancelled(keys)
        self.check()

    def fetch(self, holders: Sequence[str], key: str) -> Payload | None:
        """Ask holders for a result, as :class:`hpclaunch.comm.fetch.Fetcher` does."""
        for address in holders:
            for worker in self.workers.values():
                if worker.address == address and key in worker.reactor.state.store:
                    stored = worker.reactor.state.store[key]
                    return stored.read() if isinstance(stored, FakeFile) else stored
        return None

    def fetch_result(self, client: FakeClient, key: str, *, reachable: bool = True) -> bool:
        """A client fetches a stored result; say whether it got it."""
        _, holders = client.futures[key]
        payload = self.fetch(holders, key) if reachable else None
        if payload is not None:
            assert bytes(payload.pickle) == value_of(key)
            return True
        client.futures[key] = PENDING
        client_events.on_results_not_found(self.reactor.lifecycle, client.name, m.LocateKeys([key], [holders]))
        self.check()
        return False

    # --- workers

    def join(
        self,
        threads: int = 1,
        *,
        resources: dict[str, float] | None = None,
        host: str = "",
        seconds: float | None = None,
        name: str = "",
        job: str = "job",
        memory: int = 0,
    ) -> FakeWorker:
        self._count += 1
        name = name or f"w{self._count}"
        worker = self.workers[name] = FakeWorker(self, name, threads)
        known = Worker(worker.name, job, threads, address=worker.address, host=host, memory_limit=memory)
        known.set_resources(resources or {})
        if seconds is not None:
            known.set_deadline(self.now + seconds, seconds)
        self.reactor.on_worker_joined(known, self.now)
        self.check()
        return worker

    def lose(
        self,
        worker: FakeWorker,
        *,
        blame: str = "worker",
        says_running: bool = True,
        receiving: Sequence[str] = (),  # and may have ended for that
        how: str = "it died",
    ) -> None:
        del self.workers[worker.name]
        running = list(worker.running) if says_running else None
        if receiving:
            running = [*worker.running, *sizes.much_of(self.state, worker.name, receiving)]
        self.reactor.on_worker_lost(worker.name, running=running, how=how, blame=blame, now=self.now)
        self.check()

    def drain(self, worker: FakeWorker) -> None:
        worker.draining = True
        self.reactor.on_worker_draining(worker.name)
        self.check()

    def move(self, *leaving: FakeWorker) -> None:
        """The head has others take what only these workers hold."""
        workers = [self.state.workers[worker.name] for worker in leaving]
        for command in moves(self.state, workers, self.asked, self.now):
            self.workers[command.worker].inbox.append(through_the_wire(command.message))

    # --- messages

    def round(self) -> None:
        """Send what there is to say, and place what is ready."""
        commands = self.reactor.take_commands() + place(self.state, self.now)
        self.check()
        self.warnings += oversized.refuse(self.reactor.lifecycle, self.coming)
        commands += self.reactor.take_commands()
        self.check()
        for command in commands:
            if type(command) is ToClient:
                to: Any = self.clients.get(command.client)
            else:
                to = self.workers.get(command[0])
            if to is not None:
                to.inbox.append(through_the_wire(command.message))

    def tick(self) -> None:
        self.now += 1.0
        self.reactor.on_timer(self.now)
        self.check()

    def hear(self, worker: FakeWorker) -> None:
        """The head takes a worker's next message."""
        message, name = worker.outbox.popleft(), worker.name
        if isinstance(message, m.TasksDone):
            self.reactor.on_tasks_done(name, message, self.now)
        elif isinstance(message, m.TasksStored):
            self.reactor.on_tasks_stored(name, message, self.now)
        elif isinstance(message, m.TasksFailed):
            self.reactor.on_tasks_failed(name, message, self.now)
        elif isinstance(message, m.TasksReturned):
            self.reactor.on_tasks_returned(name, message.keys)
        elif isinstance(message, m.TaskBegun):
            timeouts.on_task_begun(self.reactor.lifecycle, name, message.key, self.now)
        elif isinstance(message, m.WorkerPaused):
            memory_pressure.on_worker_paused(self.reactor.state, name, message)
        elif isinstance(message, m.Brought):
            scattered.on_data_brought(self.reactor.lifecycle, worker.name, message)
        elif isinstance(message, m.CopiesHeld):
            self.reactor.on_copies_held(name, message)
        else:
            assert isinstance(message, m.InputMissing)
            self.reactor.on_input_missing(name, message)
        self.check()

    # --- the end

    def step(self, how: str = "small") -> bool:
        """Let everything that is under way go one step further; say whether anything did."""
        self.round()
        moved = False
        for client in self.clients.values():
            while client.inbox:
                client.receive()
                moved = True
        for worker in self.workers.values():
            while worker.inbox:
                worker.receive()
                moved = True
            while worker.start():
                moved = True
            if worker.reactor.state.ledger.paused:
                worker.measure(0)
                moved = True
            for write in list(worker.writes):
                worker.end_write(write, fits=True)
                moved = True
            for command in list(worker.fetches):
                worker.end_fetch(command, reachable=True)
                moved = True
            for key in list(worker.running):
                worker.finish(key, how)
                moved = True
            while worker.outbox:
                self.hear(worker)
                moved = True
        return moved or bool(self.reactor.lifecycle.commands)

    def settle_clients(self) -> None:
        """Let the clients hear all that there is to hear."""
        self.round()
        for client in self.clients.values():
            while client.inbox:
                client.receive()

    def settle(self, how: str = "small") -> None:
        """Let everything come to its end, and check that it has."""
        if any(task.requirements for task in self.state.tasks.values()):
            self.join(**ALL_ROUNDER)
        elif not any(not w.draining for w in self.workers.values()):
            self.join()
        for _ in range(1000):
            if not self.step(how):
                break
        else:
            raise AssertionError("it does not come to rest")
        self.check_settled()

    def check_settled(self) -> None:
        for task in self.state.tasks.values():
            assert task.state in (DONE, FAILED, CANCELLED, RELEASED), task.story()
        for client in self.clients.values():
            assert PENDING not in client.futures.values(), client.futures
            wants = self.state.clients[client.name].wants
            assert wants.keys() == client.futures.keys()
        for worker in self.workers.values():
            assert not worker.owed
            assert worker.reactor.state.store.keys() == self.state.workers[worker.name].holds.keys()
            assert not worker.reactor.state.waiting_for
            assert len(worker.files) == len(worker.reactor.state.ledger.disk.sizes)
            assert not self.state.workers[worker.name].refuses & PAUSED
            assert not self.state.workers[worker.name].assigned

    def check_empty(self) -> None:
        """After all clients have released everything."""
        assert not self.state.tasks
        assert not self.state.ready_count
        for worker in self.workers.values():
            assert not worker.reactor.state.store
            assert not worker.files
