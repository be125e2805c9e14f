"""Task graphs as plain dicts, and as Dask makes them: what to submit, in which order.

Two kinds of values are known: Dask's own task objects (``dask._task_spec``: they say what they depend on and are
called with their inputs), and the older form, in which a tuple that begins with a callable is a call, a key stands
for another task's result, and lists, tuples and sets hold any of these. As in Dask, dicts are left as they are:
their texts are options as often as keys. The older form needs no Dask.

The order of submission is that of ``dask.order`` where Dask is there, for it keeps few results alive at a time;
else depth first. Either way a task comes after its inputs.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

from hpclaunch.client.futures.collect import future_in, is_node
from hpclaunch.client.futures.future import Future, future_of
from hpclaunch.client.futures.parts import Part, as_values
from hpclaunch.client.gc_pause import gc_paused
from hpclaunch.comm import serialize
from hpclaunch.comm.serialize import FunctionBytes, reduce_future
from hpclaunch.comm.texts import escaped

Key = Hashable

_CONTAINERS = (list, tuple, set, frozenset)
#: The options of the tasks of a graph.
OPTIONS = ("retries", "priority", "resources", "workers", "allow_other_workers", "duration", "timeout")


class Batch(NamedTuple):
    """Tasks that share a function, in columns, as a SubmitTasks message has them."""

    function: FunctionBytes
    keys: list[str]
    args: list[bytes]
    inputs: list[list[str]]
    options: Mapping[str, Any]  # what dask.annotate said of them


class Plan(NamedTuple):
    """What to submit, in order, and the names of the wanted keys' tasks."""

    batches: list[Batch]
    wanted: dict[Key, str]
    given: list[Future[Any]]  # that stand in the graph, as those of a persisted collection
    foreign: list[Future[Any]]  # of other clients, for which some of these stand


