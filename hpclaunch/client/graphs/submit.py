"""Whole graphs for a client: raw ones, Dask's collections, and our own delayed calls.

Dask itself prepares and rebuilds its collections; it is given a scheduler that answers with futures.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.parts import Part
from hpclaunch.client.graphs import plan as graph
from hpclaunch.client.graphs.delayed import Delayed, delayed, submit_delayed
from hpclaunch.client.integrations.dask import shuffling_by_tasks
from hpclaunch.client.submission.options import check_counts, make_terms
from hpclaunch.comm import messages as m
from hpclaunch.errors import UserError

if TYPE_CHECKING:
    from hpclaunch.client.client import Client


#: Options of ``compute`` and ``persist`` that say how fast Dask's schedulers work, or how its graphs are made.
_NOT_NEEDED = frozenset(
    [
        *("asynchronous", "cache", "chunksize", "direct", "fifo_timeout", "max_workers", "num_workers", "pool"),
        *("optimize_graph", "rerun_exceptions_locally", "resolve_keys", "scheduler", "traverse"),
    ]
)


def wishes_in(options: Mapping[str, Any], *, is_strict: bool = False) -> dict[str, Any]:
    """Return those of the options of ``compute``, ``persist`` and ``get`` that go with each task of a graph.

    Dask's other options are for other schedulers; they are accepted, and not needed.

    :param is_strict: refuse those that nobody knows. (What Dask passes on to ``get`` may be for anybody.)
    :raises UserError: there is one that would change the outcome.
    """
    if options.get("actors") is not None and options["actors"] is not False:
        raise UserError("actors= is not there for graphs: make an actor by client.submit(..., actor=True)")
    unknown = sorted(options.keys() - _NOT_NEEDED - {"actors"}.union(graph.ANNOTATIONS)) if is_strict else []
    if unknown:
        near = difflib.get_close_matches(unknown[0], graph.ANNOTATIONS, 1)
        raise UserError(
            f"there is no option {unknown[0]!r} for a computation of a graph"
            + (f"; do you mean {near[0]!r}?" if near else f"; there are {', '.join(graph.ANNOTATIONS)}")
        )
    return {word: options[word] for word in graph.ANNOTATIONS if options.get(word)}


def _annotated() -> dict[str, Any]:
    """Return what ``dask.annotate`` says of all that is computed here."""
    base = sys.modules.get("dask.base") or sys.modules.get("dask")
    return wishes_in(base.get_annotations()) if base is not None and hasattr(base, "get_annotations") else {}


def _columns(wishes: Mapping[str, Any]) -> tuple[int, int, m.Terms | None]:
    """Return the last columns of a SubmitTasks message."""
    terms = make_terms(
        wishes.get("resources"),
        wishes.get("workers"),
        bool(wishes.get("allow_other_workers")),
        wishes.get("duration"),
        wishes.get("timeout"),
    )
    retries, priority = check_counts(wishes.get("retries", 0), wishes.get("priority", 0))
    return retries, priority, terms


def submit_graph(client: Client, dsk: Mapping[Any, Any], keys: Any, **wishes: Any) -> dict[Any, Future]:
    """Submit all of a graph that ``keys`` need; return their futures by key.

    :param wishes: for all tasks; what ``dask.annotate`` says of some of them comes first.
    """
    wishes = {**_annotated(), **wishes}
    plan = graph.plan(dsk, keys, run=f"{client._tag}-{next(client._numbers)}", client=client)
    kept: list[Future] = list(plan.given)  # every task of the graph has a future until all are submitted
    for batch in plan.batches:
        kept += client._new_futures(batch.keys)
        columns = _columns({**wishes, **batch.wishes})
        with client._sent.using(batch.function) as sent:
            client._send(m.SubmitTasks(sent.id, batch.keys, batch.args, batch.inputs, *columns))
    if plan.foreign:
        client._be_heard()  # their own clients may release them from now on
    by_key = {future._key: future for future in kept}
    return {key: by_key[name] for key, name in plan.wanted.items()}


def compute(
    client: Client, some: list[Any], *, optimize_graph: bool, traverse: bool = True, **wishes: Any
) -> list[Any]:
    """Submit those of some values that are lazy; return them with futures of their values in their stead.

    :param traverse: lists and dicts with lazy values in them are lazy too.
    """
    return _submit(
        client, [_as_lazy(one) for one in some] if traverse else some, "compute", optimize_graph, wishes
    )


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
            futures = submit_graph(client, dsk, keys, **wishes)
            if what == "persist":
                return graph.rebuild(keys, {key: Part(future) for key, future in futures.items()})
            return graph.rebuild(keys, futures)

        call = getattr(dask.base, what)
        with shuffling_by_tasks():
            results = iter(call(*foreign, traverse=False, optimize_graph=optimize_graph, scheduler=schedule))
    return [
        next(values) if isinstance(one, Delayed) else next(results) if _is_foreign(one) else one for one in some
    ]


def _as_lazy(value: Any) -> Any:
    """Return a list or dict with lazy values in it as one lazy value; anything else as it is."""
    if not isinstance(value, list | tuple | set | frozenset | dict):
        return value
    todo, foreign, own = [value], False, False
    while todo:
        one = todo.pop()
        if isinstance(one, list | tuple | set | frozenset):
            todo += one
        elif isinstance(one, dict):
            todo += one.values()
        else:
            foreign, own = foreign or _is_foreign(one), own or isinstance(one, Delayed)
    if foreign:
        from dask.delayed import delayed as dask_delayed

        return dask_delayed(value)
    return delayed(value) if own else value


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
