"""Submitting calls: functions and arguments become messages, and futures.

What is inlined here is on purpose: a map of 150,000 calls a second has a few microseconds for each.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hpclaunch.client.core import ClientCore
from hpclaunch.client.futures.future import Future
from hpclaunch.client.gc_pause import gc_paused
from hpclaunch.client.submission.functions import FunctionCache, FunctionInUse, SentFunctions, check_size
from hpclaunch.client.submission.options import TaskOptions
from hpclaunch.comm import messages as m, serialize
from hpclaunch.comm.keys import Key, text_of_key

#: Tasks of one map that are sent in one message: workers begin while the rest is being pickled.
_MAP_CHUNK = 4096
#: Bytes of arguments after which such a message is sent, however few tasks it has.
_MAP_BYTES = 16 << 20


class Submission:
    """Submits tasks for one client."""

    def __init__(self, core: ClientCore) -> None:
        self.core = core
        self._link = core.link
        self._table = core.table
        self.functions = FunctionCache()
        self.sent = SentFunctions(core.link.send)

    def using(self, function: Callable[..., Any]) -> FunctionInUse:
        """Have the head know a function inside a ``with`` block.

        :raises TypeError: it can't be called.
        :raises SerializationError: it can't be pickled.
        """
        if not callable(function):
            raise TypeError(f"the first argument must be a function, not {function!r}")
        return self.sent.using(self.functions.dump(function))

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: Key | None,
        options: TaskOptions,
        *,
        pure: bool = False,
    ) -> Future[Any]:
        """Submit one call: see :meth:`hpclaunch.Client.submit`."""
        with self.using(function) as sent:
            data, inputs = serialize.dump_call(args, kwargs or None)
            check_size(len(data), sent.name)
            if key is None and not pure:
                name = self._link.new_key(sent.name)
                future, is_new = self._table.new(name), True
            else:
                name = _pure_key(sent, data) if key is None else text_of_key(key)
                (future,), new = self._table.get_or_make([name], reuse_released=key is None)
                is_new = bool(new)
            if is_new:
                columns = [inputs] if inputs else []
                self._link.send(m.SubmitTasks(sent.id, [name], [data], columns, *options))
        return future

    def map(
        self,
        function: Callable[..., Any],
        iterables: Sequence[Iterable[Any]],
        kwargs: dict[str, Any],
        key: str | Sequence[Key] | None,
        options: TaskOptions,
        *,
        pure: bool = False,
    ) -> list[Future[Any]]:
        """Submit a call for each item: see :meth:`hpclaunch.Client.map`."""
        if kwargs:
            function, kwargs = _bound(function, kwargs)
        in_use = self.using(function)
        calls = list(zip(*iterables, strict=False))
        with in_use as sent, gc_paused(len(calls)):
            return self._map(sent, calls, kwargs, key, options, pure=pure)

    def _map(
        self,
        sent: serialize.FunctionBytes,
        calls: list[tuple[Any, ...]],
        kwargs: dict[str, Any],
        key: str | Sequence[Key] | None,
        options: TaskOptions,
        *,
        pure: bool,
    ) -> list[Future[Any]]:
        if pure and key is None:
            keys = []  # each is known when its arguments are pickled
        elif key is None or isinstance(key, str):
            stem = self._link.new_key(text_of_key(key) if key is not None else sent.name)
            keys = [f"{stem}-{i}" for i in range(len(calls))]
        else:
            keys = [text_of_key(one) for one in key]
            if len(keys) != len(calls):
                raise ValueError(f"{len(keys)} keys for {len(calls)} calls")
        is_own = not pure and (key is None or isinstance(key, str))
        futures: list[Future[Any]] = []
        while len(futures) < len(calls):
            some = slice(len(futures), len(futures) + _MAP_CHUNK)
            futures += self._map_chunk(sent, keys[some], calls[some], kwargs, options, is_own=is_own)
        return futures

    def _map_chunk(
        self,
        sent: serialize.FunctionBytes,
        keys: list[str],
        calls: list[tuple[Any, ...]],
        kwargs: dict[str, Any],
        options: TaskOptions,
        *,
        is_own: bool,
    ) -> list[Future[Any]]:
        """Send the first of some calls, up to so many bytes; return a future for each of those.

        :param is_own: their keys are of this client's making, so that no other client has them.
        """
        args, inputs = _dump_calls(calls, kwargs or None, sent.name)
        keys = keys[: len(args)]
        if is_own:
            futures = self._table.new_many(keys)
        else:
            names = keys or [_pure_key(sent, data) for data in args]
            futures, new = self._table.get_or_make(names, reuse_released=not keys)
            keys, args = [names[i] for i in new], [args[i] for i in new]
            inputs = [inputs[i] for i in new] if inputs else []
        if keys:
            self._link.send(m.SubmitTasks(sent.id, keys, args, inputs, *options))
        return futures


def _dump_calls(
    calls: list[tuple[Any, ...]], keywords: dict[str, Any] | None, name: str
) -> tuple[list[bytes], list[list[str]]]:
    """Pickle the arguments of the first of some calls, up to so many bytes; return them and the keys in each.

    The second list is empty if no call has futures in it. This loop is ``serialize.dump_call`` written out.
    """
    dump = serialize.dump_inline
    args: list[bytes] = []
    inputs: list[list[str]] = []
    size = 0
    with serialize.collecting() as found:
        for call in calls:
            data = dump((call, keywords))
            args.append(data)
            size += len(data)
            if found:
                inputs += [[] for _ in range(len(args) - 1 - len(inputs))]
                inputs.append(list(found))
                found.clear()
            if size > _MAP_BYTES:
                check_size(len(data), name)
                break
    if inputs:
        inputs += [[] for _ in range(len(args) - len(inputs))]
    return args, inputs


def _bound(function: Callable[..., Any], kwargs: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Make keywords a part of the function, which travels once, unless there are futures in them."""
    with serialize.collecting() as found:
        serialize.dump_inline(kwargs)
    if found:
        return function, kwargs
    return functools.partial(function, **kwargs), {}


def _pure_key(sent: serialize.FunctionBytes, args: bytes) -> str:
    """Return the key that all calls of this function with these arguments have."""
    return f"{sent.name}-{hashlib.blake2b(sent.id + args, digest_size=16).hexdigest()}"
