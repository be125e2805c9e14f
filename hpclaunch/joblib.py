"""joblib on a cluster: ``with joblib.parallel_config(backend="hpclaunch"): ...``.

Importing this module registers the backend; so does making a Client. It uses the current client where it is
used (:func:`hpclaunch.get_client`). Large arguments that several calls share are scattered once for each
``Parallel`` call, and tasks get them read-only, as from joblib's own backends. ``Parallel`` inside a task runs on
the cluster too.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from joblib import parallel_config
from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase
from joblib.parallel import register_parallel_backend

from hpclaunch.client.client import Client
from hpclaunch.client.current import current_client
from hpclaunch.client.futures.future import Future
from hpclaunch.client.submission.functions import SUBMIT_WORDS
from hpclaunch.comm.keys import text_of_key
from hpclaunch.comm.serialize import reduce_future
from hpclaunch.tasks.context import seceding

#: Bytes from which an argument is scattered.
_LARGE = 1 << 16
#: Letters of a function's name that a batch is named by.
_NAME_LENGTH = 100

_set_up: set[str] = set()  # on a worker: the initializers that have been called in this process
_set_up_lock = threading.RLock()


class HPCLaunchBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """joblib's backend; made by joblib.

    :param client: None: the current one.
    :param wait_for_workers_timeout: seconds to wait for the first worker.
    :param scatter: values to send to all workers now, and once: calls that have one of them as an argument take it
        from there, whatever its size.
    :param initializer: is called with ``initargs`` in each worker process before the first of the calls.
    :param options: go to ``Client.submit`` with each batch of calls.
    :raises ValueError: there is no client.
    """

    # A task costs us a fraction of a millisecond: batches need not last long to make that small.
    MIN_IDEAL_BATCH_DURATION = 0.02
    MAX_IDEAL_BATCH_DURATION = 0.2
    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        client: Client | None = None,
        wait_for_workers_timeout: float = 60.0,
        scatter: Sequence[Any] = (),
        initializer: Callable[..., Any] | None = None,
        initargs: Sequence[Any] = (),
        *,
        nesting_level: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level)
        if not isinstance(scatter, list | tuple):
            raise TypeError(f"scatter is a list or tuple of values, not {scatter!r:.100}")
        if unknown := sorted(options.keys() - SUBMIT_WORDS):
            raise TypeError(f"{', '.join(unknown)}: neither an option of this backend nor one of Client.submit")
        self._client = client or current_client()
        self._timeout = wait_for_workers_timeout
        self._options = options
        self._setup = _Setup.of(initializer, initargs)
        self._pending: set[Future[Any]] = set()
        futures = self._client.scatter(list(scatter), broadcast=True, hash=False) if scatter else []
        self._scattered = {id(value): (value, _Shared(f)) for value, f in zip(scatter, futures, strict=True)}
        self._shared: dict[int, tuple[Any, _Shared]] = {}  # by the value's id; the value is kept for that
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return HPCLaunchBackend, ()

    def get_nested_backend(self) -> tuple[HPCLaunchBackend, int]:
        """Return the backend of ``Parallel`` calls inside calls."""
        return HPCLaunchBackend(self._client, self._timeout, **self._options), -1

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Begin to serve a ``Parallel`` object; return how many calls can run at once."""
        self.parallel = parallel
        if options.get("initializer") is not None:
            self._setup = _Setup.of(options["initializer"], options.get("initargs", ()))
        return self.effective_n_jobs(n_jobs)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls can run at once: all threads of all workers, or ``n_jobs`` if that is less.

        :raises TimeoutError: there is no worker, and none came in time.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if not self._client.nthreads():
            probe = self._client.submit(bool)  # an adaptive cluster has workers only while there are tasks
            self._client.wait_for_workers(1, self._timeout)
            del probe
        threads = sum(self._client.nthreads().values())
        if n_jobs is None:
            return threads
        return min(n_jobs, threads) if n_jobs > 0 else max(1, threads + 1 + n_jobs)

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Run a batch of calls."""
        items = [(f, self._replace(args), dict(zip(kwargs, self._replace(kwargs.values()), strict=True)))
                 for f, args, kwargs in func.items]  # fmt: skip
        setup = self._setup and self._setup.replaced(self._replace)
        options = {"key": f"{_name(items)}-{secrets.token_hex(8)}", **self._options}
        future = self._client.submit(_run_batch, items, setup, **options)
        with self._lock:
            self._pending.add(future)
        future.add_done_callback(lambda done: self._on_ended(done, callback))
        return future

    def _on_ended(self, future: Future[Any], callback: Callable[[Any], None] | None) -> None:
        with self._lock:
            self._pending.discard(future)
        if callback is not None and not future.cancelled():
            callback(future)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch, or raise what it raised."""
        return out.result()

    def retrieve_result(self, out: Future[Any], timeout: float | None = None) -> Any:
        """Wait for the results of a batch."""
        return out.result(timeout)

    def start_call(self) -> None:
        """A ``Parallel`` call begins."""
        self._shared.clear()

    def stop_call(self) -> None:
        """A ``Parallel`` call is over."""
        self._shared.clear()

    def terminate(self) -> None:
        """The ``Parallel`` object needs no more."""
        self._shared.clear()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what has not ended."""
        with self._lock:
            pending, self._pending = self._pending, set()
        if pending:
            self._client.cancel(pending)

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """While results are waited for in a task, secede."""
        with seceding():
            yield

    def _replace(self, values: Any) -> list[Any]:
        """Put what was scattered in the place of those of some values that were, or that are large."""
        return [self._share(value) for value in values]

    def _share(self, value: Any) -> Any:
        known = self._scattered.get(id(value)) or self._shared.get(id(value))
        if known is None and _size(value) < _LARGE:
            return value
        if known is None:
            known = self._shared[id(value)] = value, _Shared(self._client.scatter(value, hash=False))
        return known[1]


class _Shared:
    """Stands for a scattered value among the arguments; tasks on one worker share it."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future

    def __reduce__(self) -> Any:
        return reduce_future(text_of_key(self.future.key), is_shared=True)


