"""The futures in what users give for futures: one, a list of them, or a collection with parts on the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hpclaunch.client.futures.answer import ActorFuture
from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.parts import Part
from hpclaunch.comm import messages as m
from hpclaunch.link.head_link import HeadLink


def futures_of(*values: Any) -> list[Future[Any]]:
    """Return the futures in some values, each once: in lists and dicts, and those that persisted collections hold.

    What is none, and holds none, is passed over.
    """
    return list(dict.fromkeys(_find(values, is_strict=False)))


def only_futures(*values: Any) -> list[Future[Any]]:
    """As :func:`futures_of`.

    :raises TypeError: there is something among them that is no future, and no collection.
    """
    return list(dict.fromkeys(_find(values, is_strict=True)))


def futures_and_answers(*values: Any) -> list[Future[Any] | ActorFuture[Any]]:
    """As :func:`only_futures`; answers of actors can be among them too."""
    return list(dict.fromkeys(_find(values, is_strict=True, others=ActorFuture)))


def fire_and_forget(values: Any) -> None:
    """Have tasks run to their ends, though no future of them is kept, and though the client is closed meanwhile.

    Their results are released then; what they raise is not reported.

    :param values: futures, or whatever :func:`futures_of` takes.
    """
    by_link: dict[HeadLink, list[str]] = {}
    for future in only_futures(values):
        by_link.setdefault(future._link, []).append(future._key)
    for link, keys in by_link.items():
        link.send(m.SeeThrough(keys))  # what is sent later comes after this


def _find(values: Iterable[Any], *, is_strict: bool, others: type | tuple[()] = ()) -> Iterator[Any]:
    for value in values:
        if isinstance(value, Future) or (others and isinstance(value, others)):
            yield value
        elif isinstance(value, Mapping):
            yield from _find(value.values(), is_strict=is_strict, others=others)
        elif hasattr(value, "__dask_graph__") and not isinstance(value, type):
            yield from _in_graph(value)
        elif hasattr(value, "_persisted_future"):  # one of our own delayed values
            yield from filter(None, [value._persisted_future()])
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes | type):
            yield from _find(value, is_strict=is_strict, others=others)
        elif is_strict:
            raise TypeError(f"futures are needed, or collections of them, and not a {type(value).__name__}")


def _in_graph(collection: Any) -> Iterator[Future[Any]]:
    """Give the futures that are nodes of a collection's graph; one that was not persisted has none."""
    for node in dict(collection.__dask_graph__() or {}).values():
        future = future_in(node)
        if future is not None:
            yield future


def future_in(node: Any, client: Any = None) -> Future[Any] | None:
    """Return the future that is all of a node; None if it is something else.

    :param client: whose future a part of a collection is to give; None: any open client's.
    """
    value = getattr(node, "value", None) if is_node(node) and not node.dependencies else node
    if isinstance(value, Part):
        return value.future(client)
    return value if isinstance(value, Future) else None


def is_node(value: Any) -> bool:
    """Say whether a value is one of Dask's own task objects."""
    return hasattr(value, "dependencies") and hasattr(value, "substitute") and callable(value)
