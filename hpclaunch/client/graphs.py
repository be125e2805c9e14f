"""Whole graphs for a client: raw ones, Dask's collections, and our own delayed calls.

Dask itself prepares and rebuilds its collections; it is given a scheduler that answers with futures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hpclaunch.client import graph
from hpclaunch.client.delayed import Delayed, submit_delayed
from hpclaunch.client.future import Future
from hpclaunch.comm import messages as m

if TYPE_CHECKING:
    from hpclaunch.client.client import Client


def submit_graph(
    client: Client, dsk: Mapping[Any, Any], keys: Any, *, retries: int = 0, priority: int = 0
) -> dict[Any, Future]:
    """Submit all of a graph that ``keys`` need; return their futures by key."""
    plan = graph.plan(dsk, keys, run=f"{client._tag}-{next(client._numbers)}")
    kept: list[Future] = list(plan.given)  # every task of the graph has a future until all are submitted
    for batch in plan.batches:
        sent = client._define_bytes(batch.function)
        kept += [client._future(key)[0] for key in batch.keys]
        client._send(m.SubmitTasks(sent.id, batch.keys, batch.args, batch.inputs, retries, priority))
    by_key = {future.key: future for future in kept}
    return {key: by_key[name] for key, name in plan.wanted.items()}


def compute(client: Client, some: list[Any], *, optimize_graph: bool, **wishes: Any) -> list[Any]:
    """Submit those of some values that are lazy; return them with futures of their values in their stead."""
    return _submit(client, some, "compute", optimize_graph, wishes)


def persist(client: Client, some: list[Any], *, optimize_graph: bool, **wishes: Any) -> list[Any]:
    """Submit those of some values that are lazy; return them as collections of futures."""
    return _submit(client, some, "persist", optimize_graph, wishes)


def _submit(
    client: Client, some: list[Any], what: str, optimize_graph: bool, wishes: Mapping[str, Any]
) -> list[Any]:
    own = submit_delayed(client, [one for one in some if isinstance(one, Delayed)], **wishes)
    values = iter([Delayed.of(future) for future in own] if what == "persist" else own)
    foreign = [one for one in some if _is_foreign(one)]
    results: Iterator[Any] = iter(())
    if foreign:
        import dask.base

        def schedule(dsk: Any, keys: Any, **_: Any) -> Any:
            return graph.rebuild(keys, submit_graph(client, dsk, keys, **wishes))

        call = getattr(dask.base, what)
        results = iter(call(*foreign, traverse=False, optimize_graph=optimize_graph, scheduler=schedule))
    return [
        next(values) if isinstance(one, Delayed) else next(results) if _is_foreign(one) else one for one in some
    ]


def _is_foreign(value: Any) -> bool:
    """Say whether a value is one of Dask's collections."""
    if isinstance(value, type | Delayed | Future) or not hasattr(value, "__dask_graph__"):
        return False
    from dask.base import is_dask_collection

    return bool(is_dask_collection(value))


def flat(collections: Any) -> tuple[list[Any], bool]:
    """Return what ``compute`` and ``persist`` were given as a list, and whether it was a single value."""
    if isinstance(collections, list | tuple | set | frozenset | Iterator):
        return list(collections), False
    return [collections], True
