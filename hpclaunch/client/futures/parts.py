"""The parts of a persisted Dask collection: what its graph holds in place of tasks.

A future among a task's arguments arrives as its result. A part arrives as a part: the collection is still one of
results on the cluster, and what the task computes of it runs where these are. In a task of a graph, a part stands
for its result as a future does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from hpclaunch.client.futures.future import Future, future_of
from hpclaunch.comm import serialize
from hpclaunch.comm.serialize import reduce_future
from hpclaunch.tasks.context import task_client

_as_values: ContextVar[bool] = ContextVar("as_values", default=False)
_is_noted: ContextVar[bool] = ContextVar("is_noted", default=True)


class Part:
    """One result of a persisted collection.

    Dask keeps one object per name of an expression and process. It may come from another client than the one that
    computes, and outlive that client; so a part looks for another future of its result where its own is of no use.
    """

    __slots__ = ("_future", "key")

    def __init__(self, future: Future[Any]) -> None:
        self.key = future._key
        self._future = future

    def future(self, client: Any = None) -> Future[Any]:
        """Return a future of the result that can be waited for.

        :param client: whose future it is to be; None: any open client's.
        :raises ValueError: its client is closed, and there is no other here.
        """
        own = self._future
        if own.client is client or (client is None and not own._link.closed):
            return own
        return future_of(self.key, client)

    def is_of(self, client: Any) -> bool:
        """Say whether a client keeps the result here; another's may be released at any time."""
        return self._future.client is client

    def __reduce__(self) -> Any:
        if not serialize.is_collecting():
            return Part, (self.future(task_client()),)  # a result of a task names what its own client keeps
        if _as_values.get():
            return reduce_future(self.key, is_shared=True)
        if _is_noted.get():
            reduce_future(self.key)
        return part_of, (self.key,)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("hpclaunch.Future", self.key)

    def __repr__(self) -> str:
        return f"<Part {self.key}>"


def part_of(key: str) -> Part:
    """Return the part of a collection that is an argument of the task which runs here."""
    return Part(future_of(key))


@contextlib.contextmanager
def as_values() -> Iterator[None]:
    """Have parts that are pickled inside this block stand for their results, as in tasks of a graph."""
    token = _as_values.set(True)
    try:
        yield
    finally:
        _as_values.reset(token)


@contextlib.contextmanager
def kept_by_caller() -> Iterator[None]:
    """Pickle parts inside this block that are no inputs of a task: the caller keeps them while they are needed."""
    token = _is_noted.set(False)
    try:
        yield
    finally:
        _is_noted.reset(token)
