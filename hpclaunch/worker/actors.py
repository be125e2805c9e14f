"""Objects that live on a worker and are called there: a thread for each, in which its calls run in their order.

An actor is the result of a task that never leaves its worker. What leaves it is an :class:`ActorAddress`, which
becomes an :class:`hpclaunch.client.calls.actors.Actor` where it is unpickled. Calls come straight from the
caller, on the connections by which results are fetched, or through the head; each is answered on the way that it
came. A large answer that is to go through the head waits here until the head says that it has room.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from hpclaunch.comm import serialize
from hpclaunch.comm.class_copies import enter
from hpclaunch.comm.connection import Comm
from hpclaunch.comm.messages import INLINE_BYTES, ActorCall, ActorReply, Failure, SendAnswer
from hpclaunch.tasks.actor import NewActor
from hpclaunch.tasks.context import Place, here
from hpclaunch.worker import shortage
from hpclaunch.worker.hooks import mend_hooks
from hpclaunch.worker.ownership import own

if TYPE_CHECKING:
    from hpclaunch.worker.executor import Executor

#: Seconds between two tries to say that there was no memory.
_NO_MEMORY_SECONDS = 0.1


class ActorAddress:
    """Where an actor is and what it can do."""

    def __init__(self, key: str, instance: Any, place: str, worker: str) -> None:
        cls = type(instance)
        methods = tuple(n for n in dir(cls) if not n.startswith("_") and callable(getattr(cls, n, None)))
        self._facts = key, place, worker, cls.__qualname__, methods

    def __reduce__(self) -> Any:
        from hpclaunch.client.calls.actors import restore_actor  # a worker that makes no actors needs no client

        return restore_actor, self._facts


class Actors:
    """The actors of one worker. Called on its event loop.

    :param worker: its name.
    :param place: the address at which it can be asked.
    :param executor: whose tasks the actors' methods are taken for, when they ask who they are.
    :param head: returns the connection to the head.
    """

    def __init__(self, worker: str, place: str, executor: Executor, head: Callable[[], Comm | None]) -> None:
        self._worker = worker
        self._place = place
        self._executor = executor
        self._head = head
        self._waiting: dict[int, tuple[ActorReply, list[Any]]] = {}  # large answers that go through the head
        self._loop = asyncio.get_running_loop()
        self._actors: dict[str, _Running] = {}
        self._replies: deque[tuple[Comm, ActorReply, list[Any]]] = deque()
        self._announced = False

    def add(self, key: str, new: NewActor) -> serialize.Payload:
        """Start a thread for a new actor; return its address, pickled, which is the result of its task."""
        self.drop([key])
        self._actors[key] = _Running(key, new, self._executor, self._reply)
        return serialize.dump_value(ActorAddress(key, new.instance, self._place, self._worker))

    def drop(self, keys: Iterable[str]) -> None:
        """Release actors that are not wanted any more, after what they do now."""
        if self._actors:
            for key in keys:
                running = self._actors.pop(key, None)
                if running is not None:
                    running.calls.put(None)

    def call(self, comm: Comm, message: ActorCall) -> None:
        """A peer calls an actor."""
        running = self._actors.get(message.key)
        if running is not None:
            running.calls.put((comm, message))
        else:
            why = f"actor {message.key} is not on worker {self._worker}: it was released, or re-created elsewhere"
            comm.send(ActorReply(message.request, failure=Failure("ActorError", why), is_gone=True))

    def close(self) -> None:
        """Let all go."""
        self.drop(list(self._actors))

    def _reply(self, comm: Comm, reply: ActorReply, buffers: list[Any]) -> None:
        """Called in an actor's thread."""
        self._replies.append((comm, reply, buffers))
        if not self._announced:
            self._announced = True
            try:
                with contextlib.suppress(RuntimeError):  # the loop has closed: no answer is waited for
                    self._loop.call_soon_threadsafe(self._send_replies)
            except MemoryError:
                self._announced = False
                raise

    def _send_replies(self) -> None:
        self._announced = False
        while self._replies:
            comm, reply, buffers = self._replies.popleft()
            if comm.is_closed:
                continue
            size = sum(memoryview(buffer).nbytes for buffer in buffers)
            if size > INLINE_BYTES and comm is self._head():
                self._waiting[reply.request] = reply, buffers
                comm.send(ActorReply(reply.request, waits=size))
            elif buffers:
                comm.send_buffers(reply, buffers)
            else:
                comm.send(reply)

    def send_answer(self, message: SendAnswer) -> None:
        """The head has room for an answer that waits, or wants it no more."""
        reply, buffers = self._waiting.pop(message.request, (None, []))
        head = self._head()
        if reply is not None and message.is_wanted and head is not None and not head.is_closed:
            head.send_buffers(reply, buffers)


class _Running:
    """One actor and its thread."""

    def __init__(
        self, key: str, new: NewActor, executor: Executor, reply: Callable[[Comm, ActorReply, list[Any]], None]
    ) -> None:
        self.key = key
        self.calls: SimpleQueue[tuple[Comm, ActorCall] | None] = SimpleQueue()
        self._instance = new.instance
        self._classes = new.classes
        self._executor = executor
        self._reply = reply
        mend_hooks()
        threading.Thread(target=self._serve, name=f"hpclaunch-actor-{key}", daemon=True).start()

    def _serve(self) -> None:
        here.place = place = Place(self._executor, -1)  # as that of a task that has stepped aside
        place.key = self.key
        enter(self._classes)
        while not self._serve_until_told():
            pass
        self._instance = None

    def _serve_until_told(self) -> bool:
        """Answer what comes; True: this thread is to end. False: it had no memory, and is to begin again."""
        call = None
        try:
            while (call := self.calls.get()) is not None:
                self._answer(*call)
        except MemoryError:
            self._executor.on_no_memory()
            while call is not None:  # the process goes on
                with contextlib.suppress(MemoryError):
                    self._reply(call[0], ActorReply(call[1].request, failure=shortage.NOTHING_LEFT), [])
                    return False
                time.sleep(_NO_MEMORY_SECONDS)
            return False
        return True

    def _answer(self, comm: Comm, message: ActorCall) -> None:
        buffers: list[Any] = []
        try:
            reply, buffers = self._run(message)
        except BaseException as error:  # whatever a method does, it is that call's outcome
            if isinstance(error, MemoryError):
                shortage.explain(error, self._executor.facts)
            reply = ActorReply(message.request, failure=serialize.failure_of(error))
        self._reply(comm, reply, buffers)

    def _run(self, message: ActorCall) -> tuple[ActorReply, list[Any]]:
        args: Any
        kwargs: Any
        value = getattr(self._instance, message.name)
        if message.args is not None:
            args, kwargs = serialize.load_call(message.args, None)
            value = value(*args, **kwargs)
            if isinstance(value, CoroutineType):
                value = asyncio.run(value)
        payload = serialize.dump_value(value)
        args = kwargs = value = None
        payload = own(payload, None)
        if not payload.buffers and len(payload.pickle) <= INLINE_BYTES:
            return ActorReply(message.request, bytes(payload.pickle)), []
        buffers = [payload.pickle, *payload.buffers]
        return ActorReply(message.request, buffers=len(buffers)), buffers
