"""The user's way to a cluster: submit functions, get futures.

What a client is made of, and which thread does what, is in :mod:`hpclaunch.client.core`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import operator
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hpclaunch.client.calls import scatter as data_calls
from hpclaunch.client.calls.actors import submit_actor
from hpclaunch.client.calls.cancel import EndCalls
from hpclaunch.client.calls.inspect import QuestionCalls
from hpclaunch.client.calls.replicas import CopyCalls
from hpclaunch.client.calls.setups import SetUpCalls
from hpclaunch.client.coordination.datasets import DatasetCalls
from hpclaunch.client.core import ClientCore
from hpclaunch.client.current import add_default, get_client, meaning, remove_default
from hpclaunch.client.futures.future import CANCELLED, DONE, PENDING, STORED, Future
from hpclaunch.client.futures.waiting import flatten, rebuild
from hpclaunch.client.gc_pause import making_many
from hpclaunch.client.graphs import plan as graph
from hpclaunch.client.graphs import submit as graphs
from hpclaunch.client.integrations.dask_names import heed_words, why_absent
from hpclaunch.client.integrations.executor import ClientExecutor
from hpclaunch.client.submission.functions import check_size
from hpclaunch.client.submission.options import check_counts, make_terms, timeout_seconds, worker_names
from hpclaunch.comm import messages as m
from hpclaunch.comm import serialize
from hpclaunch.comm.keys import Key, text_of_key
from hpclaunch.errors import CommClosedError, UserError
from hpclaunch.link.facade import after, blocking, in_thread, is_awaiting, wait_all

#: Tasks of one map that are sent in one message: workers begin while the rest is being pickled.
_MAP_CHUNK = 4096
#: Bytes of arguments after which such a message is sent, however few tasks it has.
_MAP_BYTES = 16 << 20


class Client(CopyCalls, DatasetCalls, EndCalls, QuestionCalls, SetUpCalls, ClientCore):
    """A connection to a cluster, to run functions on it.

    :param cluster: a cluster object; the name of a running cluster, its directory or its cluster file; or None:
        the cluster of the surrounding ``with`` block, the one named by ``$HPCLAUNCH_CLUSTER``, or a new
        :class:`~hpclaunch.LocalCluster`, which ends with the client.
    :param name: shown on the cluster's side.
    :param timeout: seconds to wait for the head.
    :param set_as_default: be what :func:`hpclaunch.get_client` gives in this process, and where Dask's
        ``.compute()`` and ``.persist()`` go, until it is closed or a newer client is made.
    :param asynchronous: for programs with an event loop: ``async with Client(asynchronous=True) as client``, or
        ``client = await Client(asynchronous=True)``. Whatever waits is to be awaited then, futures too.
    :param local: further arguments go to the new LocalCluster.
    :raises ClusterNotFoundError: nothing runs by that name.
    """

    def __init__(
        self,
        cluster: Any = None,
        *,
        name: str | None = None,
        timeout: float = 10.0,
        set_as_default: bool = True,
        asynchronous: bool = False,
        **local: Any,
    ) -> None:
        self._own_cluster: Any = None
        cluster = heed_words(cluster, local)
        if cluster is None:
            from hpclaunch.cluster.current import current_or_new_cluster

            cluster, is_own = current_or_new_cluster(asynchronous=asynchronous, **local)
            self._own_cluster = cluster if is_own else None
        elif local:
            raise TypeError(f"{', '.join(local)} go with a new LocalCluster, not with {cluster!r}")
        super().__init__(cluster, name=name, timeout=timeout, asynchronous=asynchronous)
        if set_as_default:
            add_default(self)

    # --- submitting

    def submit(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: Key | None = None,
        retries: int = 0,
        priority: int = 0,
        resources: Mapping[str, float] | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        duration: str | float | None = None,
        timeout: str | float | None = None,
        actor: bool = False,
        actors: bool = False,
        restarts: int = 0,
        pure: bool = False,
        fifo_timeout: Any = None,
        **kwargs: Any,
    ) -> Future:
        """Run ``function(*args, **kwargs)`` on the cluster.

        Futures among the arguments, also inside lists, dicts or objects, arrive as their results.

        :param key: a name for the task, a text or a tuple such as ``("x", 0)``; a task of this name that exists is
            used instead of a new one.
        :param retries: how often to run it again if it raises.
        :param priority: higher runs first.
        :param resources: what it takes of its worker while it is there, such as ``{"GPU": 1}``; workers have what
            the configuration's key ``resources`` says.
        :param workers: run it only on these: names or addresses of workers, hosts, their IP addresses, or job ids.
        :param allow_other_workers: on others too, if these are busy.
        :param duration: how long it runs, such as ``"20 min"`` or seconds; it goes to no worker whose job ends
            before that. Else it is learned from the function's earlier calls.
        :param timeout: how long it may run; after that it is ended, and fails with TaskTimeoutError.
        :param actor: ``function`` is a class: leave the object on a worker. The result is an
            :class:`~hpclaunch.client.calls.actors.Actor`, whose methods call it there.
        :param actors: the same as ``actor``.
        :param restarts: how often an actor is made anew when its worker is lost.
        :param pure: calls of equal functions with equal arguments are one task, while somebody has its future.
        :param fifo_timeout: accepted, and not needed.
        :raises SerializationError: the function or an argument can't be pickled.
        """
        terms = make_terms(resources, workers, allow_other_workers, duration, timeout)
        retries, priority = check_counts(retries, priority)
        if actor or actors:
            return submit_actor(self, function, args, kwargs, key=key, restarts=restarts, terms=terms)
        with self._defining(function) as sent:
            data, inputs = serialize.dump_call(args, kwargs or None)
            check_size(len(data), sent.name)
            if key is None and not pure:
                future, is_new = self._future(key := self._stem(sent.name))
            else:
                name = _pure_key(sent, data) if key is None else text_of_key(key)
                (future,), new = self._named([name], anew=key is not None)
                is_new, key = bool(new), name
            if is_new:
                columns = [inputs] if inputs else []
                self._send(m.SubmitTasks(sent.id, [key], [data], columns, retries, priority, terms))
        return future

    def map(
        self,
        function: Callable[..., Any],
        *iterables: Iterable[Any],
        key: str | Sequence[Key] | None = None,
        retries: int = 0,
        priority: int = 0,
        resources: Mapping[str, float] | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        duration: str | float | None = None,
        timeout: str | float | None = None,
        actor: bool = False,
        actors: bool = False,
        restarts: int = 0,
        pure: bool = False,
        fifo_timeout: Any = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[Future]:
        """Run ``function`` for each item (or each tuple of items of several iterables); return a future each.

        :param key: a prefix for the tasks' names, or a sequence of names.
        :param resources: as ``workers``, ``allow_other_workers``, ``duration``, ``timeout``: of each call, as in
            :meth:`submit`.
        :param batch_size: as ``fifo_timeout``: accepted, and not needed: calls are sent in batches anyway.
        :param kwargs: passed to each call; sent once, however many calls there are.
        :raises SerializationError: the function or an argument can't be pickled.
        """
        if actor or actors:
            words: dict[str, Any] = {"resources": resources, "workers": workers, "duration": duration, **kwargs}
            words |= {"timeout": timeout, "allow_other_workers": allow_other_workers, "restarts": restarts}
            rows = list(zip(*iterables, strict=False))
            names = [f"{key}-{i}" for i in range(len(rows))] if isinstance(key, str) else key
            return [
                self.submit(function, *call, key=names[i] if names else None, actor=True, **words)
                for i, call in enumerate(rows)
            ]
        terms = make_terms(resources, workers, allow_other_workers, duration, timeout)
        retries, priority = check_counts(retries, priority)
        if kwargs:
            function, kwargs = self._bind(function, kwargs)
        defining = self._defining(function)
        calls = list(zip(*iterables, strict=False))
        with defining as sent, making_many(len(calls)):
            return self._map(sent, calls, kwargs, key, pure=pure, wishes=(retries, priority, terms))

    def _map(
        self,
        sent: serialize.FunctionBytes,
        calls: list[tuple[Any, ...]],
        kwargs: dict[str, Any],
        key: str | Sequence[Key] | None,
        *,
        pure: bool,
        wishes: tuple[int, int, m.Terms | None],
    ) -> list[Future]:
        if pure and key is None:
            keys = []  # each is known when its arguments are pickled
        elif key is None or isinstance(key, str):
            stem = self._stem(text_of_key(key) if key is not None else sent.name)
            keys = [f"{stem}-{i}" for i in range(len(calls))]
        else:
            keys = [text_of_key(one) for one in key]
            if len(keys) != len(calls):
                raise ValueError(f"{len(keys)} keys for {len(calls)} calls")
        is_own = not pure and (key is None or isinstance(key, str))
        futures: list[Future] = []
        while len(futures) < len(calls):
            some = slice(len(futures), len(futures) + _MAP_CHUNK)
            futures += self._map_chunk(sent, keys[some], calls[some], kwargs, wishes, is_own=is_own)
        return futures

    def _map_chunk(
        self,
        sent: serialize.FunctionBytes,
        keys: list[str],
        calls: list[tuple[Any, ...]],
        kwargs: dict[str, Any],
        wishes: tuple[int, int, m.Terms | None],
        *,
        is_own: bool,
    ) -> list[Future]:
        """Send the first of some calls, up to so many bytes; return a future for each of those.

        :param is_own: their keys are of this client's making, so that nobody else has them.
        """
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
                    check_size(len(data), sent.name)
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
        if is_own:
            futures = self._new_futures(keys)
        else:
            names = keys or [_pure_key(sent, data) for data in args]
            futures, new = self._named(names, anew=bool(keys))
            keys, args = [names[i] for i in new], [args[i] for i in new]
            inputs = [inputs[i] for i in new] if inputs else []
        if keys:
            self._send(m.SubmitTasks(sent.id, keys, args, inputs, *wishes))
        return futures

    def get(self, dsk: Mapping[Any, Any], keys: Any, *, sync: bool = True, **options: Any) -> Any:
        """Run a task graph (a dict, as Dask makes and documents them) and return the results of ``keys``.

        ``keys`` is a key or nested lists of keys; the results come in the same shape. This is what Dask takes as
        ``scheduler=``: ``x.compute(scheduler=client.get)``.

        :param sync: wait for the results; False: return futures.
        :param options: as for :meth:`compute`.
        :raises KeyError: the graph lacks one of ``keys``.
        """
        if sync and is_awaiting(self):
            return in_thread(functools.partial(self.get, dsk, keys, **options))
        futures = graphs.submit_graph(self, dsk, keys, **graphs.wishes_in(options))
        if not sync:
            return graph.rebuild(keys, futures)
        values = dict(zip(futures, self.gather(list(futures.values())), strict=True))
        return graph.rebuild(keys, values)

    def compute(
        self,
        collections: Any,
        sync: bool = False,
        optimize_graph: bool = True,
        *,
        retries: int = 0,
        priority: int = 0,
        **options: Any,
    ) -> Any:
        """Begin to compute a Dask collection or a delayed call; return the Future of its value.

        For a list or tuple of them, a list of futures; what is no collection comes back as it is.

        :param sync: wait, and return values instead of futures.
        :param optimize_graph: let Dask optimise its graphs.
        :param options: ``workers``, ``allow_other_workers``, ``resources``, ``duration`` and ``timeout``, for each
            of the tasks as in :meth:`submit`; ``traverse=False`` leaves lists and dicts as they are. Dask's
            options that say how its own schedulers work are accepted, and not needed.
        :raises UserError: there is no such option.
        """
        some, is_one = graphs.flat(collections)
        wishes = graphs.wishes_in({"retries": retries, "priority": priority, **options}, is_strict=True)
        wishes["traverse"] = options.get("traverse", True)
        results = graphs.compute(self, some, optimize_graph=optimize_graph, **wishes)
        if sync:
            results = [self.gather(one) if isinstance(one, Future) else one for one in results]
        return results[0] if is_one else results

    def persist(
        self,
        collections: Any,
        optimize_graph: bool = True,
        *,
        retries: int = 0,
        priority: int = 0,
        **options: Any,
    ) -> Any:
        """Begin to compute collections, and keep their parts on the workers; return collections of these parts.

        :param options: as for :meth:`compute`.
        """
        some, is_one = graphs.flat(collections)
        wishes = graphs.wishes_in({"retries": retries, "priority": priority, **options}, is_strict=True)
        results = graphs.persist(self, some, optimize_graph=optimize_graph, **wishes)
        return results[0] if is_one else results

    def _bind(
        self, function: Callable[..., Any], kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Make keywords a part of the function, which travels once, unless there are futures in them."""
        with serialize.collecting() as found:
            serialize.dump_inline(kwargs)
        if found:
            return function, kwargs
        return functools.partial(function, **kwargs), {}

    def gather(self, futures: Any, errors: str = "raise", direct: bool | None = None) -> Any:
        """Wait for futures and return their results, in the same nesting of lists, tuples, sets and dicts.

        Answers of actors can be among them; other values stay what they are.

        :param errors: "raise" raises the first task's error; "skip" leaves failed tasks out.
        :param direct: accepted, and not needed: large results come from the workers where the network allows it.
        :raises ValueError: a future is another client's.
        :raises ResultTooLargeError: the results together do not fit into the memory that is free here.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors is "raise" or "skip", not {errors!r}')
        futures = list(futures) if isinstance(futures, Iterator) else futures
        is_plain = type(futures) is list and set(map(type, futures)) == {Future}
        flat = list(futures if is_plain else flatten(futures))
        if others := {*map(operator.attrgetter("_client"), flat)} - {self}:
            raise ValueError(
                f"gather takes futures of its own client, and some are of {others.pop().name}: ask that"
            )
        if self.asynchronous and is_awaiting(self):
            return after(wait_all(self, flat), functools.partial(self.gather, futures, errors))
        for future in flat:
            if future._status == PENDING:
                self._wait_for((future,), None)
            if future._status > STORED and errors == "raise":  # not after all the others
                future.result()
        stored = [f for f in flat if f._status == STORED]
        fetched = dict(zip(stored, self._fetch(stored, None), strict=True)) if stored else {}
        if is_plain and errors == "raise" and not fetched:
            load = serialize.load_value
            with making_many(len(flat)):
                return [load(f._data) if f._status == DONE else f.result() for f in flat]
        return rebuild(futures, fetched, skip_errors=errors == "skip")

    def get_executor(self, **options: Any) -> ClientExecutor:
        """Return a ``concurrent.futures.Executor`` that runs its calls on this cluster.

        :param options: go to :meth:`submit` with each call, such as ``retries=2``.
        """
        return ClientExecutor(self, **options)

    # --- data

    @blocking
    def scatter(
        self,
        data: Any,
        workers: str | Iterable[str] | None = None,
        broadcast: bool = False,
        direct: bool | None = None,
        hash: bool = True,
        timeout: str | float | None = None,
    ) -> Any:
        """Put values on the cluster, to be passed to tasks without being sent with each; return their futures.

        :param data: a list, tuple, set or dict of values (a future each, in the same shape), or one other value.
        :param workers: names, addresses or hosts of workers that may keep them.
        :param broadcast: keep a copy on each worker.
        :param direct: accepted, and not needed: large values go straight to workers where the network allows it.
        :param hash: equal values have one future.
        :param timeout: seconds to wait for them to be there.
        :raises SerializationError: a value can't be pickled.
        :raises TimeoutError: they are not there in time.
        """
        names, limit = worker_names(workers), timeout_seconds(timeout)
        return data_calls.scatter(self, data, names, limit, broadcast=broadcast, hash=hash)

    @blocking
    def run(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        workers: list[str] | None = None,
        wait: bool = True,
        on_error: str = "raise",
        nanny: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any] | None:
        """Call a function once on each worker, beside its tasks; return the results by worker.

        A parameter ``dask_worker`` of the function is given what :func:`hpclaunch.get_worker` gives tasks.

        :param wait: wait for the results; False: return None at once.
        :param on_error: "raise" the first error, "return" errors among the results, or "ignore" them.
        :param nanny: not to be had: the process that watches over workers runs nobody's code.
        :raises UserError: ``nanny`` is asked for.
        """
        if nanny:
            raise UserError("run(nanny=True) is refused: the process that watches over workers runs nobody's code")
        return data_calls.run(self, function, args, kwargs, workers, wait=wait, on_error=on_error)

    def run_on_scheduler(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Refuse: nobody's code runs in the head.

        :raises UserError: always.
        """
        raise UserError(
            "run_on_scheduler is refused: the head never unpickles or runs what a client sends, so that no client "
            "can harm the others. Use run() for the workers, or scheduler_info(), who_has() and processing()"
        )

    @blocking
    def restart(self, timeout: str | float = 30.0, wait_for_workers: bool = True) -> Client:
        """Cancel all tasks of all clients, forget all results and replace all worker processes.

        :param wait_for_workers: return when the new ones are there; False: at once.
        :raises TimeoutError: the workers were not back within ``timeout`` seconds.
        """
        self._end([(key, CANCELLED, None) for key in list(self._futures)])
        limit = timeout_seconds(timeout)
        asking = self._ask_living("restart", timeout=limit, wait=wait_for_workers)
        self._thread.run(asking, limit + 5 if limit is not None else None)
        return self

    @blocking
    def wait_for_workers(self, n_workers: int, timeout: str | float | None = None) -> None:
        """Wait until that many workers are connected.

        :raises TimeoutError: they were not within ``timeout`` seconds.
        :raises JobsFailedError: the cluster gave up starting them.
        """
        timeout = timeout_seconds(timeout)
        if not isinstance(n_workers, int) or n_workers < 0:
            raise ValueError(f"n_workers is a whole number of 0 or more, not {n_workers!r}")
        limit = None if timeout is None else timeout + 5
        self._thread.run(self._ask_living("wait_for_workers", n_workers=n_workers, timeout=timeout), limit)

    @blocking
    def close(self, timeout: str | float | None = None) -> None:
        """Release all futures and disconnect; a LocalCluster that was made by this client ends too.

        :param timeout: accepted, and not needed: nothing is waited for that may not end.
        """
        remove_default(self)
        super().close()
        cluster, self._own_cluster = self._own_cluster, None
        if cluster is not None:
            cluster.close()

    @blocking
    def shutdown(self) -> None:
        """End the cluster, whoever else uses it, and close this client."""
        if self.cluster is not None:
            self.cluster.close()
        else:
            with contextlib.suppress(CommClosedError):  # it ends before it has answered
                self._thread.run(self._session.ask("close"))
        Client.close(self)

    @staticmethod
    def current(allow_global: bool = True) -> Client:
        """Return the client that is meant here; as :func:`hpclaunch.get_client`."""
        return get_client()

    @contextlib.contextmanager
    def as_default(self) -> Iterator[Client]:
        """Be the default client inside this block, in all threads: Dask's ``.compute()`` comes here too."""
        add_default(self)
        try:
            yield self
        finally:
            remove_default(self)

    def as_current(self) -> contextlib.AbstractContextManager[Client]:
        """Return a ``with`` block in which :func:`hpclaunch.get_client` gives this client."""
        return meaning(self)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(why_absent(name))

    def __enter__(self) -> Client:
        if self.asynchronous:
            raise TypeError("an asynchronous client takes: async with Client(asynchronous=True) as client")
        return self

    def __await__(self) -> Generator[Any, None, Client]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Client:
        cluster: Any = self.cluster
        if getattr(cluster, "asynchronous", False):
            await cluster  # the workers of a local one are there then
        await self._start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None = None, *exc: object) -> None:
        await in_thread(functools.partial(self.__exit__, kind))

    def __exit__(self, kind: type[BaseException] | None = None, *exc: object) -> None:
        try:
            if kind is None:  # what its executors were given is not dropped
                self._unended.wait(self)
        finally:
            self.close()

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<Client {self.name}, not connected yet: await it>"
        state = f"closed: {self._closed}" if self._closed else f"connected to {self._session.address}"
        return f"<Client {self.name}, {state}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<b>Client</b> {escape(repr(self)[1:-1])}"


def _pure_key(sent: serialize.FunctionBytes, args: bytes) -> str:
    """Return the key that all calls of this function with these arguments have."""
    return f"{sent.name}-{hashlib.blake2b(sent.id + args, digest_size=16).hexdigest()}"
