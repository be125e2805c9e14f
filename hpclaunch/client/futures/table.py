"""The table of a client's futures: one for each key, and what becomes of them.

Users' threads make futures and wait for them; the loop's thread takes outcomes in. The link's condition guards the
step of a future out of "pending"; the rest relies on single operations of dict and set being atomic.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hpclaunch.client.futures.callbacks import CallbackThread, call_back
from hpclaunch.client.futures.fences import Fences
from hpclaunch.client.futures.free_memory import Stored
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
from hpclaunch.client.futures.results import LargeResults
from hpclaunch.client.futures.timeout_errors import wait_timeout
from hpclaunch.comm import messages as m
from hpclaunch.errors import CommClosedError, UnknownTaskError
from hpclaunch.link.head_link import HeadLink
from hpclaunch.tasks.context import TaskFacts, here, seceding

#: Seconds between two looks of a task that waits at whether it was cancelled itself.
_LOOK_SECONDS = 0.2


class FutureTable:
    """The futures of one client.

    :param link: to the head.
    """

    def __init__(self, link: HeadLink) -> None:
        self.link = link
        self.asynchronous = link.asynchronous
        self.client: Any = None  # the Client whose futures these are
        self.note_release: Callable[[str], None] = (
            link.release
        )  # bound once: it runs for each future that is deleted
        self.results = LargeResults(link, self.is_current)
        self.fetch = self.results.fetch
        self._futures: dict[str, weakref.ref[Future[Any]]] = {}
        self._fences = Fences()  # guarded by the link's condition
        self._kept: set[Future[Any]] = set()  # pending, with callbacks: their callers may keep no reference
        self._callbacks: CallbackThread | None = None
        self._lock = threading.Lock()  # no future is forgotten while another of its key is made
        link.forget_released = self._forget_released

    # --- making

    def new(self, key: str) -> Future[Any]:
        """Return the future for a key that has never been used."""
        future = new_future(key, self)
        self._futures[key] = weakref.ref(future)
        return future

    def new_many(self, keys: Sequence[str]) -> list[Future[Any]]:
        """Return futures for keys that have never been used."""
        futures = [new_future(key, self) for key in keys]
        self._futures.update(zip(keys, map(weakref.ref, futures), strict=True))
        return futures

    def get_or_make(
        self, keys: Sequence[str], *, reuse_released: bool = False
    ) -> tuple[list[Future[Any]], list[int]]:
        """Return futures for keys that may have been used before, and which of them are new, each once.

        A future that was cancelled, or of a task that was not known, is not used again. Nor is a task that this
        client has released, unless ``reuse_released``, though the head may not know of the release yet. Updates of
        earlier tasks will not reach the new futures.
        """
        futures: list[Future[Any]] = []
        new: list[int] = []
        ended: list[str] = []
        with self._lock, self.link.changed:
            for i, key in enumerate(keys):
                known = self._futures.get(key)
                future = known() if known is not None else None
                if future is not None and is_gone(future):
                    future = None
                if future is None or future._status in (CANCELLED, LOST):
                    if known is not None and (not reuse_released or future is not None):
                        ended.append(key)
                    future = new_future(key, self)
                    self._futures[key] = weakref.ref(future)
                    new.append(i)
                futures.append(future)
            if ended:
                self.link.send(m.ReleaseKeys(ended))
            if new:
                self._send_fence([keys[i] for i in new])
        return futures, new

    def attach(self, key: str) -> Future[Any]:
        """Return a future of a task that has been submitted elsewhere."""
        (future,), new = self.get_or_make([key], reuse_released=True)
        if new:
            self.link.send(m.WantKeys([key]))
        return future

    def _send_fence(self, keys: Iterable[str]) -> int:
        number = self.link.next_number()
        self._fences.add(number, keys)
        self.link.send(m.Fence(number))
        return number

    def synchronize(self) -> None:
        """Wait until the head has received all that was sent so far."""
        link = self.link
        with link.changed, contextlib.suppress(CommClosedError):
            number = self._send_fence(())
            while self._fences.is_out(number) and not link.closed:
                link.changed.wait()

    def reference_in_result(self, key: str) -> None:
        """Have the result of the task that runs here keep the result of ``key``, whose future is pickled in it."""
        place = here.place
        if place is not None and place.thread is not None:  # not in a method of an actor, which has no end
            self.link.send(m.ResultNames(place.key, [key]))
            place.before_end = self.synchronize

    # --- releasing

    def is_current(self, future: Future[Any]) -> bool:
        """Say whether updates of a future's key reach it: it was not released, nor is its key used again."""
        known = self._futures.get(future._key)
        return known is not None and known() is future

    def release(self, future: Future[Any]) -> None:
        """Release a future that still exists."""
        if self.is_current(future):
            self.resolve([(future._key, CANCELLED, None)])
            with self._lock:
                if self.is_current(future):
                    del self._futures[future._key]
                    self.link.send(m.ReleaseKeys([future._key]))

    def _forget_released(self, released: list[str]) -> list[str]:
        gone: list[str] = []
        with self._lock:
            for key in released:
                known = self._futures.get(key)
                if known is not None and is_gone(known()):
                    del self._futures[key]
                    gone.append(key)
        return gone

    def existing(self) -> list[Future[Any]]:
        """Return the futures that exist."""
        known = [reference() for reference in list(self._futures.values())]
        return [future for future in known if future is not None and not is_gone(future)]

    @property
    def is_pending(self) -> bool:
        """True while a future is pending."""
        known = (reference() for reference in list(self._futures.values()))
        return any(future is not None and future._status == PENDING for future in known)

    # --- waiting

    def wait_for(self, futures: Sequence[Future[Any]], timeout: float | None) -> None:
        """Wait until all of ``futures`` are done; in a task, secede meanwhile.

        :raises TimeoutError: they are not within ``timeout`` seconds.
        :raises JobsFailedError: the cluster cannot start workers.
        """
        self.link.thread.check_blocking()
        if here.place is None:
            self._wait_here(futures, timeout, None)
            return
        with seceding() as task:
            self._wait_here(futures, timeout, task)

    def _wait_here(self, futures: Sequence[Future[Any]], timeout: float | None, task: TaskFacts | None) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        link = self.link
        with link.changed:
            for future in futures:
                while future._status == PENDING:
                    if link.failure is not None:
                        raise link.failure
                    if link.closed:
                        raise CommClosedError(f"task {future._key} has no result: {link.closed}")
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        raise wait_timeout(futures, timeout or 0.0)
                    if task is not None:
                        task.check()
                        left = _LOOK_SECONDS if left is None else min(left, _LOOK_SECONDS)
                    link.changed.wait(left)

    def watch(self, future: Future[Any], watcher: Callable[[Future[Any]], None]) -> None:
        """Call ``watcher`` from the loop when ``future`` is done; at once if it is."""
        with self.link.changed:
            if future._status == PENDING:
                future._watchers = [*(future._watchers or ()), watcher]
                return
        watcher(future)

    def call_back(self, future: Future[Any], function: Callable[[Future[Any]], Any]) -> None:
        """Call a user's function in the callback thread when ``future`` is done; until then, keep the future."""
        self._kept.add(future)
        self.watch(future, self.in_callback_thread(function))

    def in_callback_thread(self, function: Callable[[Future[Any]], Any]) -> Callable[[Future[Any]], None]:
        """Return a watcher that has ``function`` called in the callback thread."""
        with self._lock:
            if self.link.is_closing:  # all futures are done, so it will be called at once
                self._kept.clear()
                return lambda future: call_back(function, future)
            if self._callbacks is None:
                self._callbacks = CallbackThread()
            callbacks = self._callbacks

        def watcher(future: Future[Any]) -> None:
            callbacks.put(function, future)
            self._kept.discard(future)

        return watcher

    # --- ending, and running again

    def cancel(self, futures: Sequence[Future[Any]], *, force: bool) -> None:
        """Cancel those of some tasks that are not done."""
        pending = [future._key for future in futures if future._status == PENDING]
        self.resolve([(key, CANCELLED, None) for key in pending])
        if pending:
            self.link.send(m.CancelKeys(pending, force))

    def cancel_all(self) -> None:
        """Take all tasks as cancelled: the head is about to forget them."""
        self.resolve([(key, CANCELLED, None) for key in list(self._futures)])

    def retry(self, futures: Sequence[Future[Any]]) -> None:
        """Run those of some tasks once more that have failed."""
        with self.link.changed:
            failed = [future for future in futures if future._status == FAILED and self.is_current(future)]
            if failed:
                keys = [future._key for future in failed]
                for future in failed:
                    future._status, future._data = PENDING, None
                self._send_fence(keys)
                self.link.send(m.RetryKeys(keys))

    def lose_all(self, error: BaseException) -> None:
        """No outcome will come any more."""
        self.resolve([(key, LOST, error) for key in list(self._futures)])

    def end_callbacks(self) -> None:
        """End the callback thread, after what it was given."""
        with self._lock:
            callbacks, self._callbacks = self._callbacks, None
        if callbacks is not None:
            callbacks.end()

    # --- from the head; on the loop

    def on_done(self, message: m.TasksDone) -> None:
        """Take small results in: the hot path, in which ``resolve`` is written out."""
        futures = self._futures
        watched: list[Future[Any]] = []
        with self.link.changed:
            self.link.failure = None
            updates: Any = zip(message.keys, message.results, strict=True)
            for key, data in updates if not self._fences.keys else self._fences.not_stale(updates):
                known = futures.get(key)
                future = known() if known is not None else None
                if future is not None and future._status == PENDING:
                    future._data = data
                    future._status = DONE
                    if future._watchers is not None:
                        watched.append(future)
            self.link.changed.notify_all()
        _call_watchers(watched)

    def on_stored(self, message: m.TasksStored) -> None:
        """Workers hold large results."""
        stored = zip(message.keys, message.holders, message.sizes, strict=True)
        self.resolve([(key, STORED, Stored(places, size)) for key, places, size in stored], is_update=True)

    def on_failed(self, message: m.TasksFailed) -> None:
        """Tasks have failed, or are not known."""
        unknown = UnknownTaskError.__name__
        failed = zip(message.keys, message.failures, strict=True)
        self.resolve([(key, LOST if one.kind == unknown else FAILED, one) for key, one in failed], is_update=True)

    def on_cancelled(self, message: m.TasksCancelled) -> None:
        """Tasks were cancelled."""
        self.resolve([(key, CANCELLED, None) for key in message.keys], is_update=True)

    def on_retried(self, message: m.TasksRetried) -> None:
        """Tasks that had failed are run once more, because this client or another has asked for it."""
        with self.link.changed:
            for (key,) in self._fences.not_stale((key,) for key in message.keys):
                known = self._futures.get(key)
                future = known() if known is not None else None
                if future is not None and future._status == FAILED:
                    future._data, future._status = None, PENDING

    def on_fence(self, message: m.Fence) -> None:
        """The head has received all that was sent before a fence."""
        with self.link.changed:
            self._fences.on_returned(message.number)
            self.link.changed.notify_all()

    def resolve(self, outcomes: Iterable[tuple[str, int, Any]], *, is_update: bool = False) -> None:
        """Move futures out of pending.

        :param outcomes: key, status and data of each.
        :param is_update: the head says so, perhaps of earlier tasks of these keys.
        """
        watched: list[Future[Any]] = []
        with self.link.changed:
            for key, status, data in self._fences.not_stale(outcomes) if is_update else outcomes:
                known = self._futures.get(key)
                future = known() if known is not None else None
                if future is None:
                    continue
                if future._status == PENDING:
                    future._data = data
                    future._status = status
                    if future._watchers is not None:
                        watched.append(future)
                elif future._status == status == STORED:  # it was computed again
                    future._data = data
            self.link.changed.notify_all()
        _call_watchers(watched)


def _call_watchers(futures: list[Future[Any]]) -> None:
    for future in futures:
        watchers, future._watchers = future._watchers or [], None
        for watcher in watchers:
            watcher(future)
