"""The user's way to a cluster: submit functions, get futures.

Each method says what it does, and hands its arguments to the part of the client that does it: the sub-packages
beside this file. How a client is made and closed is in :mod:`hpclaunch.client.lifetime`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from hpclaunch.client.calls import inspect, replicas, scatter as scattering, setups, workers as worker_calls
from hpclaunch.client.calls.actors import map_actors, submit_actor
from hpclaunch.client.coordination import datasets
from hpclaunch.client.futures.collect import only_futures
from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.gather import gather
from hpclaunch.client.graphs import submit as graphs
from hpclaunch.client.integrations.executor import ClientExecutor
from hpclaunch.client.lifetime import ClientLifetime
from hpclaunch.client.signatures import Gather, Map, Scatter, Submit, typed_as
from hpclaunch.client.submission.options import make_options, worker_names
from hpclaunch.comm.keys import Key
from hpclaunch.errors import UserError
from hpclaunch.link.facade import blocking, in_thread, is_awaiting, no_answer
from hpclaunch.link.timeouts import timeout_seconds


class Client(ClientLifetime):
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

    # --- tasks

    @typed_as(Submit)  # type: ignore[type-abstract]
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
    ) -> Future[Any]:
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
            :class:`~hpclaunch.Actor`, whose methods call it there. ``actors`` is the same.
        :param restarts: how often an actor is re-created when its worker is lost.
        :param pure: calls of equal functions with equal arguments are one task, while one of its futures exists.
        :param fifo_timeout: accepted, and not needed.
        :raises SerializationError: the function or an argument can't be pickled.
        """
        options = make_options(retries, priority, resources, workers, allow_other_workers, duration, timeout)
        if actor or actors:
            requirements = options.requirements
            return submit_actor(
                self._submission, function, args, kwargs, key=key, restarts=restarts, requirements=requirements
            )
        return self._submission.submit(function, args, kwargs, key, options, pure=pure)

    @typed_as(Map)  # type: ignore[type-abstract]
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
    ) -> list[Future[Any]]:
        """Run ``function`` for each item (or each tuple of items of several iterables); return a future each.

        :param key: a prefix for the tasks' names, or a sequence of names.
        :param resources: this and the others are options of each call, as in :meth:`submit`.
        :param batch_size: as ``fifo_timeout``: accepted, and not needed: calls are sent in batches anyway.
        :param kwargs: passed to each call; sent once, however many calls there are.
        :raises SerializationError: the function or an argument can't be pickled.
        """
        options = make_options(retries, priority, resources, workers, allow_other_workers, duration, timeout)
        if actor or actors:
            requirements = options.requirements
            return map_actors(
                self._submission, function, iterables, kwargs, key, restarts=restarts, requirements=requirements
            )
        return self._submission.map(function, iterables, kwargs, key, options, pure=pure)

    @typed_as(Gather)  # type: ignore[type-abstract]
    def gather(self, futures: Any, errors: str = "raise", direct: bool | None = None) -> Any:
        """Wait for futures and return their results, in the same nesting of lists, tuples, sets and dicts.

        Answers of actors can be among them; other values stay what they are.

        :param errors: "raise" raises the first task's error; "skip" leaves failed tasks out.
        :param direct: accepted, and not needed: large results come from the workers where the network allows it.
        :raises ValueError: a future is another client's.
        :raises ResultTooLargeError: the results together do not fit into the memory that is free here.
        """
        return gather(self._core.table, futures, errors)

    def cancel(self, futures: Future[Any] | Iterable[Future[Any]], force: bool = False) -> Any:
        """Cancel tasks, and with them all that use their results.

        A task that runs already is left to end, and can see that it was cancelled (:func:`hpclaunch.get_task`).

        :param force: replace the worker process that runs it; its other tasks run again elsewhere and are not
            blamed. (Workers in threads of this process, ``processes=False``, can't be replaced.)
        """
        self._core.table.cancel(only_futures(futures), force=bool(force))
        return no_answer(self)

    def retry(self, futures: Future[Any] | Iterable[Future[Any]]) -> Any:
        """Run failed tasks once more, and before them those of their inputs that have failed."""
        self._core.table.retry(only_futures(futures))
        return no_answer(self)

    def get_executor(self, **options: Any) -> ClientExecutor:
        """Return a ``concurrent.futures.Executor`` that runs its calls on this cluster.

        :param options: go to :meth:`submit` with each call, such as ``retries=2``.
        """
        return ClientExecutor(self, **options)

    # --- task graphs

    def get(self, dsk: Mapping[Any, Any], keys: Any, *, sync: bool = True, **options: Any) -> Any:
        """Run a task graph (a dict, as Dask makes and documents them) and return the results of ``keys``.

        ``keys`` is a key or nested lists of keys; the results come in the same shape. This is what Dask takes as
        ``scheduler=``: ``x.compute(scheduler=client.get)``.

        :param sync: wait for the results; False: return futures.
        :param options: as for :meth:`compute`.
        :raises KeyError: the graph lacks one of ``keys``.
        """
        call = functools.partial(graphs.get, self._submission, dsk, keys, sync=sync, options=options)
        return in_thread(call) if sync and is_awaiting(self) else call()

    def compute(self, collections: Any, sync: bool = False, optimize_graph: bool = True, **options: Any) -> Any:
        """Begin to compute a Dask collection or a delayed call; return the Future of its value.

        For a list or tuple of them, a list of futures; what is no collection comes back as it is.

        :param sync: wait, and return values instead of futures.
        :param optimize_graph: let Dask optimise its graphs.
        :param options: ``retries``, ``priority``, ``workers``, ``allow_other_workers``, ``resources``,
            ``duration`` and ``timeout``, for each of the tasks as in :meth:`submit`; ``traverse=False`` leaves
            lists and dicts as they are. Dask's options for its own schedulers are accepted, and not needed.
        :raises UserError: there is no such option.
        """
        return graphs.compute(self._submission, collections, options, optimize_graph=optimize_graph, sync=sync)

    def persist(self, collections: Any, optimize_graph: bool = True, **options: Any) -> Any:
        """Begin to compute collections, and keep their parts on the workers; return collections of these parts.

        :param options: as for :meth:`compute`.
        """
        return graphs.persist(self._submission, collections, options, optimize_graph=optimize_graph)

    # --- data

    @typed_as(Scatter)  # type: ignore[type-abstract]
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
        return scattering.scatter(self._core, data, names, limit, broadcast=broadcast, hash=hash)

    @blocking
    def replicate(
        self,
        futures: Future[Any] | Iterable[Future[Any]],
        n: int | None = None,
        workers: list[str] | None = None,
        branching_factor: int = 2,
    ) -> None:
        """Wait for results, and keep each on ``n`` workers (None: on all), so that they survive a worker.

        Small results are with the head, and need no copies.

        :param branching_factor: accepted, and not needed: all fetch it from those who have it.
        """
        replicas.replicate(self._core.link, futures, n, workers)

    @blocking
    def rebalance(self, futures: Any = None, workers: list[str] | None = None) -> None:
        """Move results until workers hold about the same share of their memory.

        :param futures: wait for these results, and move only these; None: all that are there now.
        """
        replicas.rebalance(self._core.link, futures, workers)

    @blocking
    def publish_dataset(self, *args: Any, name: Any = None, override: bool = False, **kwargs: Any) -> None:
        """Keep a value under a name for all clients, also when this one is gone; ``name=value`` keeps several.

        :param name: a name that is no text, such as ``("run", 7)``, is known by its ``repr``.
        :param override: replace a dataset of this name.
        :raises KeyError: there is a dataset of this name already.
        """
        datasets.publish(self._core, args, name, override, kwargs)

    @blocking
    def get_dataset(self, name: Any, default: Any = datasets.MISSING) -> Any:
        """Return a dataset; ``default=`` if there is none.

        :raises KeyError: there is none, and no default.
        """
        return datasets.get(self._core, name, default)

    @blocking
    def list_datasets(self) -> list[str]:
        """Return the names of the datasets."""
        return datasets.names(self._core)

    @blocking
    def unpublish_dataset(self, name: Any) -> None:
        """Forget a dataset.

        :raises KeyError: there is none of this name.
        """
        datasets.unpublish(self._core, name)

    @property
    def datasets(self) -> datasets.Datasets:
        """The datasets as a dict: ``client.datasets["name"] = value``."""
        return datasets.Datasets(self)

    # --- how things stand

    @blocking
    def why(self, task: Future[Any] | Key) -> str:
        """Say how a task stands and why: what it waits for, what runs that, what rules each worker out.

        :param task: a future, or a task's key.
        """
        return inspect.why(self._core.link, task)

    @blocking
    def who_has(self, futures: Future[Any] | Iterable[Future[Any]] | None = None) -> dict[Any, list[str]]:
        """Return the workers that keep each result (of all if None); an empty list for what the head keeps."""
        return inspect.who_has(self._core.link, futures)

    @blocking
    def has_what(self, workers: list[str] | None = None) -> dict[str, list[Any]]:
        """Return the keys of the large results on each worker."""
        return inspect.keys_by_worker(self._core.link, "has_what", workers)

    @blocking
    def processing(self, workers: list[str] | None = None) -> dict[str, list[Any]]:
        """Return the keys of the tasks that each worker runs or is about to run."""
        return inspect.keys_by_worker(self._core.link, "processing", workers)

    @blocking
    def call_stack(
        self, futures: Future[Any] | Iterable[Future[Any]] | None = None, keys: Iterable[Key] | None = None
    ) -> dict[Any, list[str]]:
        """Return where the running ones of some tasks (None: all) are at this moment, the innermost call last."""
        return inspect.call_stack(self._core.link, futures, keys)

    @blocking
    def scheduler_info(self) -> dict[str, Any]:
        """Return what the head says of itself; ``["workers"]`` has a dict of facts for each worker, by name."""
        return inspect.scheduler_info(self._core.link)

    @blocking
    def nthreads(self, workers: list[str] | None = None) -> dict[str, int]:
        """Return how many tasks each worker runs at once; ``ncores`` is the same."""
        return inspect.nthreads(self._core.link, workers)

    ncores = nthreads

    @property
    def dashboard_link(self) -> None:
        """The dashboard's address; None: there is no dashboard in this version."""
        return

    # --- workers

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
        :param nanny: refused: the process that watches over workers runs no code of users.
        :raises UserError: ``nanny`` is asked for.
        """
        if nanny:
            raise UserError("run(nanny=True) is refused: the process that watches over workers runs no user code")
        return worker_calls.run(self._core.link, function, args, kwargs, workers, wait=wait, on_error=on_error)

    def run_on_scheduler(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Refuse: the head runs no code of users.

        :raises UserError: always.
        """
        raise UserError(
            "run_on_scheduler is refused: the head never unpickles or runs what a client sends, so that no client "
            "can harm the others. Use run() for the workers, or scheduler_info(), who_has() and processing()"
        )

    @blocking
    def register_plugin(
        self, plugin: Any, name: str | None = None, idempotent: bool | None = None
    ) -> dict[str, dict[str, str]]:
        """Have a plugin set up each worker, now and later, before any task runs there: see :class:`WorkerPlugin`.

        It stays registered until it is unregistered, or the cluster ends: workers that are added or replaced, also
        by :meth:`restart`, are set up too. With no worker it is registered for those to come.

        :param name: what it is known by; None is ``plugin.name``, or a new name.
        :param idempotent: do nothing if there is one of this name; None is ``plugin.idempotent``, or False. Else
            it replaces that one, which is torn down before.
        :returns: ``{"status": "OK"}`` for each worker that is there.
        :raises SetupError: its ``setup`` raised on a worker, or three workers ended meanwhile. It is not
            registered then, and torn down where it worked.
        :raises SerializationError: it can't be pickled.
        :raises UserError: it is too large for the head to keep.
        """
        return setups.register_plugin(self._core.link, plugin, name, idempotent)

    def register_worker_plugin(self, plugin: Any, name: str | None = None, nanny: bool | None = None) -> Any:
        """As :meth:`register_plugin`.

        :raises UserError: ``nanny`` is asked for.
        """
        if nanny:
            raise UserError("a plugin for the process that watches over workers is refused: it runs no user code")
        return self.register_plugin(plugin, name)

    def register_worker_callbacks(self, setup: Callable[..., Any]) -> Any:
        """Have a function called once in each worker process, now and later, before any task runs there.

        A parameter ``dask_worker`` of it is given what :func:`hpclaunch.get_worker` gives tasks.

        :raises SetupError: it raised on a worker.
        """
        return self.register_plugin(*setups.plugin_of(setup))

    @blocking
    def unregister_worker_plugin(self, name: str, nanny: bool | None = None) -> dict[str, dict[str, str]]:
        """Tear a plugin down on all workers; those to come do not get it.

        :raises UserError: no plugin has this name.
        :raises SetupError: its ``teardown`` raised on a worker; it is unregistered all the same.
        """
        return setups.unregister_plugin(self._core.link, name)

    @blocking
    def has_plugin(self, plugin: Any) -> Any:
        """Say whether a plugin is registered, by its name or itself; for a list of them, a dict by name."""
        return setups.has_plugin(self._core.link, plugin)

    @blocking
    def upload_file(self, filename: str | os.PathLike[str], load: bool = True) -> None:
        """Send a .py, .zip, .egg or .whl file to all workers, now and later, to be imported there.

        Workers that are added or replaced, also by :meth:`restart`, have it before any task runs there. A changed
        file of the same name replaces the one before: what was imported from that is loaded again, with the
        uploaded modules that import it. Other modules that hold its functions and classes get the new ones.

        :param load: accepted, and not needed: a module is loaded by the first task that imports it, and again by
            each upload that changes it.
        :raises UserError: it is of another kind, or too large for the head to keep.
        :raises SetupError: a module raised when it was loaded again; workers keep the one before.
        """
        setups.upload_file(self._core.link, filename)

    @blocking
    def restart(self, timeout: str | float = 30.0, wait_for_workers: bool = True) -> Self:
        """Cancel all tasks of all clients, forget all results and replace all worker processes.

        :param wait_for_workers: return when the new ones are there; False: at once.
        :raises TimeoutError: the workers were not back within ``timeout`` seconds.
        """
        worker_calls.restart(self._core, timeout, wait=wait_for_workers)
        return self

    @blocking
    def wait_for_workers(self, n_workers: int, timeout: str | float | None = None) -> None:
        """Wait until that many workers are connected.

        :raises TimeoutError: they were not within ``timeout`` seconds.
        :raises JobsFailedError: the cluster gave up starting them.
        """
        worker_calls.wait_for_workers(self._core.link, n_workers, timeout)