def _size(value: Any) -> int:
    """Return about how many bytes a value has; nothing is looked for inside lists and objects."""
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return size
    if callable(getattr(value, "memory_usage", None)):  # a data frame
        return sys.getsizeof(value)
    return len(value) if isinstance(value, bytes | bytearray | str) else 0


class _Setup:
    """What is to be called once in each worker process."""

    def __init__(self, token: str, function: Callable[..., Any], args: Sequence[Any]) -> None:
        self.token = token
        self.function = function
        self.args = args

    @staticmethod
    def of(function: Callable[..., Any] | None, args: Sequence[Any]) -> _Setup | None:
        """Return what calls an initializer; None if there is none."""
        return None if function is None else _Setup(secrets.token_hex(8), function, args)

    def replaced(self, replace: Callable[[Any], list[Any]]) -> _Setup:
        """Return this with other arguments."""
        return _Setup(self.token, self.function, replace(self.args))

    def run(self) -> None:
        """Call it, unless this process has. Other calls wait for the end; one that fails is called again."""
        with _set_up_lock:
            if self.token not in _set_up:
                self.function(*self.args)
                _set_up.add(self.token)


def _name(items: list[tuple[Callable[..., Any], list[Any], dict[str, Any]]]) -> str:
    """Return what the task of some calls is named by."""
    names = {str(getattr(f, "__name__", type(f).__name__)): None for f, _, _ in items}
    mixed = "mixed_" if len(names) > 1 else ""
    return f"{mixed}batch_of_{next(iter(names))[:_NAME_LENGTH]}_{len(items)}_calls"


def _run_batch(
    items: list[tuple[Callable[..., Any], list[Any], dict[str, Any]]], setup: _Setup | None
) -> list[Any]:
    """Run some calls on a worker."""
    if setup is not None:
        setup.run()
    with parallel_config(backend=HPCLaunchBackend(), n_jobs=-1):
        return [f(*_read_only(args), **dict(zip(kwargs, _read_only(kwargs.values()), strict=True)))
                for f, args, kwargs in items]  # fmt: skip


def _read_only(values: Any) -> list[Any]:
    """Protect large arrays, which others share."""
    result = []
    for value in values:
        if _size(value) >= _LARGE and hasattr(value, "setflags"):
            value = value.view()
            value.setflags(write=False)
        result.append(value)
    return result


register_parallel_backend("hpclaunch", HPCLaunchBackend)
