"""What a client is made of: its connection to the head, its futures, and what goes in and out for them.

Threads: the user's threads pickle, make futures and put messages into ``_outgoing``; the loop thread
(:mod:`hpclaunch.link.loop`) sends them, and takes outcomes in. One condition guards the step of a future out of
"pending"; the rest relies on single operations of deque and dict being atomic.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpclaunch.client.calls.actors import Actor, ActorCalls
from hpclaunch.client.futures.callbacks import CallbackThread, call_back
from hpclaunch.client.futures.fences import Fences
from hpclaunch.client.futures.free_memory import PART, Stored, check, explained
from hpclaunch.client.futures.future import (
    CANCELLED,
    DONE,
    FAILED,
    LOST,
    PENDING,
    STORED,
    Future,
    is_gone,
    new_future,
)
from hpclaunch.client.futures.outstanding import UnendedCalls
from hpclaunch.client.futures.timeout_errors import late, late_results
from hpclaunch.client.submission.functions import FunctionCache, SentFunctions, Using
from hpclaunch.comm import messages as m
from hpclaunch.comm import serialize, tls
from hpclaunch.comm.fetch import Fetcher
from hpclaunch.comm.mending import mend
from hpclaunch.comm.texts import checked_text, escaped
from hpclaunch.errors import CommClosedError, HPCLaunchError, PeerError, PeerSilentError, UnknownTaskError
from hpclaunch.link.liveness import look_after
from hpclaunch.link.loop import loop_thread
from hpclaunch.link.session import HeadSession
from hpclaunch.notes import warn_from_afar
from hpclaunch.tasks.context import TaskFacts, here, stepping_aside

log = logging.getLogger("hpclaunch.client")

#: Seconds between two looks of a task that waits at whether it was cancelled itself.
_GLANCE_SECONDS = 0.2
#: Large results that are fetched at the same time.
_FETCHES = 16


class ClientCore:
    """The connection, and the futures that hang on it.

    :param cluster: a cluster object; the name of a running cluster, its directory or its cluster file.
    :param name: shown on the cluster's side.
    :param timeout: seconds to wait for the head.
    :param asynchronous: connect in :meth:`_start`, and have calls that block return awaitables.
    """

    def __init__(self, cluster: Any, *, name: str | None, timeout: float, asynchronous: bool = False) -> None:
        self.asynchronous = asynchronous
        self._is_open = False
        self._complaints: set[Callable[[HPCLaunchError], None]] = set()  # who is told that the cluster can't work
        self.cluster = None if isinstance(cluster, str | os.PathLike) else cluster
        self.name = f"{checked_text('name=', name or 'client')}-{secrets.token_hex(4)}"
        self._tag = secrets.token_hex(3)
        self._numbers = itertools.count(1)  # one for each submission or fence; next() on it is atomic
        self._futures: dict[str, weakref.ref[Future]] = {}
        self._fences = Fences()  # guarded by _changed
        self._kept: set[Future] = set()  # pending, with callbacks
        self._unended = UnendedCalls()  # of executors
        self._released: deque[str] = deque()
        self._outgoing: deque[m.Message] = deque()
        self._functions = FunctionCache()
        self._sent = SentFunctions(self._send)
        self._flush_due = False
        self._withdrawing: asyncio.Future[None] | None = None
        self._changed = threading.Condition()
        self._failure: HPCLaunchError | None = None
        self._closed = ""  # why nothing more can be sent
        self._has_closed = False
        # Guards the forgetting of futures against the making of others of their keys.
        self._lock = threading.Lock()
        self._callbacks: CallbackThread | None = None
        self._actor_calls: ActorCalls | None = None
        self._thread = loop_thread()
        self._opening = (cluster, timeout)
        self._session: HeadSession
        self._result_memory: float | None = PART  # of what is free here, that results may have
        if not asynchronous:
            self._session = self._thread.run(self._open(cluster, timeout))
            self._is_open = True

    @property
    def id(self) -> str:
        """What the cluster knows this client by."""
        return self.name

    @property
    def status(self) -> str:
        """ "connecting", "running" or "closed"."""
        return "closed" if self._closed else "running" if self._is_open else "connecting"

    @property
    def futures(self) -> dict[Any, Future]:
        """The futures of this client that somebody still has, by key."""
        known = [reference() for reference in list(self._futures.values())]
        return {future.key: future for future in known if future is not None and not is_gone(future)}

    async def _start(self) -> None:
        """Connect; called on the user's own loop."""
        if self._is_open:
            return
        opening = asyncio.run_coroutine_threadsafe(self._open(*self._opening), self._thread.loop)
        self._session = await asyncio.wrap_future(opening)
        self._is_open = True
        self._schedule_flush()

    async def _open(self, cluster: Any, timeout: float) -> HeadSession:
        if hasattr(cluster, "open_session"):
            session: HeadSession = await cluster.open_session(
                name=self.name, on_messages=self._on_messages, on_lost=self._on_lost
            )
            facts: Mapping[str, Any] = cluster.facts
            directory = cluster.directory
        else:
            from hpclaunch.rundir import find_cluster, read_facts

            directory = find_cluster(cluster)
            session = await HeadSession.open(
                directory, name=self.name, on_messages=self._on_messages, on_lost=self._on_lost, timeout=timeout
            )
            facts = read_facts(directory)
        self._result_memory = facts.get("result_memory", PART)
        if session.comm is not None:
            session.comm.on_unsendable = self._on_unsendable
        session.listen(self._on_notice)
        session.on_warning, session.on_recovered = warn_from_afar, self._on_recovered
        hello = m.Hello(
            m.PROTOCOL_VERSION, "peer", self.name, facts["id"], host=socket.gethostname(), pid=os.getpid()
        )
        context = getattr(cluster, "peer_context", None)
        if context is None and directory is not None and facts.get("security", True):
            context = tls.client_context(Path(directory), "client")
        self._fetcher = Fetcher(hello, context, lambda: session.comm)
        self._looking = asyncio.ensure_future(look_after(session, self._is_waiting))
        return session

    def _is_waiting(self) -> bool:
        """Say whether somebody may wait for the head: a future is pending, or a question is not answered."""
        if self._session.is_asking:
            return True
        known = (reference() for reference in list(self._futures.values()))
        return any(future is not None and future._status == PENDING for future in known)

    def _defining(self, function: Callable[..., Any]) -> Using:
        """Have the head know a function inside a ``with`` block."""
        if not callable(function):
            raise TypeError(f"the first argument must be a function, not {function!r}")
        return self._sent.using(self._functions.dump(function))

    def _stem(self, name: str) -> str:
        """Return a key, or the beginning of keys, that nobody else has."""
        return f"{name}-{self._tag}-{next(self._numbers)}"

    def _future(self, key: str) -> tuple[Future, bool]:
        """Return the future for a key, and whether it is new."""
        new = new_future(key, self)  # type: ignore[arg-type]  # each is a Client
        known = self._futures.setdefault(key, new_ref := weakref.ref(new))
        if known is new_ref:
            return new, True
        with self._lock:
            future = self._futures.get(key, known)()
            if future is None or is_gone(future):  # its release has not been sent, and will not be
                self._futures[key] = new_ref
                return new, True
        return future, False

    def _new_futures(self, keys: Sequence[str]) -> list[Future]:
        """Return futures for keys that nobody has ever used."""
        futures = [new_future(key, self) for key in keys]  # type: ignore[arg-type]  # each is a Client
        self._futures.update(zip(keys, map(weakref.ref, futures), strict=True))
        return futures

    def _named(self, keys: Sequence[str], *, anew: bool = True) -> tuple[list[Future], list[int]]:
        """Return futures for keys that may have been used before, and which of them are new, each once.

        A future that was cancelled, or of a task that nobody knew, is not used again. Nor is a task that this
        client has let go, if ``anew``, though the head may not know that yet. News of earlier tasks will not reach
        the new futures.
        """
        futures: list[Future] = []
        new: list[int] = []
        ended: list[str] = []
        with self._lock, self._changed:
            for i, key in enumerate(keys):
                known = self._futures.get(key)
                future = known() if known is not None else None
                if future is not None and is_gone(future):
                    future = None
                if future is None or future._status in (CANCELLED, LOST):
                    if known is not None and (anew or future is not None):
                        ended.append(key)
                    future = new_future(key, self)  # type: ignore[arg-type]  # each is a Client
                    self._futures[key] = weakref.ref(future)
                    new.append(i)
                futures.append(future)
            if ended:
                self._send(m.ReleaseKeys(ended))
            if new:
                number = next(self._numbers)
                self._fences.put_up(number, [keys[i] for i in new])
                self._send(m.Fence(number))
        return futures, new

    def _want(self, key: str) -> Future:
        """Return a future of a task that somebody else has submitted."""
        (future,), new = self._named([key], anew=False)
        if new:
            self._send(m.WantKeys([key]))
        return future

    def _name_in_result(self, key: str) -> None:
        """A future is pickled to stay one: in a task it goes out with the result, which keeps what it names."""
        place = here.place
        if place is not None and place.thread is not None:  # not in a method of an actor, which has no end
            self._send(m.ResultNames(place.key, [key]))
            place.unheard = self  # type: ignore[assignment]  # the task's end must not be heard before

    def _be_heard(self) -> None:
        """Wait until the head has heard all that was said so far."""
        with self._changed:
            number = next(self._numbers)
            self._fences.put_up(number, ())
            with contextlib.suppress(CommClosedError):
                self._send(m.Fence(number))
            while self._fences.stands(number) and not self._closed:
                self._changed.wait()

    def _is_current(self, future: Future) -> bool:
        """Say whether news of a future's key reach it: it was not released, nor is its key used again."""
        known = self._futures.get(future._key)
        return known is not None and known() is future

    def _forget(self, future: Future) -> None:
        """Release a future that is still held."""
        with self._lock:
            if self._is_current(future):
                del self._futures[future._key]
                self._send(m.ReleaseKeys([future._key]))

    # --- waiting

    def _wait_for(self, futures: Sequence[Future], timeout: float | None) -> None:
        """Wait until all of ``futures`` have ended; in a task, let others have its thread meanwhile."""
        self._thread.check_blocking()
        if here.place is None:
            self._wait_here(futures, timeout, None)
            return
        with stepping_aside() as task:
            self._wait_here(futures, timeout, task)

    def _wait_here(self, futures: Sequence[Future], timeout: float | None, task: TaskFacts | None) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            for future in futures:
                while future._status == PENDING:
                    if self._failure is not None:
                        raise self._failure
                    if self._closed:
                        raise CommClosedError(f"task {future._key} has no result: {self._closed}")
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        raise late(futures, timeout or 0.0)
                    if task is not None:
                        task.check()
                        left = _GLANCE_SECONDS if left is None else min(left, _GLANCE_SECONDS)
                    self._changed.wait(left)

    def _fetch(self, futures: Sequence[Future], timeout: float | None) -> list[Any]:
        """Get large results from those who hold them.

        :raises ResultTooLargeError: there is no memory for them here.
        """
        results = {future._key: data for future in futures if type(data := future._data) is Stored}
        check(results, self._result_memory)
        try:
            return self._fetch_in_turn(futures, timeout)
        except (MemoryError, OSError) as error:
            explanation = explained(error, results)
            if explanation is None or explanation is error:
                raise
            raise explanation from error

    def _fetch_in_turn(self, futures: Sequence[Future], timeout: float | None) -> list[Any]:
        until = None if timeout is None else time.monotonic() + timeout
        values: list[Any] = []
        for start in range(0, len(futures), _FETCHES):
            some = futures[start : start + _FETCHES]
            left = None if until is None else max(0.0, until - time.monotonic())
            try:
                payloads = self._thread.run(self._fetch_all(some), left)
            except TimeoutError:
                raise late_results(some, timeout or 0.0) from None
            for future, payload in zip(some, payloads, strict=True):
                if payload is None:  # lost with its worker: it is being made again
                    left = None if until is None else max(0.0, until - time.monotonic())
                    values.append(future.result(left))
                else:
                    values.append(self._load(future, payload))
        return values

    def _load(self, future: Future, payload: serialize.Payload) -> Any:
        """Unpickle a large result; an actor's proxy holds its future from then on."""
        value = serialize.load_value(*payload)
        if type(value) is Actor:
            value._future, value._client = future, self
        return value

    async def _fetch_all(self, futures: Sequence[Future]) -> list[serialize.Payload | None]:
        fetches = [asyncio.ensure_future(self._fetch_one(future)) for future in futures]
        try:
            return await asyncio.gather(*fetches)
        finally:
            for fetch in fetches:  # if one of them has failed
                fetch.cancel()

    async def _fetch_one(self, future: Future) -> serialize.Payload | None:
        """Get a large result. None: those who should have it do not, and the future is pending again, or lost."""
        stored = future._data
        if future._status != STORED:
            return None
        payload = await self._fetcher.fetch(stored.places, future._key)
        if payload is not None:
            return payload
        with self._changed:
            if future._status == STORED and future._data is stored:  # nobody else was quicker, or knows better
                if not self._is_current(future):
                    text = f"the result of task {future._key} was let go by release()"
                    future._data, future._status = m.Failure("LostResultError", text), FAILED
                elif self._closed:
                    future._data, future._status = CommClosedError(self._closed), LOST
                else:
                    future._data, future._status = None, PENDING
                    self._send(m.LocateKeys([future._key], [stored.places]))
        return None

    def _actors(self) -> ActorCalls:
        """Return what calls actors for this client."""
        if self._actor_calls is None:
            with self._lock:
                if self._actor_calls is None:
                    calls = self._actor_calls = ActorCalls(self)
                    self._fetcher.on_reply = calls.on_reply
                    self._fetcher.on_source_lost = calls.on_source_lost
        return self._actor_calls

    # --- releasing

    def _note_release(self, key: str) -> None:
        self._released.append(key)
        if not self._flush_due:
            self._schedule_flush()

    # --- to the head

    def _ask(self, method: str, timeout: float | None = None, **params: Any) -> Any:
        """Ask the head something; see :meth:`HeadSession.ask`."""
        return self._thread.run(self._ask_living(method, **params), timeout)

    async def _request(self, method: str, **params: Any) -> Any:
        self._flush()  # what the user has sent before shall arrive before
        return await self._session.request(method, **params)

    async def _ask_living(self, method: str, **params: Any) -> Any:
        """As :meth:`_request`.

        :raises PeerSilentError: the head does not answer, and shows no life.
        """
        self._flush()
        try:
            return await self._session.ask(method, **params)
        except PeerSilentError as error:
            raise PeerSilentError(
                f"the head at {self._session.address} does not answer: {error}. It is frozen, or its machine is "
                "very busy; ask again later. Futures are still good"
            ) from None

    def _send(self, message: m.Message) -> None:
        self._thread.check_process()
        if self._closed:
            raise CommClosedError(f"client {self.name} is closed: {self._closed}")
        self._outgoing.append(message)
        self._schedule_flush()

    def _on_unsendable(self, message: m.Message, error: Exception) -> m.Message | None:
        """A message can't be encoded, though its parts were checked: tasks in it fail, and no others."""
        if type(message) is not m.SubmitTasks:
            return mend(message, error)
        text = escaped(f"the call can't be sent: {error}. One of its options has a value that no message holds")
        failure = m.Failure("SerializationError", text)
        self._end([(key, FAILED, failure) for key in message.keys])
        return None

    def _schedule_flush(self) -> None:
        if not self._flush_due and not self._closed and not self._thread.is_foreign:
            self._flush_due = True
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                self._thread.loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        """Send what has been queued; runs on the loop."""
        self._flush_due = False
        if not self._is_open:
            return
        comm = self._session.comm
        if comm is None or comm.is_closed:
            return
        released = [self._released.popleft() for _ in range(len(self._released))]
        while self._outgoing:  # all that was queued before the keys above were released, at least
            comm.put(self._outgoing.popleft())
        gone: list[str] = []
        with self._lock:
            for key in released:
                known = self._futures.get(key)
                if known is not None and is_gone(known()):
                    del self._futures[key]
                    gone.append(key)
        if gone:
            comm.put(m.ReleaseKeys(gone))
        comm.flush()

    # --- from the head

    def _on_messages(self, messages: list[m.Message], buffers: list[memoryview]) -> None:
        for message in messages:
            if type(message) is m.TasksDone:
                self._on_done(message)
            elif type(message) is m.TasksStored:
                stored = zip(message.keys, message.holders, message.sizes, strict=True)
                self._end([(key, STORED, Stored(places, size)) for key, places, size in stored], is_news=True)
            elif type(message) is m.TasksFailed:
                self._on_failed(message)
            elif type(message) is m.TasksCancelled:
                self._end([(key, CANCELLED, None) for key in message.keys], is_news=True)
            elif type(message) is m.TasksRetried:
                self._on_retried(message)
            elif type(message) is m.Fence:
                with self._changed:
                    self._fences.take_down(message.number)
                    self._changed.notify_all()
            elif type(message) is m.Data:
                self._fetcher.on_data(message, buffers)
            elif type(message) is m.ActorReply:
                self._actors().on_reply(message, buffers, "head")

    def _on_done(self, message: m.TasksDone) -> None:
        """Take small results in: the hot path."""
        futures = self._futures
        watched: list[Future] = []
        with self._changed:
            self._failure = None
            news: Any = zip(message.keys, message.results, strict=True)
            for key, data in news if not self._fences.keys else self._fences.sift(news):
                known = futures.get(key)
                future = known() if known is not None else None
                if future is not None and future._status == PENDING:
                    future._data = data
                    future._status = DONE
                    if future._watchers is not None:
                        watched.append(future)
            self._changed.notify_all()
        self._call_watchers(watched)

    def _on_failed(self, message: m.TasksFailed) -> None:
        unknown = UnknownTaskError.__name__
        failed = zip(message.keys, message.failures, strict=True)
        self._end([(key, LOST if one.kind == unknown else FAILED, one) for key, one in failed], is_news=True)

    def _on_retried(self, message: m.TasksRetried) -> None:
        """Tasks that had failed are run once more, because this client or another has asked for it."""
        with self._changed:
            for (key,) in self._fences.sift((key,) for key in message.keys):
                known = self._futures.get(key)
                future = known() if known is not None else None
                if future is not None and future._status == FAILED:
                    future._data, future._status = None, PENDING

    def _end(self, outcomes: Iterable[tuple[str, int, Any]], *, is_news: bool = False) -> None:
        """Move futures out of pending. What the head says may be of earlier tasks of their keys."""
        watched: list[Future] = []
        with self._changed:
            for key, status, data in self._fences.sift(outcomes) if is_news else outcomes:
                known = self._futures.get(key)
                future = known() if known is not None else None
                if future is None:
                    continue
                if future._status == PENDING:
                    future._data = data
                    future._status = status
                    if future._watchers is not None:
                        watched.append(future)
                elif future._status == status == STORED:  # it was made again
                    future._data = data
            self._changed.notify_all()
        self._call_watchers(watched)

    def _call_watchers(self, futures: list[Future]) -> None:
        for future in futures:
            watchers, future._watchers = future._watchers or [], None
            for watcher in watchers:
                watcher(future)

    def _watch(self, future: Future, watcher: Callable[[Future], None]) -> None:
        """Call ``watcher`` from the loop when ``future`` has ended; at once if it has."""
        with self._changed:
            if future._status == PENDING:
                future._watchers = [*(future._watchers or ()), watcher]
                return
        watcher(future)

    def _on_notice(self, error: HPCLaunchError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()
        for complain in list(self._complaints):
            complain(error)

    def _on_recovered(self) -> None:
        self._failure = None

    @contextlib.contextmanager
    def _complaining(self, complain: Callable[[HPCLaunchError], None]) -> Iterator[None]:
        """Have somebody told inside this block that the cluster can't work, from any thread."""
        self._complaints.add(complain)
        if self._failure is not None:
            complain(self._failure)
        try:
            yield
        finally:
            self._complaints.discard(complain)

    def _on_lost(self, error: PeerError) -> None:
        if not self._has_closed:
            self._unended.complain(str(error), warn_from_afar)
        self._closed = self._closed or str(error)
        self._fetcher.on_head_lost(str(error))
        self._end([(key, LOST, error) for key in list(self._futures)])

    # --- callbacks

    def _callback_caller(self, function: Callable[[Future], Any]) -> Callable[[Future], None]:
        """Return a watcher that has ``function`` called in the callback thread.

        Its future must be in ``_kept``: someone who asks to be called may have no other hold on it.
        """
        with self._lock:
            if self._has_closed:  # all futures have ended, so it will be called at once
                self._kept.clear()
                return lambda future: call_back(function, future)
            if self._callbacks is None:
                self._callbacks = CallbackThread()
            callbacks = self._callbacks

        def watcher(future: Future) -> None:
            callbacks.put(function, future)
            self._kept.discard(future)

        return watcher

    # --- the end

    def close(self) -> None:
        """Release all futures and disconnect."""
        if not self._has_closed:
            self._has_closed = True
            self._unended.complain("the client was closed")
            self._closed = self._closed or "it was closed by close()"
            self._thread.run(self._close())
            error = CommClosedError("the client was closed")
            self._end([(key, LOST, error) for key in list(self._futures)])
        with self._lock:
            callbacks, self._callbacks = self._callbacks, None
        if callbacks is not None:
            callbacks.end()

    async def _close(self) -> None:
        if not self._is_open:
            return
        self._flush()
        self._looking.cancel()
        if self._actor_calls is not None:  # before their connections close, which would have them looked for
            self._actor_calls.close(CommClosedError("the client was closed"))
        self._fetcher.close()
        self._session.close()
