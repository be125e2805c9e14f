"""Calling objects that live on workers: ``client.submit(Counter, actor=True).result().increment().result()``.

A call goes from here straight to the actor's worker, or through the head where the network forbids that, and is
answered on the same way. Calls of one caller are carried out in their order. When the actor's worker is lost,
calls that have not been answered raise ActorError, for nobody knows whether they were carried out; later calls
reach the actor where it was made anew, or raise ActorError too if it was not to be.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hpclaunch.client.futures.future import DONE, PENDING, STORED, Future
from hpclaunch.client.submission.options import timeout_seconds
from hpclaunch.comm import messages as m
from hpclaunch.comm import serialize
from hpclaunch.comm.keys import Key, text_of_key
from hpclaunch.comm.texts import checked_int, escaped
from hpclaunch.errors import ActorError, HPCLaunchError, LostResultError, PeerError
from hpclaunch.link.facade import is_awaiting, soon
from hpclaunch.tasks.context import TaskFacts, stepping_aside, task_client
from hpclaunch.worker.actors import make_actor, restore_actor

if TYPE_CHECKING:
    from hpclaunch.client.core import ClientCore
    from hpclaunch.comm.connection import Comm

#: Seconds for which a task waits for an answer before it lets others have its thread, and between two looks at
#: whether it was cancelled meanwhile.
_SHORT_SECONDS = 0.2
#: Seconds between two questions for where an actor is that has just been lost.
_ASK_SECONDS = 0.05
#: Seconds to wait for answers to calls that were made before an actor was found to be gone.
_GRACE_SECONDS = 1.0


class Actor:
    """An object on a worker. Methods give an :class:`ActorFuture` at once; other attributes are fetched.

    It can be passed to tasks, and to other actors. It lives as long as its future, or a proxy that came from that.
    """

    def __init__(self, key: str, place: str, worker: str, class_name: str, methods: tuple[str, ...]) -> None:
        self._key = key
        self._place = place
        self._worker = worker
        self._class_name = class_name
        self._methods = frozenset(methods)
        self._future: Future | None = None
        self._client: ClientCore | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{name!r} of an actor can't be reached from outside")
        if escaped(name) != name:
            raise AttributeError(f"an actor has no attribute {name!r:.100}, which UTF-8 can't encode")
        calls = self._calls()
        if name not in self._methods:
            answer = calls.call(self, name, None)
            return answer if is_awaiting(self._client) else answer.result()

        def method(*args: Any, **kwargs: Any) -> ActorFuture:
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
        client = self._client or task_client()
        if client is None:
            from hpclaunch.client.current import get_client

            client = get_client()
        self._client = client
        return client._actors()

    def __reduce__(self) -> Any:
        if self._future is not None and serialize.is_collecting():
            return self._future.__reduce__()
        return restore_actor, (self._key, self._place, self._worker, self._class_name, tuple(self._methods))

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._methods})

    def __repr__(self) -> str:
        return f"<Actor {self._class_name}, key: {self._key}, worker: {self._worker}>"


class ActorFuture:
    """The answer to one call of an actor."""

    __slots__ = ("__weakref__", "_client", "_error", "_payload", "_watchers")

    def __init__(self, client: ClientCore) -> None:
        self._client = client
        self._payload: tuple[Any, Any] | None = None
        self._error: BaseException | None = None
        self._watchers: list[Callable[[], None]] | None = None

    def result(self, timeout: str | float | None = None) -> Any:
        """Wait for the answer and return it, or raise what the method raised.

        :param timeout: seconds to wait, or a text such as "500 ms"; None is for ever.
        :raises ActorError: the actor was lost; whether the call was carried out is not known.
        :raises TimeoutError: it took longer.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        assert self._payload is not None
        return serialize.load_value(*self._payload)

    def exception(self, timeout: str | float | None = None) -> BaseException | None:
        """Wait for the answer; return what the method raised, or None."""
        self._wait_for(timeout_seconds(timeout))
        return self._error

    def _wait_for(self, timeout: float | None) -> None:
        """Wait for the answer, or what came instead of one.

        :raises TimeoutError: it took longer than ``timeout`` seconds.
        """
        if self.done():
            return
        self._client._thread.check_blocking()
        until = None if timeout is None else time.monotonic() + timeout
        if not self._wait(_SHORT_SECONDS if timeout is None else min(timeout, _SHORT_SECONDS), None):
            with stepping_aside() as task:  # the actor may be made anew on this very worker
                if not self._wait(None if until is None else until - time.monotonic(), task):
                    raise TimeoutError(
                        f"the actor has not answered within {timeout:g} s: its calls are carried out in their "
                        "order, and one of them, or its worker, takes longer; ask again, with more time"
                    )

    def _wait(self, seconds: float | None, task: TaskFacts | None) -> bool:
        """Wait for the answer; say whether it is here."""
        until = None if seconds is None else time.monotonic() + seconds
        with self._client._changed:
            while not self.done():
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                if task is not None:
                    task.check()
                    left = _SHORT_SECONDS if left is None else min(left, _SHORT_SECONDS)
                self._client._changed.wait(left)
        return True

    def done(self) -> bool:
        """True once the answer is here."""
        return self._payload is not None or self._error is not None

    @property
    def _has_failed(self) -> bool:
        return self._error is not None

    def __await__(self) -> Generator[Any, None, Any]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self._watch(lambda: soon(loop, _set, ended))
        yield from ended
        return self.result()

    def _watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` once the answer is here, from the loop; at once if it is."""
        with self._client._changed:
            if not self.done():
                self._watchers = [*(self._watchers or ()), watcher]
                return
        watcher()

    def __repr__(self) -> str:
        return f"<ActorFuture {'finished' if self.done() else 'pending'}>"


class _Call(NamedTuple):
    order: int
    actor: Actor
    name: str
    args: bytes | None
    future: ActorFuture


class ActorCalls:
    """All calls of actors by one client. Its methods but :meth:`call` run on the loop."""

    def __init__(self, core: ClientCore) -> None:
        self._core = core
        self._queue: deque[_Call] = deque()
        self._flush_due = False
        self._lines: dict[str, _Line] = {}
        self._numbers = itertools.count(1)
        self._orders = itertools.count()
        self._ended: deque[tuple[ActorFuture, Any, BaseException | None]] = deque()
        self._end_due = False

    def call(self, actor: Actor, name: str, args: bytes | None) -> ActorFuture:
        """Call a method, or ask for an attribute (``args`` is None)."""
        future = ActorFuture(self._core)
        self._core._thread.check_process()
        self._queue.append(_Call(next(self._orders), actor, name, args, future))
        if not self._flush_due:
            self._flush_due = True
            self._core._thread.loop.call_soon_threadsafe(self._flush)
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
                self._core._fetcher.on_relayed(line.via)
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

    def end(self, future: ActorFuture, payload: Any, error: BaseException | None) -> None:
        """Give a future its answer; those of one turn of the loop wake their waiters together."""
        self._ended.append((future, payload, error))
        if not self._end_due:
            self._end_due = True
            self._core._thread.loop.call_soon(self._end_all)

    def _end_all(self) -> None:
        self._end_due = False
        watchers: list[Callable[[], None]] = []
        with self._core._changed:
            while self._ended:
                future, payload, error = self._ended.popleft()
                if not future.done():
                    future._payload, future._error = payload, error
                    watchers += future._watchers or ()
            self._core._changed.notify_all()
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
            task = self._core._thread.loop.create_task(self._explain(list(lost.values()), reason))
            self._explaining = task

    async def _explain(self, calls: list[_Call], reason: str) -> None:
        """Say why calls have no answer: in the head's words if the actor has ended."""
        actor = calls[0].actor
        error: BaseException
        try:
            await self._locate(actor)
            again = "it is reached again, or was made anew"
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
            self._opening = self._core._thread.loop.create_task(self._send_backlog())

    async def _send_backlog(self) -> None:
        """Find the actor, and send what waits."""
        while self.backlog:
            try:
                if self._is_lost:
                    await self._until_answered()
                    self._place = await self._locate(self.backlog[0].actor)
                    self._is_lost = False
                self._comm, self.via, self.source = await self._core._fetcher.way_to(self._place)
            except PeerError as error:
                if self._core._closed:
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
        future = actor._future or self._core._want(actor._key)
        while True:
            payload = await self._core._fetch_one(future)
            if payload is not None:
                found: Actor = serialize.load_value(*payload)
                actor._place, actor._worker = found._place, found._worker
                return found._place
            await self._ended(future)
            if future._status not in (PENDING, STORED, DONE):
                raise _why_gone(actor, future)
            await asyncio.sleep(_ASK_SECONDS)

    async def _ended(self, future: Future) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        self._core._watch(future, lambda _: _wake(loop, ended))
        await ended


def _why_gone(actor: Actor, future: Future) -> BaseException:
    """Return the error of calls of an actor that is no more."""
    error = future._error()
    if isinstance(error, LostResultError):
        return ActorError(
            f"actor {actor._key} was let go: nobody keeps its future, or the proxy that came from that"
        )
    return error


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    loop.call_soon_threadsafe(_set, future)


def submit_actor(
    core: ClientCore,
    cls: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    key: Key | None,
    restarts: int,
    **options: Any,
) -> Future:
    """Make an actor on some worker; the future's result is its proxy.

    :param restarts: how often to make it anew, from its arguments, when its worker is lost.
    """
    import functools

    if not isinstance(restarts, int) or restarts < 0:
        raise ValueError(f"restarts is a number of times, 0 or more, not {restarts!r:.100}")
    restarts = checked_int("restarts=", restarts, 0)
    made = core._functions.dump(functools.partial(make_actor, cls))
    name = serialize.function_name(cls)
    with core._sent.using(made._replace(name=name)) as sent:
        data, inputs = serialize.dump_call(args, kwargs or None)
        (future,), new = core._named([text_of_key(key) if key is not None else core._stem(name)])
        if new:
            columns = [inputs] if inputs else []
            core._send(m.SubmitTasks(sent.id, [future._key], [data], columns, actor=restarts, **options))
    return future