class _Reference:
    """Stands for another task's result in a task's arguments."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key

    def __reduce__(self) -> Any:
        return reduce_future(self.key, is_shared=True)


def plan(dsk: Mapping[Key, Any], keys: Any, *, run: str, client: Any = None) -> Plan:
    """Plan the part of a graph that ``keys`` (a key, or nested lists of keys) need.

    :param client: who will submit it.
    :param run: makes the tasks' names differ from those of other graphs.
    :raises KeyError: the graph lacks a wanted key.
    :raises ValueError: the graph has a cycle.
    """
    annotations = _annotations_of(dsk)
    if hasattr(dsk, "__dask_graph__"):  # what newer versions of Dask pass on: an expression
        dsk = dsk.__dask_graph__()
    dsk = _unify(dict(dsk))
    with gc_paused(len(dsk)), as_values():
        return _plan(dsk, keys, annotations, run, client)


def _plan(
    dsk: dict[Key, Any], keys: Any, annotations: dict[str, Mapping[Key, Any]], run: str, client: Any
) -> Plan:
    wanted = list(dict.fromkeys(leaves(keys)))
    for key in wanted:
        if key not in dsk:
            raise KeyError(f"the graph has no task {key!r}")
    inputs = _cull(dsk, wanted)
    given = {key: future for key in inputs if (future := future_in(dsk[key], client)) is not None}
    foreign = [future for future in given.values() if client is not None and future.client is not client]
    given |= {key: future_of(one._key, client) for key, one in given.items() if foreign and one in foreign}
    names = {key: f"{_text(key)}-{run}" for key in inputs}
    if len(set(names.values())) < len(names):  # two keys with the same text, such as 1 and "1"
        names = {key: f"{_text(key)}-{run}-{i}" for i, key in enumerate(inputs)}
    names |= {key: future._key for key, future in given.items()}
    batches: list[Batch] = []
    for key in _order(dsk, inputs):
        if key in given:
            continue
        function = _function_of(_prefix(key))
        options = {word: of[key] for word, of in annotations.items() if key in of}
        if not batches or batches[-1].function.id != function.id or batches[-1].options != options:
            batches.append(Batch(function, [], [], [], options))
        batch = batches[-1]
        references = {one: _Reference(names[one]) for one in inputs[key]}
        data, needed = serialize.dump_call((dsk[key], references), None)
        batch.keys.append(names[key])
        batch.args.append(data)
        batch.inputs.append(needed)
    return Plan(batches, {key: names[key] for key in wanted}, list(given.values()), foreign)


def _annotations_of(dsk: Any) -> dict[str, Mapping[Key, Any]]:
    """Return what ``dask.annotate`` said of the tasks of an expression, or of a graph in layers, by word."""
    if hasattr(dsk, "__dask_annotations__"):
        said: Mapping[str, Mapping[Key, Any]] = dsk.__dask_annotations__()
        return {word: of for word, of in said.items() if word in OPTIONS}
    found: dict[str, dict[Key, Any]] = {}
    for layer in getattr(dsk, "layers", {}).values():
        for word, value in (getattr(layer, "annotations", None) or {}).items():
            if word in OPTIONS:
                values = {key: value(key) if callable(value) else value for key in layer}
                found.setdefault(word, {}).update(values)
    return dict(found)


def rebuild(keys: Any, values: Mapping[Key, Any]) -> Any:
    """Return the values in the nesting of ``keys``."""
    if isinstance(keys, list):
        return [rebuild(key, values) for key in keys]
    return values[keys]


def run_node(node: Any, inputs: Mapping[Key, Any]) -> Any:
    """Run one task of a graph on a worker."""
    if is_node(node):
        return node(inputs)
    return _evaluate(node, inputs)


def _evaluate(value: Any, inputs: Mapping[Key, Any]) -> Any:
    """Compute a value of the older form."""
    if isinstance(value, tuple) and value and callable(value[0]):
        return value[0](*(_evaluate(one, inputs) for one in value[1:]))
    if _is_key_in(value, inputs):
        return inputs[value]
    if type(value) in _CONTAINERS:
        return type(value)(_evaluate(one, inputs) for one in value)
    return value


def futures_within(node: Any) -> Iterator[Future[Any]]:
    """Give the futures in a node at any depth: as all of it, or among its arguments."""
    todo = [node]
    while todo:
        one = todo.pop()
        if isinstance(one, Part):
            yield one.future()
        elif isinstance(one, Future):
            yield one
        elif type(one) in (list, tuple, set, frozenset):
            todo += one
        elif type(one) is dict:
            todo += one.values()
        elif is_node(one):
            todo += [*getattr(one, "args", ()), *getattr(one, "kwargs", {}).values()]
            todo.append(getattr(one, "value", None))


def replace_futures(node: Any, values: Mapping[str, Any]) -> Any:
    """Return a node with results in place of the futures in it; a copy, if there are any.

    :param values: results by the keys of their tasks.
    """
    if isinstance(node, Part | Future):
        return values[node.key if isinstance(node, Part) else node._key]
    if next(futures_within(node), None) is None:
        return node
    if type(node) is dict:
        return {key: replace_futures(one, values) for key, one in node.items()}
    if not is_node(node):
        return type(node)(replace_futures(one, values) for one in node)
    changed = copy.copy(node)
    for name in ("value", "args", "kwargs"):
        if hasattr(node, name):
            setattr(changed, name, replace_futures(getattr(node, name), values))
    if hasattr(node, "typ"):
        changed.typ = type(changed.value)
    return changed


def _is_key_in(value: Any, keys: Mapping[Key, Any]) -> bool:
    try:
        return value in keys
    except TypeError:  # not hashable, so no key
        return False


def _unify(dsk: dict[Key, Any]) -> dict[Key, Any]:
    """Let Dask turn the older form into its task objects if the graph has both."""
    kinds = {is_node(value) for value in dsk.values()}
    if kinds == {True, False}:
        from dask._task_spec import convert_legacy_graph

        return dict(convert_legacy_graph(dsk))
    return dsk


def leaves(keys: Any) -> Iterator[Key]:
    """Give the keys in nested lists of keys."""
    if isinstance(keys, list):
        for key in keys:
            yield from leaves(key)
    else:
        yield keys


def _cull(dsk: Mapping[Key, Any], wanted: list[Key]) -> dict[Key, list[Key]]:
    """Return the tasks that are needed, each with the keys of its inputs."""
    inputs: dict[Key, list[Key]] = {}
    todo = list(wanted)
    while todo:
        key = todo.pop()
        if key in inputs:
            continue
        node = dsk[key]
        found = dict.fromkeys(node.dependencies if is_node(node) else _references(node, dsk))
        inputs[key] = list(found)
        todo += [one for one in found if one not in inputs]
    return inputs


def _references(value: Any, dsk: Mapping[Key, Any]) -> Iterator[Key]:
    """Find the keys in a value of the older form."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, tuple) and one and callable(one[0]):
            todo += one[1:]
        elif _is_key_in(one, dsk):
            yield one
        elif type(one) in _CONTAINERS:
            todo += one


