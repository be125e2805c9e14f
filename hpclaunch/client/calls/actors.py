"""Calling objects that live on workers: ``client.submit(Counter, actor=True).result().increment().result()``.

A call goes from here straight to the actor's worker, or through the head where the network forbids that, and is
answered on the same way. Calls of one caller are carried out in their order. When the actor's worker is lost,
calls that have not been answered raise ActorError, since it is not known whether they were carried out; later
calls reach the actor where it was re-created, or raise ActorError too if it was not to be.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from hpclaunch.client.core import ClientCore
from hpclaunch.client.current import current_client
from hpclaunch.client.futures.answer import ActorFuture, set_done
from hpclaunch.client.futures.future import DONE, PENDING, STORED, Future
from hpclaunch.client.futures.results import HoldsFuture
from hpclaunch.client.submission.submit import Submission
from hpclaunch.comm import messages as m, serialize
from hpclaunch.comm.connection import Comm
from hpclaunch.comm.fetch import Fetcher
from hpclaunch.comm.keys import Key, text_of_key
from hpclaunch.comm.texts import checked_int, escaped
from hpclaunch.errors import ActorError, CommClosedError, HPCLaunchError, LostResultError, PeerError
from hpclaunch.link.facade import is_awaiting, soon
from hpclaunch.tasks.actor import make_actor
from hpclaunch.tasks.context import task_client

#: Seconds between two questions for where an actor is that has just been lost.
_ASK_SECONDS = 0.05
#: Seconds to wait for answers to calls that were made before an actor was found to be gone.
_GRACE_SECONDS = 1.0


class Actor(HoldsFuture):
    """An object on a worker. Methods give an :class:`ActorFuture` at once; other attributes are fetched.

    It can be passed to tasks, and to other actors. It lives as long as its future, or a proxy that came from that.
    """

    def __init__(self, key: str, place: str, worker: str, class_name: str, methods: tuple[str, ...]) -> None:
        self._key = key
        self._place = place
        self._worker = worker
        self._class_name = class_name
        self._methods = frozenset(methods)
        self._future: Future[Any] | None = None
        self._client: Any = None  # by which it is called; in a task, that of the task's worker

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{name!r} of an actor can't be reached from outside")
        if escaped(name) != name:
            raise AttributeError(f"an actor has no attribute {name!r:.100}, which UTF-8 can't encode")
        calls = self._calls()
        if name not in self._methods:
            answer = calls.call(self, name, None)
            return answer if is_awaiting(self._client) else answer.result()

        def method(*args: Any, **kwargs: Any) -> ActorFuture[Any]:
            return calls.call(self, name, serialize.dump_inline((args, kwargs)))

        method.__name__ = name
        return method

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(
                f"an actor's attributes are set by its own methods: {name!r} can't be set from here"
            )
        object.__setattr__(self, name, value)

    def _calls(self) -> ActorCalls:
        client = self._client or task_client() or current_client()
        self._client = client
        calls: ActorCalls = client._actors
        return calls

    def _hold(self, future: Future[Any]) -> None:
        self._future, self._client = future, future.client

    def __reduce__(self) -> Any:
        if self._future is not None and serialize.is_collecting():
            return self._future.__reduce__()
        return restore_actor, (self._key, self._place, self._worker, self._class_name, tuple(self._methods))

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._methods})

    def __repr__(self) -> str:
        return f"<Actor {self._class_name}, key: {self._key}, worker: {self._worker}>"


class _Call(NamedTuple):
    order: int
    actor: Actor
    name: str
    args: bytes | None
    future: ActorFuture[Any]


class ActorCalls:
    """All calls of actors by one client. Its methods but :meth:`call` run on the loop."""

    def __init__(self, core: ClientCore) -> None:
        self._core = core
        self._queue: deque[_Call] = deque()
        self._flush_due = False
        self._lines: dict[str, _Line] = {}
        self._numbers = itertools.count(1)
        self._orders = itertools.count()
        self._ended: deque[tuple[ActorFuture[Any], Any, BaseException | None]] = deque()
        self._end_due = False
        core.on_open.append(self._on_open)
        core.on_close.append(lambda: self.close(CommClosedError("the client was closed")))

    def _on_open(self, fetcher: Fetcher) -> None:
        fetcher.on_reply, fetcher.on_source_lost = self.on_reply, self.on_source_lost

    def call(self, actor: Actor, name: str, args: bytes | None) -> ActorFuture[Any]:
        """Call a method, or ask for an attribute (``args`` is None)."""
        future: ActorFuture[Any] = ActorFuture(self._core.link)
        self._core.link.thread.check_process()
        self._queue.append(_Call(next(self._orders), actor, name, args, future))
        if not self._flush_due:
            self._flush_due = True
            self._core.link.thread.loop.call_soon_threadsafe(self._flush)
        return future

    def _flush(self) -> None:
        self._flush_due = False
        lines = set()
        while self._queue:
            call = self._queue.popleft()
            line = self._lines.get(call.actor._key)
            if line is None:
                line = self._lines[call.actor._key] = _Line(self._core, self, call.actor._place)
            line.take(call)
            lines.add(line)
        for line in lines:
            line.flush()

    def next_number(self) -> int:
        """Return a number for a call."""
        return next(self._numbers)

    def on_reply(self, message: m.ActorReply, buffers: Sequence[Any], source: str) -> None:
        """An answer has come."""
        for line in self._lines.values():
            call = line.waiting.pop(message.request, None)
            if call is None:
                continue
            if source == "head" and not (message.is_gone or message.is_lost):
                self._core.fetcher.on_relayed(line.via)
            if message.is_gone:
                line.on_gone(call)
            elif message.is_lost:
                line.waiting[message.request] = call
                line.on_lost("it has gone")
            elif message.failure is not None:
                self.end(call.future, None, serialize.load_failure(message.failure))
            elif message.buffers:
                self.end(call.future, (buffers[0], list(buffers[1:])), None)
            else:
                self.end(call.future, (message.data, None), None)
            return

    def on_source_lost(self, source: str, reason: str) -> None:
        """A connection is over: what was asked on it is not answered."""
        for line in self._lines.values():
            if line.source == source:
                line.on_lost(reason)

    def end(self, future: ActorFuture[Any], payload: Any, error: BaseException | None) -> None:
        """Give a future its answer; those of one turn of the loop wake their waiters together."""
        self._ended.append((future, payload, error))
        if not self._end_due:
            self._end_due = True
            self._core.link.thread.loop.call_soon(self._end_all)

    def _end_all(self) -> None:
        self._end_due = False
        watchers: list[Callable[[], None]] = []
        with self._core.link.changed:
            while self._ended:
                future, payload, error = self._ended.popleft()
                watchers += future.resolve(payload, error)
            self._core.link.changed.notify_all()
        for watcher in watchers:
            watcher()

    def close(self, error: BaseException) -> None:
        """No more answers will come."""
        for line in self._lines.values():
            for call in [*line.waiting.values(), *line.backlog]:
                self.end(call.future, None, error)
            line.waiting.clear()
            line.backlog.clear()
        self._end_all()


class _Line:
    """The calls of one actor: those under way, and those that wait until it is known where it is."""

    def __init__(self, core: ClientCore, calls: ActorCalls, place: str) -> None:
        self._core = core
        self._calls = calls
        self._place = place
        self._is_lost = False  # it has to be asked where it is
        self._comm: Comm | None = None
        self.via = ""
        self.source = ""
        self.waiting: dict[int, _Call] = {}
        self.backlog: deque[_Call] = deque()
        self._opening: asyncio.Task[None] | None = None

    def take(self, call: _Call) -> None:
        """Send a call, after those that wait."""
        if self._comm is None or self._comm.is_closed or self.backlog:
            self.backlog.append(call)
            self._open()
        else:
            self._send(call)

    def flush(self) -> None:
        """Send what was queued in this turn."""
        if self._comm is not None:
            self._comm.flush()

    def _send(self, call: _Call) -> None:
        assert self._comm is not None
        number = self._calls.next_number()
        self.waiting[number] = call
        self._comm.send(m.ActorCall(number, call.actor._key, call.name, call.args, self.via))

    def on_gone(self, call: _Call) -> None:
        """The actor is not where it was: the call was not carried out, so it is made again where it is."""
        self._is_lost = True
        self._comm = None
        self.backlog = deque(sorted([*self.backlog, call]))
        self._open()

    def on_lost(self, reason: str) -> None:
        """The connection is over."""
        self._comm, self._is_lost = None, True
        lost, self.waiting = self.waiting, {}
        if lost:
            task = self._core.link.thread.loop.create_task(self._explain(list(lost.values()), reason))
            self._explaining = task

    async def _explain(self, calls: list[_Call], reason: str) -> None:
        """Say why calls have no answer: in the head's words if the actor has ended."""
        actor = calls[0].actor
        error: BaseException
        try:
            await self._locate(actor)
            again = "it is reached again, or was re-created"
        except HPCLaunchError as found:
            error, again = found, ""
        for call in calls:
            if again:
                error = ActorError(
                    f"actor {actor._key}: the connection to worker {actor._worker} ended before the answer to "
                    f"{call.name} came ({reason}). Whether that was carried out is not known; {again}"
                )
            self._calls.end(call.future, None, error)

    def _open(self) -> None:
        if self._opening is None or self._opening.done():
            self._opening = self._core.link.thread.loop.create_task(self._send_backlog())

    async def _send_backlog(self) -> None:
        """Find the actor, and send what waits."""
        while self.backlog:
            try:
                if self._is_lost:
                    await self._until_answered()
                    self._place = await self._locate(self.backlog[0].actor)
                    self._is_lost = False
                self._comm, self.via, self.source = await self._core.fetcher.way_to(self._place)
            except PeerError as error:
                if self._core.link.closed:
                    self._give_up(error)
                self._is_lost = True
                await asyncio.sleep(_ASK_SECONDS)
                continue
            except HPCLaunchError as error:
                self._give_up(error)
            while self.backlog and self._comm is not None:
                self._send(self.backlog.popleft())
            self.flush()

    async def _until_answered(self) -> None:
        """Wait for the answers to calls that were made before those that wait, and may have to be made again."""
        for _ in range(int(_GRACE_SECONDS / _ASK_SECONDS)):
            if not self.waiting:
                return
            await asyncio.sleep(_ASK_SECONDS)

    def _give_up(self, error: HPCLaunchError) -> None:
        while self.backlog:
            self._calls.end(self.backlog.popleft().future, None, error)

    async def _locate(self, actor: Actor) -> str:
        """Return where an actor is now.

        :raises ActorError: it has ended.
        """
        future = actor._future or self._core.table.attach(actor._key)
        while True:
            payload = await self._core.table.results.fetch_one(future)
            if payload is not None:
                found: Actor = serialize.load_value(*payload)
                actor._place, actor._worker = found._place, found._worker
                return found._place
            await self._ended(future)
            if future._status not in (PENDING, STORED, DONE):
                raise _why_gone(actor, future)
            await asyncio.sleep(_ASK_SECONDS)

    async def _ended(self, future: Future[Any]) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        self._core.table.watch(future, lambda _: soon(loop, set_done, ended))
        await ended


