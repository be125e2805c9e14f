"""A whole cluster on a virtual clock: the real head's scheduler, the real workers and the real clients, with a
network, threads, disks and supervisors that are made up.

What tasks compute is computed, so that a wrong input or a stale result shows in the result. After each round of
the head its state is checked; whatever is logged as an error, or raised where it is not caught, fails the test.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpclaunch.client import core
from hpclaunch.client.calls import scatter as client_data
from hpclaunch.client.client import Client
from hpclaunch.client.submission import functions
from hpclaunch.comm import fetch as fetch_module, messages as m
from hpclaunch.errors import CommClosedError, PeerError
from hpclaunch.link import head_link
from hpclaunch.link.session import HeadSession
from hpclaunch.scheduler import (
    admission,
    draining,
    function,
    inspection,
    invariants,
    relays,
    requests,
    restarts,
    server,
    state,
)
from hpclaunch.scheduler.server import SchedulerServer
from hpclaunch.worker import server as worker_module
from hpclaunch.worker.server import WorkerServer
from tests.client.inside import core_of
from tests.virtual.machine import SimActors, SimExecutor, SimStorage
from tests.virtual.network import End, Network, VirtualLoop

CLUSTER_ID = "virtual"
#: Bytes up to which a result travels in messages: all else is as small here.
INLINE_BYTES = 200
MEMORY = {"target": 0.4, "spill": 0.7, "pause": 0.8}


class SimWorker:
    """One worker process."""

    def __init__(self, job: SimJob, name: str, threads: int, **facts: Any) -> None:
        self.job = job
        self.name = name
        self.is_dead = False
        cluster = job.cluster
        hello = m.Hello(m.PROTOCOL_VERSION, "worker", name, CLUSTER_ID, pid=1, job_id=job.id, threads=threads)
        hello = msgspec.structs.replace(hello, host=job.host, head_address="head", **facts)
        self.server = WorkerServer(hello, memory=MEMORY, spill_directory=Path("disk"))
        self.server.ended.add_done_callback(lambda _: cluster.loop.call_soon(self.exit))
        mine, theirs = cluster.network.connect(name, "head")
        cluster.workers[name] = self
        welcome = cluster.head.on_peer(theirs, hello)
        self.server.attach(mine, msgspec.structs.replace(welcome, inline_limit=INLINE_BYTES))

    @property
    def executor(self) -> SimExecutor:
        executor = self.server._executor
        assert isinstance(executor, SimExecutor)
        return executor

    def check_empty(self, known: state.Worker) -> None:
        """Nothing is kept or done here, and the head knows that."""
        mine = self.server._reactor.state
        kept = [*mine.store, *mine.fetching, *mine.waiting_for, *mine.pinned]
        assert not kept, f"{self.name} keeps {kept}; the head knows of {list(known.holds)}"
        assert not mine.ledger.keys()
        assert not self.server._timed
        assert self.executor.is_idle
        assert not (known.assigned)
        assert not (known.holds)
        assert not (known.seceded)
        assert known.free == known.resources
        assert known.threads == self.job.threads

    def exit(self, *, running: list[str] | None = None) -> None:
        """The process ends; ``running`` is what it ran if it crashed."""
        if self.is_dead:
            return
        self.is_dead = True
        cluster = self.job.cluster
        cluster.workers.pop(self.name, None)
        self.executor.is_dead = True
        self.server._storage.close()
        self.server.end("it is dead")
        for link in cluster.network.links_of([self.name]):
            link.cut(late=cluster.rng.choice((0.0, 0.001, 0.5)))
        self.job.on_child_ended(self, running)


class SimJob:
    """One job: a supervisor and its workers."""

    def __init__(self, cluster: VirtualCluster, processes: int, threads: int, **facts: Any) -> None:
        cluster.jobs_made += 1
        self.cluster = cluster
        self.id = f"job{cluster.jobs_made}"
        self.host = f"host{cluster.jobs_made % 3}"
        self.threads = threads
        self.facts = facts
        self.is_over = False
        self.is_ending = False
        self.workers: list[SimWorker] = []
        self._started = 0
        self.comm, theirs = cluster.network.connect(self.id, "head")
        hello = m.Hello(m.PROTOCOL_VERSION, "supervisor", self.id, CLUSTER_ID, pid=1, job_id=self.id)
        self.comm.on_frames = self._on_frames
        self.comm.on_lost = lambda *_: self.end()
        cluster.head.on_peer(theirs, hello)
        cluster.jobs[self.id] = self
        self._beat()
        for _ in range(processes):
            self._start()

    def _start(self) -> None:
        self._started += 1
        facts = dict(self.facts)
        name = f"{self.id}-{self._started}"
        if self.cluster.rng.random() < 0.85:
            facts["addresses"] = [f"{name}:1"]
        try:
            self.workers.append(SimWorker(self, name, self.threads, **facts))
        except PeerError:
            self.cluster.workers.pop(name, None)

    def _beat(self) -> None:
        if not self.is_over:
            self.comm.send(m.Heartbeat([m.WorkerVitals(w.name, 1, 1, 0.0) for w in self.workers]))
            self.cluster.loop.call_later(2.0, self._beat)

    def _on_frames(self, comm: End, frames: list[Any]) -> None:
        for messages, _ in frames:
            for message in messages:
                if isinstance(message, m.StopWorkers) and message.drain:
                    self.is_ending = True
                    self._end_if_empty()
                elif isinstance(message, m.ReplaceWorkers):
                    self._replace(message)
                elif isinstance(message, m.StopWorkers | m.Goodbye):
                    self.end()

    def _replace(self, message: m.ReplaceWorkers) -> None:
        for worker in list(self.workers):
            running = worker.executor.running()
            if worker.name in message.workers and (not message.keys or set(running) & set(message.keys)):
                worker.exit(running=[])

    def on_child_ended(self, worker: SimWorker, running: list[str] | None) -> None:
        """A worker process ended."""
        self.workers.remove(worker)
        restart = not self.is_over and not self.is_ending
        died = m.WorkerDied(worker.name, 1, None, 1, running or [], restart, "it crashed")
        if not self.is_over:
            self.comm.send(died)
            self.cluster.loop.call_later(0.3, self._start_if_on) if restart else self._end_if_empty()

    def _start_if_on(self) -> None:
        if not self.is_over and not self.is_ending:
            self._start()

    def _end_if_empty(self) -> None:
        if self.is_ending and not self.workers:
            self.end()

    def end(self) -> None:
        """The whole job is over."""
        if self.is_over:
            return
        self.is_over = True
        del self.cluster.jobs[self.id]
        for worker in list(self.workers):
            worker.exit()
        for link in self.cluster.network.links_of([self.id]):
            link.cut(late=self.cluster.rng.choice((0.0, 0.5)))


class _Thread:
    """What a client takes for the thread of its loop."""

    is_foreign = False

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop

    def check_process(self) -> None:
        pass


class _Secrets:
    """Numbers in the place of random names, so that a seed tells the whole story."""

    def __init__(self) -> None:
        self._count = 0

    def token_hex(self, size: int) -> str:
        self._count += 1
        return f"{self._count:0{2 * size}x}"


class _Door:
    """What a client takes for its cluster."""

    directory = None
    facts: dict[str, Any] = {"id": CLUSTER_ID}

    def __init__(self, cluster: VirtualCluster) -> None:
        self._cluster = cluster

    async def open_session(self, *, name: str, on_messages: Any, on_lost: Any) -> HeadSession:
        mine, theirs = self._cluster.network.connect(name, "head")
        session = HeadSession(on_messages, on_lost)
        hello = m.Hello(m.PROTOCOL_VERSION, "client", name, CLUSTER_ID)
        session.attach(mine, self._cluster.head.on_peer(theirs, hello))  # type: ignore[arg-type]
        return session


class VirtualCluster:
    """All of it. Made inside its own loop."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.rng = random.Random(seed)
        self.network = Network(loop, seed)
        self.wrong: list[str] = []
        self.jobs: dict[str, SimJob] = {}
        self.jobs_made = 0
        self.tasks: set[asyncio.Task[None]] = set()  # retirements under way
        self.workers: dict[str, SimWorker] = {}
        self.disk_is_full = False
        self.pressure = 0  # bytes that a process has beside its results
        self.files = 0  # on disk
        self.head = SchedulerServer(CLUSTER_ID, allowed_failures=50, on_request=self._on_request)
        self._round = self.head._tick
        self.head.ticks._tick = self._checked_round

    def _checked_round(self) -> None:
        self._round()
        try:
            invariants.check(self.head.reactor.state)
        except AssertionError as error:
            self.wrong.append(f"check: {error}")

    async def _on_request(self, method: str, params: dict[str, Any]) -> Any:
        if method == "ping":
            return None
        raise CommClosedError(f"no {method} here")

    def check_empty(self) -> None:
        """After all clients have released everything: nothing of it is kept."""
        state = self.head.reactor.state
        assert not state.tasks, [task.story() for task in state.tasks.values()]
        assert not (state.ready_count)
        assert not (state.waiting)
        assert not (state.cancelled_unstarted)
        assert not (state.timed)
        assert not self.head.restarts.to_end
        assert not self.head.relays._waiting
        assert not self.head.relays._under_way
        requests = self.head.requests
        assert not requests.admission.waiting
        assert not requests.workers.pending
        assert not requests.coordination.tickets
        assert not requests.coordination.named.primitives
        assert not requests.coordination.named.kept
        for worker in self.workers.values():
            worker.check_empty(state.workers[worker.name])
        assert not self.files

    def check_gone(self) -> None:
        """After all clients have gone."""
        state = self.head.reactor.state
        assert not state.clients
        assert not state.functions

    async def client(self, name: str) -> Client:
        """Connect a new client."""
        client = Client(_Door(self), name=name, asynchronous=True, set_as_default=False)
        await core_of(client).start()
        return client

    async def dial(
        self, address: str, hello: m.Hello, context: Any, on_frames: Any, on_lost: Any, **_: Any
    ) -> tuple[End, None]:
        """Connect to a worker: what stands in for :func:`hpclaunch.comm.connection.dial`."""
        await asyncio.sleep(0.001)
        worker = self.workers.get(address.partition(":")[0])
        if worker is None or worker.name in self.network.blocked:
            await asyncio.sleep(0.5)
            raise CommClosedError(f"{address} can't be reached")
        mine, theirs = self.network.connect(hello.name, worker.name)
        mine.on_frames, mine.on_lost = on_frames, on_lost
        worker.server._on_peer(theirs, hello)  # type: ignore[arg-type]
        return mine, None


