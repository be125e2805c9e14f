"""What a virtual worker has instead of threads and a disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpclaunch.comm import messages as m, serialize
from hpclaunch.comm.serialize import Payload
from hpclaunch.tasks.context import Place
from hpclaunch.worker.commands import DeleteFile, WriteResult
from hpclaunch.worker.executor import Executor
from hpclaunch.worker.reactor import WorkerReactor

if TYPE_CHECKING:
    from tests.virtual.cluster import VirtualCluster


class SimExecutor(Executor):
    """The real one, but that a thread is a timer: the task's function is called when its time is over."""

    def __init__(self, cluster: VirtualCluster, threads: int, on_outcomes: Callable[[], None], **how: Any) -> None:
        self._cluster = cluster
        self._busy: set[Place] = set()
        self.is_dead = False
        super().__init__(threads, on_outcomes, **how)

    def _start_thread(self, slot: int) -> None:
        self._places.add(Place(self, slot))

    def _wake_all(self) -> None:
        self._cluster.loop.call_soon(self._begin_some)

    def _begin_some(self) -> None:
        while self._queue and not self._stopped and not self.is_dead:
            places = sorted(self._places - self._busy, key=lambda place: place.slot)
            if not places:
                return
            self._begin(places[0], self._queue.popleft())

    def _begin(self, place: Place, item: Any) -> None:
        key = item[0]
        rng = self._cluster.rng
        self._busy.add(place)
        place.key = key
        self._note(place.slot, key)
        if key in self._timed:
            self._timed.discard(key)
            worker = self._cluster.workers[self.facts.name].server
            worker._send(m.TaskBegun(key))
        if rng.random() < 0.1:  # it waits for others
            slot, place.slot = place.slot, -1
            self._on_seceded(key, True)
            self._start_thread(slot)
        seconds = rng.choice((0.0, 0.001, 0.05, 0.3, 3.0))
        self._cluster.loop.call_later(seconds, self._end, place, item, seconds)

    def _end(self, place: Place, item: Any, seconds: float) -> None:
        if self.is_dead:
            return
        self._run(place, item)
        key, outcome, _ = self._outcomes.pop()
        self._outcomes.append((key, outcome, seconds))
        self._busy.discard(place)
        if place.slot < 0:
            self._places.discard(place)
        self._begin_some()


class SimFile:
    """A result on disk."""

    def __init__(self, cluster: VirtualCluster, payload: Payload) -> None:
        self._payload: Payload | None = payload
        self._cluster = cluster
        cluster.files += 1

    def read(self) -> Payload:
        if self._payload is None or self._cluster.rng.random() < 0.02:
            raise OSError("the file is gone")
        return self._payload

    def delete(self) -> None:
        assert self._payload is not None, "a file is deleted twice"
        self._payload = None
        self._cluster.files -= 1


class SimStorage:
    """Stands in for :class:`hpclaunch.worker.storage.Storage`."""

    def __init__(self, cluster: VirtualCluster, reactor: WorkerReactor, directory: Path, **how: Any) -> None:
        self._cluster = cluster
        self._reactor = reactor
        self._carry_out: Callable[[], None] = how["carry_out"]
        self._files: set[SimFile] = set()
        self._is_closed = False

    def start(self) -> None:
        self._cluster.loop.call_later(0.2, self._measure)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            for file in self._files:
                file.delete()

    def _measure(self) -> None:
        if self._is_closed:
            return
        ledger = self._reactor.state.ledger
        process = ledger.managed + ledger.writing.total + self._cluster.pressure
        self._reactor.on_memory_measured(process, self._cluster.loop.now)
        self._carry_out()
        self._cluster.loop.call_later(0.2, self._measure)

    def wait_for_room(self, size: int) -> None:
        """Nothing waits: a thread is a timer."""

    def do(self, command: WriteResult | DeleteFile) -> None:
        self._cluster.loop.call_later(self._cluster.rng.choice((0.0, 0.01, 0.3)), self._end, command)

    def _end(self, command: WriteResult | DeleteFile) -> None:
        if self._is_closed:
            return
        if isinstance(command, DeleteFile):
            self._files.remove(command.file)
            command.file.delete()
        elif self._cluster.disk_is_full:
            self._reactor.on_result_not_written(command.key, command.payload, "no space left on device")
        else:
            file = SimFile(self._cluster, command.payload)
            self._files.add(file)
            self._reactor.on_result_written(command.key, command.payload, file)
        self._carry_out()


class SimActors:
    """Stands in for :class:`hpclaunch.worker.actors.Actors`: an actor counts its calls."""

    def __init__(self, cluster: VirtualCluster, worker: str, place: str, executor: Executor, head: Any) -> None:
        self._cluster = cluster
        self._place = place
        self._head = head
        self._waiting: dict[int, bytes] = {}  # answers that wait until the head has room
        self.counts: dict[str, int] = {}

    def add(self, key: str, instance: Any) -> Payload:
        self.counts[key] = 0
        return serialize.dump_value(("actor", key, self._place))

    def drop(self, keys: Any) -> None:
        for key in keys:
            self.counts.pop(key, None)

    def call(self, comm: Any, message: m.ActorCall) -> None:
        if message.key not in self.counts:
            comm.send(m.ActorReply(message.request, is_gone=True))
            return
        self.counts[message.key] += 1
        answer = b"%d" % self.counts[message.key]
        if comm is self._head() and self._cluster.rng.random() < 0.5:
            self._waiting[message.request] = answer
            comm.send(m.ActorReply(message.request, waits=self._cluster.rng.choice((1, 200_000))))
        else:
            comm.send(m.ActorReply(message.request, answer))

    def send_answer(self, message: m.SendAnswer) -> None:
        answer = self._waiting.pop(message.request)
        if message.is_wanted and not self._head().is_closed:
            self._head().send_buffers(m.ActorReply(message.request, buffers=1), [answer])

    def close(self) -> None:
        self.counts.clear()
