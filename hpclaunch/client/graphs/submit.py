"""Whole graphs for a client: raw ones, Dask's collections, and our own delayed calls.

Dask itself prepares and rebuilds its collections; it is given a scheduler that answers with futures.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.gather import gather
from hpclaunch.client.futures.parts import Part
from hpclaunch.client.graphs import plan
from hpclaunch.client.graphs.dask_shuffle import shuffling_by_tasks
from hpclaunch.client.graphs.delayed import Delayed, delayed, submit_delayed
from hpclaunch.client.submission.options import make_options
from hpclaunch.client.submission.submit import Submission
from hpclaunch.comm import messages as m
from hpclaunch.errors import UserError

#: Options of ``compute`` and ``persist`` that say how fast Dask's schedulers work, or how its graphs are made.
_NOT_NEEDED = frozenset(
    [
        *("asynchronous", "cache", "chunksize", "direct", "fifo_timeout", "max_workers", "num_workers", "pool"),
        *("optimize_graph", "rerun_exceptions_locally", "resolve_keys", "scheduler", "traverse"),
    ]
)


def task_options(options: Mapping[str, Any], *, is_strict: bool = False) -> dict[str, Any]:
    """Return those of the options of ``compute``, ``persist`` and ``get`` that go with each task of a graph.

    Dask's other options are for other schedulers; they are accepted, and not needed.

    :param is_strict: refuse unknown ones. (What Dask passes on to ``get`` may be for other schedulers.)
    :raises UserError: there is one that would change the outcome.
    """
    if options.get("actors") is not None and options["actors"] is not False:
        raise UserError("actors= is not there for graphs: make an actor by client.submit(..., actor=True)")
    unknown = sorted(options.keys() - _NOT_NEEDED - {"actors"}.union(plan.OPTIONS)) if is_strict else []
    if unknown:
        near = difflib.get_close_matches(unknown[0], plan.OPTIONS, 1)
        raise UserError(
            f"there is no option {unknown[0]!r} for a computation of a graph"
            + (f"; do you mean {near[0]!r}?" if near else f"; there are {', '.join(plan.OPTIONS)}")
        )
    return {word: options[word] for word in plan.OPTIONS if options.get(word)}


def _annotated() -> dict[str, Any]:
    """Return what ``dask.annotate`` says of all that is computed here."""
    base = sys.modules.get("dask.base") or sys.modules.get("dask")
    return task_options(base.get_annotations()) if base is not None and hasattr(base, "get_annotations") else {}


def submit_graph(
    submission: Submission, dsk: Mapping[Any, Any], keys: Any, **options: Any
) -> dict[Any, Future[Any]]:
    """Submit all of a graph that ``keys`` need; return their futures by key.

    :param options: for all tasks; what ``dask.annotate`` says of some of them comes first.
    """
    options = {**_annotated(), **options}
    core = submission.core
    planned = plan.plan(dsk, keys, run=core.link.new_suffix(), client=core.table.client)
    kept: list[Future[Any]] = list(planned.given)  # every task of the graph has a future until all are submitted
    for batch in planned.batches:
        kept += core.table.new_many(batch.keys)
        columns = make_options(**{**options, **batch.options})
        with submission.sent.using(batch.function) as sent:
            core.link.send(m.SubmitTasks(sent.id, batch.keys, batch.args, batch.inputs, *columns))
    if planned.foreign:
        core.table.synchronize()  # their own clients may release them from now on
    by_key = {future._key: future for future in kept}
    return {key: by_key[name] for key, name in planned.wanted.items()}


def get(submission: Submission, dsk: Mapping[Any, Any], keys: Any, *, sync: bool, options: dict[str, Any]) -> Any:
    """Run a task graph: see :meth:`hpclaunch.Client.get`."""
    futures = submit_graph(submission, dsk, keys, **task_options(options))
    if not sync:
        return plan.rebuild(keys, futures)
    results = gather(submission.core.table, list(futures.values()), "raise")
    return plan.rebuild(keys, dict(zip(futures, results, strict=True)))


def compute(
    submission: Submission, collections: Any, options: Mapping[str, Any], *, optimize_graph: bool, sync: bool
) -> Any:
    """Submit collections: see :meth:`hpclaunch.Client.compute`."""
    some, is_one = _flat(collections)
    if options.get("traverse", True):  # lists and dicts with lazy values in them are lazy too
        some = [_as_lazy(one) for one in some]
    results = _submit(submission, some, "compute", optimize_graph, task_options(options, is_strict=True))
    if sync:
        table = submission.core.table
        results = [gather(table, one, "raise") if isinstance(one, Future) else one for one in results]
    return results[0] if is_one else results


def persist(submission: Submission, collections: Any, options: Mapping[str, Any], *, optimize_graph: bool) -> Any:
    """Submit collections, and return collections of futures: see :meth:`hpclaunch.Client.persist`."""
    some, is_one = _flat(collections)
    results = _submit(submission, some, "persist", optimize_graph, task_options(options, is_strict=True))
    return results[0] if is_one else results


def _submit(
    submission: Submission, some: list[Any], what: str, optimize_graph: bool, options: Mapping[str, Any]
) -> list[Any]:
    own = submit_delayed(submission, [one for one in some if isinstance(one, Delayed)], **options)
    values = iter([Delayed.of(future) for future in own] if what == "persist" else own)
    foreign = [one for one in some if _is_foreign(one)]
    results: Iterator[Any] = iter(())
    if foreign:
        import dask.base

        def schedule(dsk: Any, keys: Any, **_: Any) -> Any:
            futures = submit_graph(submission, dsk, keys, **options)
            if what == "persist":
                return plan.rebuild(keys, {key: Part(future) for key, future in futures.items()})
            return plan.rebuild(keys, futures)

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


def _flat(collections: Any) -> tuple[list[Any], bool]:
    """Return what ``compute`` and ``persist`` were given as a list, and whether it was a single value."""
    if isinstance(collections, list | tuple | set | frozenset | Iterator):
        return list(collections), False
    return [collections], True
