"""Data and workers for a client: what it puts on them, where results lie, and what it runs beside the tasks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hpclaunch.client.futures.collect import only_futures
from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.parts import kept_by_caller
from hpclaunch.client.futures.waiting import wait_for_all
from hpclaunch.client.submission.options import worker_names
from hpclaunch.comm import messages as m
from hpclaunch.comm import serialize
from hpclaunch.comm.bulk import LEAST_BYTES
from hpclaunch.comm.keys import Key, text_of_key
from hpclaunch.comm.messages import Failure
from hpclaunch.errors import HPCLaunchError, UserError
from hpclaunch.notes import warn

if TYPE_CHECKING:
    from hpclaunch.client.client import Client

#: Bytes of one value: a frame holds no more.
_MAX_VALUE = (1 << 34) - (1 << 24)
#: Values that one call brings to workers at the same time.
_AT_ONCE = 4
#: Bytes of one piece up to which the head keeps a value; for others it is asked whether it has room.
_SMALL_BYTES = 1 << 16
#: Bytes of values that are sent to the head together.
_BATCH_BYTES = 1 << 20
#: Seconds to wait for the head's word that a value is there, before it is sent through the head.
_NEWS_SECONDS = 5.0


def scatter(
    client: Client, data: Any, workers: list[str] | None, timeout: float | None, *, broadcast: bool, hash: bool
) -> Any:
    """Put values on the cluster; return futures in the shape of ``data``."""
    if isinstance(data, Iterator | range):
        data = list(data)
    if isinstance(data, Mapping):
        futures = _put(
            client,
            list(data.values()),
            workers,
            hash,
            [key if isinstance(key, tuple) else str(key) for key in data],
        )
        shaped: Any = dict(zip(data, futures, strict=True))
    elif isinstance(data, list | tuple | set | frozenset):
        futures = _put(client, list(data), workers, hash)
        shaped = type(data)(futures)
    else:
        futures = _put(client, [data], workers, hash)
        shaped = futures[0]
    client._wait_for(futures, timeout)
    if broadcast:
        client._ask("replicate", keys=[future._key for future in futures], workers=workers)
    return shaped


def _put(
    client: Client, values: list[Any], workers: list[str] | None, hash: bool, keys: list[Key] | None = None
) -> list[Future]:
    """Send values, small ones to the head, and begin to bring large ones to workers."""
    futures: list[Future] = []
    large: list[_Value] = []
    few: list[_Value] = []
    few_bytes = 0
    for number, value in enumerate(values):
        payload = serialize.dump_value(value)
        if payload.size > _MAX_VALUE:
            raise UserError(
                f"a value of {payload.size / 1e9:.0f} GB is too large to be scattered; scatter it in parts"
            )
        name = f"{type(value).__name__}-{_digest(payload) if hash else secrets.token_hex(12)}"
        name = text_of_key(keys[number]) if keys else name
        (future,), new = client._named([name], anew=keys is not None)
        futures.append(future)
        if new and payload.size >= LEAST_BYTES:
            large.append(_Value(future, payload, workers))
        elif new:
            few.append(_Value(future, payload, workers))
            few_bytes += payload.size
        if few_bytes >= _BATCH_BYTES:
            client._thread.run(_send(client, few))
            few, few_bytes = [], 0
    if few:
        client._thread.run(_send(client, few))
    if large:
        places = client._ask("places", sizes=[value.payload.size for value in large], workers=workers)
        client._thread.run(_begin_to_bring(client, large, places or [("", 0)] * len(large)))
    return futures


class _Value(NamedTuple):
    """A value on its way to a worker, with its future, which must not be released before."""

    future: Future
    payload: serialize.Payload
    workers: list[str] | None  # that may keep it

    @property
    def is_small(self) -> bool:
        """True if the head will keep it."""
        return self.payload.size <= _SMALL_BYTES and not self.payload.buffers


async def _send(client: Client, values: list[_Value]) -> None:
    """Send values to the head, which keeps small ones, and passes others on. It has to have room for these."""
    needed = sum(value.payload.size for value in values if not value.is_small)
    if needed:
        await client._request("room", size=needed)
    client._flush()
    comm = client._session.comm
    assert comm is not None
    for future, payload, workers in values:
        message = m.Put(future._key, payload.size, workers or [])
        comm.send_buffers(message, [payload.pickle, *payload.buffers])


async def _begin_to_bring(client: Client, values: list[_Value], places: list[tuple[str, int]]) -> None:
    at_once = asyncio.Semaphore(_AT_ONCE)
    for value, (place, order) in zip(values, places, strict=True):
        client._fetcher.look_after(_bring(client, value, place, order, at_once))


async def _bring(client: Client, value: _Value, place: str, order: int, at_once: asyncio.Semaphore) -> None:
    """Bring a value to a worker; through the head if there is no other way, or the worker is lost meanwhile."""
    async with at_once:
        if place and await client._fetcher.bring(place, value.future._key, order, value.payload):
            ended = asyncio.Event()
            client._watch(value.future, lambda _: ended.set())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _NEWS_SECONDS)
                return
        with contextlib.suppress(HPCLaunchError):  # the client is closed, or the head gone: its futures know
            if not client._closed:
                await _send(client, [value])


def _digest(payload: serialize.Payload) -> str:
    digest = hashlib.blake2b(payload.pickle, digest_size=16)
    for buffer in payload.buffers:
        digest.update(buffer)
    return digest.hexdigest()


def scheduler_info(client: Client) -> dict[str, Any]:
    """Return what the head says of itself and its workers, in the form that dask.distributed gives it."""
    info = dict(client._ask("info"))
    rows = info.get("worker_list", [])
    info["workers"] = {row["name"]: {"nthreads": row["threads"], "id": row["name"], **row} for row in rows}
    return info


def run(
    client: Client,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    workers: list[str] | None,
    *,
    wait: bool,
    on_error: str,
) -> dict[str, Any] | None:
    """Run a function once on each worker; return the results by worker."""
    if on_error not in ("raise", "return", "ignore"):
        raise ValueError(f'on_error is "raise", "return" or "ignore", not {on_error!r}')
    workers = worker_names(workers)
    called = serialize.dump_inline(function)
    with kept_by_caller():
        data, inputs = serialize.dump_call(args, kwargs or None)
    if inputs:
        raise TypeError("run takes no futures: they are for tasks; use their results")
    answers = client._ask("run", function=called, args=data, workers=workers, wait=wait)
    if not answers:
        name = getattr(function, "__name__", "setup")
        warn(
            f"run has called {serialize.function_name(function)} on no worker, because none is connected. Call "
            f"wait_for_workers() before; register_worker_callbacks({name}) reaches later workers too"
        )
    results: dict[str, Any] = {}
    for worker, (is_done, *rest) in answers.items():
        if is_done:
            results[worker] = serialize.load_value(rest[0])
        elif on_error != "ignore":
            error = serialize.load_failure(Failure(*rest))
            if on_error == "raise":
                raise error
            results[worker] = error
    return results if wait else None


def keys_of(futures: Future | Iterable[Future] | None) -> list[str] | None:
    """Return the keys of some futures, after all of these have ended; None for None."""
    if futures is None:
        return None
    some = only_futures(futures)
    wait_for_all(some, None)
    return [future._key for future in some]