class _Errors(logging.Handler):
    def __init__(self, cluster: VirtualCluster) -> None:
        super().__init__(logging.ERROR)
        self._cluster = cluster

    def emit(self, record: logging.LogRecord) -> None:
        self._cluster.wrong.append(self.format(record))


def _stand_in(patch: pytest.MonkeyPatch, cluster: VirtualCluster) -> None:
    """Put what is made up in the place of what is real."""
    loop = cluster.loop
    for module in (server, inspection, restarts, draining):
        patch.setattr(module, "time", loop)
    patch.setattr(requests, "INLINE_BYTES", INLINE_BYTES)
    patch.setattr(relays, "MOST_BYTES", 4 * INLINE_BYTES)
    patch.setattr(admission, "MOST_BYTES_IN_ALL", 10 * INLINE_BYTES)
    patch.setattr(client_data, "INLINE_BYTES", INLINE_BYTES)
    patch.setattr(function, "AHEAD_BYTES", 10 * INLINE_BYTES)
    patch.setattr(functions, "_MOST_FUNCTIONS", 5)
    patch.setattr(fetch_module, "dial", cluster.dial)
    patch.setattr(fetch_module, "node_id", lambda: "")
    patch.setattr(core, "secrets", _Secrets())
    patch.setattr(head_link, "secrets", _Secrets())
    patch.setattr(head_link, "loop_thread", lambda: _Thread(loop))
    patch.setattr(worker_module, "Executor", lambda *args, **how: SimExecutor(cluster, *args, **how))
    patch.setattr(worker_module, "Storage", lambda *args, **how: SimStorage(cluster, *args, **how))
    patch.setattr(worker_module, "Actors", lambda *args, **how: SimActors(cluster, *args, **how))


@contextmanager
def virtual_cluster(seed: int) -> Iterator[tuple[VirtualLoop, VirtualCluster]]:
    """Make a cluster and the loop that it lives on."""
    loop = VirtualLoop()

    async def make() -> VirtualCluster:
        return VirtualCluster(loop, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "time", loop)
        cluster = loop.run_until_complete(make())
        _stand_in(patch, cluster)
        errors = _Errors(cluster)
        logging.getLogger("hpclaunch").addHandler(errors)
        loop.set_exception_handler(lambda _, context: cluster.wrong.append(repr(context)))
        try:
            yield loop, cluster
        finally:
            logging.getLogger("hpclaunch").removeHandler(errors)
            loop.close()