def _order(dsk: Mapping[Key, Any], inputs: Mapping[Key, list[Key]]) -> list[Key]:
    """Return the tasks in the order in which they should run."""
    try:
        from dask import order as dask_order
    except ImportError:
        return _depth_first(inputs)
    if len(inputs) > _SMALL and _is_entangled(inputs):
        return _depth_first(inputs)
    needed: Any = {key: dsk[key] for key in inputs}
    order: Any = dask_order.order
    try:
        ranks: dict[Key, int] = order(needed, dependencies={k: set(v) for k, v in inputs.items()})
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    # Dask does not see all inputs that we see, so its order may need mending.
    return _depth_first({key: inputs[key] for key in sorted(inputs, key=ranks.__getitem__)})


def _is_entangled(inputs: Mapping[Key, list[Key]]) -> bool:
    """Say whether Dask's order, which looks at all roots of each task, may take minutes for a large graph."""
    roots = sum(not found for found in inputs.values())
    counts: dict[Key, int] = {}  # at most so many roots are before a task
    total = 0
    for key in _depth_first(inputs):
        counts[key] = min(roots, sum(counts[one] for one in inputs[key])) if inputs[key] else 1
        total += counts[key]
    return total > _ROOTS_PER_TASK * len(inputs)


def _depth_first(inputs: Mapping[Key, list[Key]]) -> list[Key]:
    done: dict[Key, None] = {}
    open_: dict[Key, None] = {}
    for root in inputs:
        todo = [root]
        while todo:
            key = todo[-1]
            if key in done:
                todo.pop()
                continue
            open_[key] = None
            missing = [one for one in inputs[key] if one not in done]
            if any(one in open_ for one in missing):
                raise ValueError(f"the graph has a cycle through {key!r}")
            if missing:
                todo += missing
            else:
                done[key] = None
                open_.pop(key)
                todo.pop()
    return list(done)


def _text(key: Key) -> str:
    """Return a key as text that fits into a task's name."""
    text = "-".join(str(part) for part in key) if isinstance(key, tuple) else str(key)
    sent = escaped(text)
    if len(sent.encode()) <= 300 and sent == text:
        return sent
    return sent[:100] + hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


#: Tasks of a graph that Dask orders in any case, and on average the roots before each task of a larger one.
_SMALL = 20_000
_ROOTS_PER_TASK = 2_000

_HASH = re.compile(r"-[0-9a-f]{6,}")


def _prefix(key: Key) -> str:
    """Return the kind of work that a key names: ``sum`` for ``("sum-8f3a…", 0, 1)``, ``load`` for ``load-1``."""
    text = str(key[0]) if isinstance(key, tuple) and key else str(key)
    head = _HASH.split(escaped(text), maxsplit=1)[0]
    return re.sub(r"-\d+$", "", head)[:60] or "task"


_run_node_bytes: bytes = b""


def _function_of(prefix: str) -> FunctionBytes:
    """Return :func:`run_node` under a name, so that each kind of work has run times of its own."""
    global _run_node_bytes
    if not _run_node_bytes:
        _run_node_bytes = serialize.dump_inline(run_node)
    identity = hashlib.blake2b(_run_node_bytes + prefix.encode(), digest_size=16).digest()
    return FunctionBytes(identity, prefix, _run_node_bytes, is_shared=True)
