"""The user's way to a cluster: submit functions, get futures.

Threads: the user's threads pickle, make futures and put messages into ``_outgoing``; the loop thread
(:mod:`hpclaunch.client.sync`) sends them, and takes outcomes in. One condition guards the step of a future out of
"pending"; the rest relies on single operations of deque and dict being atomic.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import queue
import secrets
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpclaunch.client import graph
from hpclaunch.client.functions import FunctionCache
from hpclaunch.client.future import CANCELLED, DONE, FAILED, LOST, PENDING, STORED, Future
from hpclaunch.client.session import HeadSession
from hpclaunch.client.sync import loop_thread
from hpclaunch.client.waiting import flatten, rebuild
from hpclaunch.comm import messages as m
from hpclaunch.comm import serialize, tls
from hpclaunch.comm.fetch import Fetcher
from hpclaunch.errors import CommClosedError, HPCLaunchError, PeerError, SerializationError

log = logging.getLogger("hpclaunch.client")

#: Tasks of one map that are sent in one message: workers begin while the rest is being pickled.
_MAP_CHUNK = 4096
#: Bytes of arguments after which such a message is sent, however few tasks it has.
_MAP_BYTES = 16 << 20
#: Bytes of arguments of one call, or of a function. They travel in messages, which are not made for bulk data.
_MAX_CALL = 1 << 30
#: Large results that are fetched at the same time.
_FETCHES = 16
#: A key must fit where a worker notes what it runs.
_MAX_KEY = 400


class Client:
    """A connection to a cluster, to run functions on it.

    :param cluster: a cluster object; the name of a running cluster, its directory or its cluster file; or None:
        the cluster of the surrounding ``with`` block, the one named by ``$HPCLAUNCH_CLUSTER``, or a new
        :class:`~hpclaunch.LocalCluster`, which ends with the client.
    :param name: shown on the cluster's side.
    :param timeout: seconds to wait for the head.
    :param local: further arguments go to the new LocalCluster.
    :raises ClusterNotFoundError: nothing runs by that name.
    """

    def __init__(
        self, cluster: Any = None, *, name: str | None = None, timeout: float = 10.0, **local: Any
    ) -> None:
        self._own_cluster: Any = None
        if cluster is None:
            from hpclaunch.cluster.current import current_or_new_cluster

            cluster, is_own = current_or_new_cluster(**local)
            self._own_cluster = cluster if is_own else None
        elif local:
            raise TypeError(f"{', '.join(local)} go with a new LocalCluster, not with {cluster!r}")
        self.cluster = None if isinstance(cluster, str | os.PathLike) else cluster
        self.name = f"{name or 'client'}-{secrets.token_hex(4)}"
        self._tag = secrets.token_hex(3)
        self._numbers = itertools.count()  # one for each submission; next() on it is atomic
        self._futures: dict[str, weakref.ref[Future]] = {}
        self._kept: set[Future] = set()  # pending, with callbacks
        self._released: deque[str] = deque()
        self._outgoing: deque[m.Message] = deque()
        self._functions = FunctionCache()
        self._sent_functions: set[bytes] = set()
        self._flush_due = False
        self._changed = threading.Condition()
        self._failure: HPCLaunchError | None = None
        self._closed = ""  # why nothing more can be sent
        self._has_closed = False
        self._lock = (
            threading.Lock()
        )  # guards the forgetting of futures against the making of others of their keys
        self._callbacks: queue.SimpleQueue[_Callback | None] | None = None
        self._thread = loop_thread()
        self._session: HeadSession = self._thread.run(self._open(cluster, timeout))

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
        session.listen(self._on_notice)
        secure = facts.get("security", True) and directory is not None
        hello = m.Hello(
            m.PROTOCOL_VERSION, "peer", self.name, facts["id"], host=socket.gethostname(), pid=os.getpid()
        )
        context = tls.client_context(Path(directory), "client") if secure else None
        self._fetcher = Fetcher(hello, context, lambda: session.comm)
        return session

    # --- submitting

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        key: str | None = None,
        retries: int = 0,
        priority: int = 0,
        **kwargs: Any,
    ) -> Future:
        """Run ``function(*args, **kwargs)`` on the cluster.

        Futures among the arguments, also inside lists, dicts or objects, arrive as their results.

        :param key: a name for the task; a task of this name that exists is used instead of a new one.
        :param retries: how often to run it again if it raises.
        :param priority: higher runs first.
        :raises SerializationError: the function or an argument can't be pickled.
        """
        sent = self._define(function)
        data, inputs = serialize.dump_call(args, kwargs or None)
        _check_size(len(data), sent.name)
        key = self._check_key(key) if key is not None else self._stem(sent.name)
        future, is_new = self._future(key)
        if is_new:
            self._send(m.SubmitTasks(sent.id, [key], [data], [inputs] if inputs else [], retries, priority))
        return future

    def map(
        self,
        function: Callable[..., Any],
        *iterables: Iterable[Any],
        key: str | Sequence[str] | None = None,
        retries: int = 0,
        priority: int = 0,
        **kwargs: Any,
    ) -> list[Future]:
        """Run ``function`` for each item (or each tuple of items of several iterables); return a future each.

        :param key: a prefix for the tasks' names, or a sequence of names.
        :param kwargs: passed to each call; sent once, however many calls there are.
        :raises SerializationError: the function or an argument can't be pickled.
        """
        if kwargs:
            function, kwargs = self._bind(function, kwargs)
        sent = self._define(function)
        calls = list(zip(*iterables, strict=False))
        if key is None or isinstance(key, str):
            prefix = self._check_key(key) if key is not None else sent.name
            stem = self._stem(prefix)
            keys = [f"{stem}-{i}" for i in range(len(calls))]
        else:
            keys = [self._check_key(one) for one in key]
            if len(keys) != len(calls):
                raise ValueError(f"{len(keys)} keys for {len(calls)} calls")
        futures: list[Future] = []
        while len(futures) < len(calls):
            some = slice(len(futures), len(futures) + _MAP_CHUNK)
            futures += self._map_chunk(sent, keys[some], calls[some], kwargs, retries, priority)
        return futures

    def _map_chunk(
        self,
        sent: serialize.FunctionBytes,
        keys: list[str],
        calls: list[tuple[Any, ...]],
        kwargs: dict[str, Any],
        retries: int,
        priority: int,
    ) -> list[Future]:
        """Send the first of some calls, up to so many bytes; return a future for each of those."""
        dump, keywords = serialize.dump_inline, kwargs or None
        args: list[bytes] = []
        inputs: list[list[str]] = []
        has_inputs = False
        size = 0
        with serialize.collecting() as found:
            for call in calls:
                data = dump((call, keywords))
                args.append(data)
                size += len(data)
                if size > _MAP_BYTES:
                    _check_size(len(data), sent.name)
                    keys = keys[: len(args)]
                if found:
                    has_inputs = True
                    inputs += [[] for _ in range(len(args) - 1 - len(inputs))]
                    inputs.append(list(found))
                    found.clear()
                if size > _MAP_BYTES:
                    break
        if has_inputs:
            inputs += [[] for _ in range(len(args) - len(inputs))]
        futures = [self._future(key)[0] for key in keys]
        self._send(m.SubmitTasks(sent.id, keys, args, inputs, retries, priority))
        return futures

    def get(self, dsk: Mapping[Any, Any], keys: Any, **options: Any) -> Any:
        """Run a task graph (a dict, as Dask makes and documents them) and return the results of ``keys``.

        ``keys`` is a key or nested lists of keys; the results come in the same shape. This is what Dask takes as
        ``scheduler=``: ``x.compute(scheduler=client.get)``. Dask's options are accepted and not needed.

        :raises KeyError: the graph lacks one of ``keys``.
        """
        futures = self._submit_graph(dsk, keys)
        values = dict(zip(futures, self.gather(list(futures.values())), strict=True))
        return graph.rebuild(keys, values)

    def _submit_graph(self, dsk: Mapping[Any, Any], keys: Any) -> dict[Any, Future]:
        """Submit all of a graph that ``keys`` need; return their futures by key."""
        plan = graph.plan(dsk, keys, run=f"{self._tag}-{next(self._numbers)}")
        futures: dict[Any, Future] = {}
        kept: list[Future] = []  # every task of the graph has a future until all are submitted
        for batch in plan.batches:
            sent = self._define_bytes(batch.function)
            kept += [self._future(key)[0] for key in batch.keys]
            self._send(m.SubmitTasks(sent.id, batch.keys, batch.args, batch.inputs))
        by_key = {future.key: future for future in kept}
        for key, name in plan.wanted.items():
            futures[key] = by_key[name]
        return futures

    def _bind(
        self, function: Callable[..., Any], kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Make keywords a part of the function, which travels once, unless there are futures in them."""
        import functools

        with serialize.collecting() as found:
            serialize.dump_inline(kwargs)
        if found:
            return function, kwargs
        return functools.partial(function, **kwargs), {}

    def _define(self, function: Callable[..., Any]) -> serialize.FunctionBytes:
        if not callable(function):
            raise TypeError(f"the first argument must be a function, not {function!r}")
        return self._define_bytes(self._functions.dump(function))

    def _define_bytes(self, sent: serialize.FunctionBytes) -> serialize.FunctionBytes:
        if sent.id not in self._sent_functions:
            _check_size(len(sent.data), sent.name)
            self._send(m.DefineFunction(sent.id, sent.name, sent.data))
            self._sent_functions.add(sent.id)  # now, and no earlier: other threads believe it
        return sent

    def _stem(self, name: str) -> str:
        """Return a key, or the beginning of keys, that nobody else has."""
        return f"{name}-{self._tag}-{next(self._numbers)}"

    def _check_key(self, key: str) -> str:
        if not isinstance(key, str) or not key or len(key.encode()) > _MAX_KEY:
            raise ValueError(f"a key is a text of 1 to {_MAX_KEY} bytes, not {key!r:.100}")
        return key

    def _future(self, key: str) -> tuple[Future, bool]:
        """Return the future for a key, and whether it is new."""
        new = Future(key, self)
        known = self._futures.setdefault(key, new_ref := weakref.ref(new))
        if known is new_ref:
            return new, True
        with self._lock:
            future = self._futures.get(key, known)()
            if future is None:  # its release has not been sent, and will not be
                self._futures[key] = new_ref
                return new, True
        return future, False

    # --- waiting

    def gather(self, futures: Any, errors: str = "raise") -> Any:
        """Wait for futures and return their results, in the same nesting of lists, tuples, sets and dicts.

        :param errors: "raise" raises the first task's error; "skip" leaves failed tasks out.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors is "raise" or "skip", not {errors!r}')
        futures = list(futures) if isinstance(futures, Iterator) else futures
        flat = list(flatten(futures))
        for future in flat:
            if future._status == PENDING:
                self._wait_for((future,), None)
        stored = [f for f in flat if f._status == STORED]
        fetched = dict(zip(stored, self._fetch(stored, None), strict=True)) if stored else {}
        if type(futures) is list and errors == "raise" and not fetched:
            load = serialize.load_value
            return [load(f._data) if f._status == DONE else f.result() for f in flat]
        return rebuild(futures, fetched, skip_errors=errors == "skip")

    def _wait_for(self, futures: Sequence[Future], timeout: float | None) -> None:
        """Wait until all of ``futures`` have ended."""
        until = None if timeout is None else time.monotonic() + timeout
        self._thread.check_blocking()
        with self._changed:
            for future in futures:
                while future._status == PENDING:
                    if self._failure is not None:
                        raise self._failure
                    if self._closed:
                        raise CommClosedError(f"task {future.key} has no result: {self._closed}")
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(f"task {future.key} has not ended within {timeout:g} s")
                    self._changed.wait(left)

    def _fetch(self, futures: Sequence[Future], timeout: float | None) -> list[Any]:
        """Get large results from those who hold them."""
        until = None if timeout is None else time.monotonic() + timeout
        values: list[Any] = []
        for start in range(0, len(futures), _FETCHES):
            some = futures[start : start + _FETCHES]
            left = None if until is None else max(0.0, until - time.monotonic())
            payloads = self._thread.run(self._fetch_all(some), left)
            for future, payload in zip(some, payloads, strict=True):
                if payload is None:  # lost with its worker: it is being made again
                    left = None if until is None else max(0.0, until - time.monotonic())
                    values.append(future.result(left))
                else:
                    values.append(serialize.load_value(*payload))
        return values

    async def _fetch_all(self, futures: Sequence[Future]) -> list[serialize.Payload | None]:
        return await asyncio.gather(*(self._fetch_one(future) for future in futures))

    async def _fetch_one(self, future: Future) -> serialize.Payload | None:
        """Get a large result. None: those who should have it do not, and the future is pending again, or lost."""
        holders = future._data
        if future._status != STORED:
            return None
        payload = await self._fetcher.fetch(holders, future.key)
        if payload is not None:
            return payload
        with self._changed:
            if future._status == STORED and future._data is holders:  # nobody else was quicker, or knows better
                if self._closed:
                    future._data, future._status = CommClosedError(self._closed), LOST
                else:
                    future._data, future._status = None, PENDING
                    self._send(m.LocateKeys([future.key], [holders]))
        return None

    # --- cancelling and releasing

    def cancel(self, futures: Future | Iterable[Future]) -> None:
        """Cancel tasks, and with them all that use their results. Tasks that run already are left to end."""
        some = [futures] if isinstance(futures, Future) else list(futures)
        pending = [f for f in some if f._status == PENDING]
        self._end([(f.key, CANCELLED, None) for f in pending])
        if pending:
            self._send(m.CancelKeys([f.key for f in pending]))

    def _note_release(self, key: str) -> None:
        self._released.append(key)
        self._schedule_flush()

    # --- to the head

    def _send(self, message: m.Message) -> None:
        self._thread.check_process()
        if self._closed:
            raise CommClosedError(f"client {self.name} is closed: {self._closed}")
        self._outgoing.append(message)
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._flush_due and not self._closed and not self._thread.is_foreign:
            self._flush_due = True
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                self._thread.loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        """Send what has been queued; runs on the loop."""
        self._flush_due = False
        comm = self._session.comm
        if comm is None or comm.is_closed:
            return
        released = [self._released.popleft() for _ in range(len(self._released))]
        while self._outgoing:  # all that was queued before the keys above were released, at least
            comm.send(self._outgoing.popleft())
        gone: list[str] = []
        with self._lock:
            for key in released:
                known = self._futures.get(key)
                if known is not None and known() is None:
                    del self._futures[key]
                    gone.append(key)
        if gone:
            comm.send(m.ReleaseKeys(gone))
        comm.flush()

    # --- from the head

    def _on_messages(self, messages: list[m.Message], buffers: list[memoryview]) -> None:
        for message in messages:
            if type(message) is m.TasksDone:
                self._on_done(message)
            elif type(message) is m.TasksStored:
                stored = zip(message.keys, message.holders, strict=True)
                self._end([(key, STORED, holders) for key, holders in stored])
            elif type(message) is m.TasksFailed:
                failed = zip(message.keys, message.failures, strict=True)
                self._end([(key, FAILED, failure) for key, failure in failed])
            elif type(message) is m.TasksCancelled:
                self._end([(key, CANCELLED, None) for key in message.keys])
            elif type(message) is m.Data:
                self._fetcher.on_data(message, buffers)

    def _on_done(self, message: m.TasksDone) -> None:
        """Take small results in: the hot path."""
        futures = self._futures
        watched: list[Future] = []
        with self._changed:
            self._failure = None
            for key, data in zip(message.keys, message.results, strict=True):
                known = futures.get(key)
                future = known() if known is not None else None
                if future is not None and future._status == PENDING:
                    future._data = data
                    future._status = DONE
                    if future._watchers is not None:
                        watched.append(future)
            self._changed.notify_all()
        self._call_watchers(watched)

    def _end(self, outcomes: Iterable[tuple[str, int, Any]]) -> None:
        """Move futures out of pending."""
        watched: list[Future] = []
        with self._changed:
            for key, status, data in outcomes:
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

    def _on_lost(self, error: PeerError) -> None:
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
                return lambda future: _call_back(function, future)
            if self._callbacks is None:
                self._callbacks = queue.SimpleQueue()
                threading.Thread(
                    target=_serve_callbacks, args=(self._callbacks,), name="hpclaunch-callbacks", daemon=True
                ).start()
            callbacks = self._callbacks

        def watcher(future: Future) -> None:
            callbacks.put((function, future))
            self._kept.discard(future)

        return watcher

    # --- the cluster

    @property
    def dashboard_link(self) -> None:
        """The dashboard's address; None: there is no dashboard in this version."""
        return

    def scheduler_info(self) -> dict[str, Any]:
        """Return what the head says of itself and its workers."""
        return dict(self._thread.run(self._session.request("info")))

    def wait_for_workers(self, n_workers: int, timeout: float | None = None) -> None:
        """Wait until that many workers are connected.

        :raises TimeoutError: they were not within ``timeout`` seconds.
        :raises JobsFailedError: the cluster gave up starting them.
        """
        self._thread.run(
            self._session.request("wait_for_workers", n_workers=n_workers, timeout=timeout),
            None if timeout is None else timeout + 5,
        )

    def close(self) -> None:
        """Release all futures and disconnect; a LocalCluster that was made by this client ends too."""
        if not self._has_closed:
            self._has_closed = True
            self._closed = self._closed or "it was closed by close()"
            self._thread.run(self._close())
            error = CommClosedError("the client was closed")
            self._end([(key, LOST, error) for key in list(self._futures)])
        with self._lock:
            callbacks, self._callbacks = self._callbacks, None
        if callbacks is not None:
            callbacks.put(None)
        if self._own_cluster is not None:
            cluster, self._own_cluster = self._own_cluster, None
            cluster.close()

    async def _close(self) -> None:
        self._flush()
        self._fetcher.close()
        self._session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"closed: {self._closed}" if self._closed else f"connected to {self._session.address}"
        return f"<Client {self.name}, {state}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<b>Client</b> {escape(repr(self)[1:-1])}"


def _check_size(size: int, name: str) -> None:
    if size > _MAX_CALL:
        raise SerializationError(
            f"a call of {name} has {size / 1e9:.1f} GB of arguments, or of data in the function; at most "
            f"{_MAX_CALL / 1e9:.1f} GB can be sent. Make or read the data in a task, and pass on its future"
        )


_Callback = tuple[Callable[[Future], Any], Future]


def _serve_callbacks(callbacks: queue.SimpleQueue[_Callback | None]) -> None:
    while (callback := callbacks.get()) is not None:
        _call_back(*callback)
        del callback  # or its future would live until the next one comes


def _call_back(function: Callable[[Future], Any], future: Future) -> None:
    try:
        function(future)
    except Exception:
        log.exception("a future's callback raised")
