"""Which futures are meant by a future, a list of them, or a collection whose parts are on the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hpclaunch.client.calls.actors import ActorFuture
from hpclaunch.client.futures.future import Future

if TYPE_CHECKING:
    from hpclaunch.client.client import Client


def futures_of(*values: Any) -> list[Future]:
    """Return the futures in some values, each once: in lists and dicts, and those that persisted collections hold.

    What is none, and holds none, is passed over.
    """
    return list(dict.fromkeys(_find(values, is_strict=False)))


def only_futures(*values: Any) -> list[Future]:
    """As :func:`futures_of`.

    :raises TypeError: there is something among them that is no future, and no collection.
    """
    return list(dict.fromkeys(_find(values, is_strict=True)))


def futures_and_answers(*values: Any) -> list[Future | ActorFuture]:
    """As :func:`only_futures`; answers of actors can be among them too."""
    return list(dict.fromkeys(_find(values, is_strict=True, others=ActorFuture)))


def fire_and_forget(values: Any) -> None:
    """Have tasks run to their ends, though nobody keeps their futures, and though the client is closed meanwhile.

    Their results are let go then; what they raise is in nobody's sight.

    :param values: futures, or whatever :func:`futures_of` takes.
    """
    by_client: dict[Client, list[str]] = {}
    for future in only_futures(values):
        by_client.setdefault(future._client, []).append(future._key)
    for client, keys in by_client.items():
        client._see_through(keys)


def _find(values: Iterable[Any], *, is_strict: bool, others: type | tuple[()] = ()) -> Iterator[Any]:
    for value in values:
        if isinstance(value, Future) or (others and isinstance(value, others)):
            yield value
        elif isinstance(value, Mapping):
            yield from _find(value.values(), is_strict=is_strict, others=others)
        elif hasattr(value, "__dask_graph__") and not isinstance(value, type):
            yield from _in_graph(value)
        elif hasattr(value, "_held_future"):  # one of our own delayed values
            yield from filter(None, [value._held_future()])
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes | type):
            yield from _find(value, is_strict=is_strict, others=others)
        elif is_strict:
            raise TypeError(f"futures are needed, or collections of them, and not a {type(value).__name__}")


def _in_graph(collection: Any) -> Iterator[Future]:
    """Give the futures that are nodes of a collection's graph; one that was not persisted has none."""
    from hpclaunch.client.graphs.plan import future_in

    for node in dict(collection.__dask_graph__() or {}).values():
        future = future_in(node)
        if future is not None:
            yield future