def _why_gone(actor: Actor, future: Future[Any]) -> BaseException:
    """Return the error of calls of an actor that is no more."""
    error = future._error()
    if isinstance(error, LostResultError):
        return ActorError(
            f"actor {actor._key} was released: its future, and the proxy that came from that, are gone"
        )
    return error


def submit_actor(
    submission: Submission,
    cls: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    key: Key | None,
    restarts: int,
    requirements: m.Terms | None,
) -> Future[Any]:
    """Make an actor on some worker; the future's result is its proxy.

    :param restarts: how often to re-create it, from its arguments, when its worker is lost.
    """
    if not isinstance(restarts, int) or restarts < 0:
        raise ValueError(f"restarts is a number of times, 0 or more, not {restarts!r:.100}")
    restarts = checked_int("restarts=", restarts, 0)
    core = submission.core
    made = submission.functions.dump(functools.partial(make_actor, cls))
    name = serialize.function_name(cls)
    with submission.sent.using(made._replace(name=name)) as sent:
        data, inputs = serialize.dump_call(args, kwargs or None)
        name = text_of_key(key) if key is not None else core.link.new_key(name)
        (future,), new = core.table.get_or_make([name])
        if new:
            columns = [inputs] if inputs else []
            message = m.SubmitTasks(sent.id, [name], [data], columns, terms=requirements, actor=restarts)
            core.link.send(message)
    return future


def map_actors(
    submission: Submission,
    cls: Callable[..., Any],
    iterables: Sequence[Iterable[Any]],
    kwargs: dict[str, Any],
    key: str | Sequence[Key] | None,
    *,
    restarts: int,
    requirements: m.Terms | None,
) -> list[Future[Any]]:
    """Make an actor for each item (or tuple of items), as :func:`submit_actor`."""
    rows = list(zip(*iterables, strict=False))
    keys = [f"{key}-{i}" for i in range(len(rows))] if isinstance(key, str) else key
    return [
        submit_actor(
            submission,
            cls,
            args,
            kwargs,
            key=keys[i] if keys else None,
            restarts=restarts,
            requirements=requirements,
        )
        for i, args in enumerate(rows)
    ]


def restore_actor(key: str, place: str, worker: str, class_name: str, methods: tuple[str, ...]) -> Actor:
    """Return the proxy of an actor: what the address that its worker sends is unpickled as."""
    return Actor(key, place, worker, class_name, methods)
