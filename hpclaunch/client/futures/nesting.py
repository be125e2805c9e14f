"""Futures in nested lists, tuples, sets and dicts, and their results in the same nesting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hpclaunch.client.futures.answer import ActorFuture
from hpclaunch.client.futures.future import Future

_CONTAINERS = (list, tuple, set, frozenset)
_SKIP = object()


def flatten(value: Any) -> Iterator[Future[Any]]:
    """Give the futures in nested lists, tuples, sets and dicts; other values are passed over."""
    if isinstance(value, Future):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from flatten(one)
    elif isinstance(value, _CONTAINERS):
        for one in value:
            yield from flatten(one)


def rebuild(value: Any, fetched: Mapping[Future[Any], Any], *, skip_errors: bool) -> Any:
    """Return results in the nesting of their futures; all have ended, the large results are in ``fetched``."""
    if isinstance(value, Future):
        if value in fetched:
            return fetched[value]
        if skip_errors and value._has_failed:
            return _SKIP
        return value.result()
    if isinstance(value, ActorFuture):
        return _SKIP if skip_errors and value.exception() is not None else value.result()
    if isinstance(value, dict):
        pairs = ((k, rebuild(v, fetched, skip_errors=skip_errors)) for k, v in value.items())
        return {k: v for k, v in pairs if v is not _SKIP}
    if not isinstance(value, _CONTAINERS):
        return value
    items = (rebuild(v, fetched, skip_errors=skip_errors) for v in value)
    return type(value)(v for v in items if v is not _SKIP)
