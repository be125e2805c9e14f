"""Scattering values: a client puts them on workers, large ones without the head between."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hpclaunch.client.core import ClientCore
from hpclaunch.client.futures.future import Future
from hpclaunch.comm import messages as m, serialize
from hpclaunch.comm.bulk import LEAST_BYTES
from hpclaunch.comm.keys import Key, text_of_key
from hpclaunch.comm.messages import INLINE_BYTES
from hpclaunch.errors import HPCLaunchError, UserError

#: Bytes of one value: a frame holds no more.
_MAX_VALUE = (1 << 34) - (1 << 24)
#: Values that one call brings to workers at the same time.
_AT_ONCE = 4
#: Bytes of values that are sent to the head together.
_BATCH_BYTES = 1 << 20
#: Seconds to wait for the head's word that a value is there, before it is sent through the head.
_UPDATE_SECONDS = 5.0


def scatter(
    core: ClientCore, data: Any, workers: list[str] | None, timeout: float | None, *, broadcast: bool, hash: bool
) -> Any:
    """Put values on the cluster; return futures in the shape of ``data``."""
    if isinstance(data, Iterator | range):
        data = list(data)
    if isinstance(data, Mapping):
        futures = _put(
            core,
            list(data.values()),
            workers,
            hash,
            [key if isinstance(key, tuple) else str(key) for key in data],
        )
        shaped: Any = dict(zip(data, futures, strict=True))
    elif isinstance(data, list | tuple | set | frozenset):
        futures = _put(core, list(data), workers, hash)
        shaped = type(data)(futures)
    else:
        futures = _put(core, [data], workers, hash)
        shaped = futures[0]
    core.table.wait_for(futures, timeout)
    if broadcast:
        core.link.ask("replicate", keys=[future._key for future in futures], workers=workers)
    return shaped


def _put(
    core: ClientCore, values: list[Any], workers: list[str] | None, hash: bool, keys: list[Key] | None = None
) -> list[Future[Any]]:
    """Send values, small ones to the head, and begin to bring large ones to workers."""
    futures: list[Future[Any]] = []
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
        (future,), new = core.table.get_or_make([name], reuse_released=keys is None)
        futures.append(future)
        if new and payload.size >= LEAST_BYTES:
            large.append(_Value(future, payload, workers))
        elif new:
            few.append(_Value(future, payload, workers))
            few_bytes += payload.size
        if few_bytes >= _BATCH_BYTES:
            core.link.thread.run(_send(core, few))
            few, few_bytes = [], 0
    if few:
        core.link.thread.run(_send(core, few))
    if large:
        places = core.link.ask("places", sizes=[value.payload.size for value in large], workers=workers)
        core.link.thread.run(_begin_to_bring(core, large, places or [("", 0)] * len(large)))
    return futures


class _Value(NamedTuple):
    """A value on its way to a worker, with its future, which must not be released before."""

    future: Future[Any]
    payload: serialize.Payload
    workers: list[str] | None  # that may keep it

    @property
    def is_small(self) -> bool:
        """True if the head will keep it."""
        return self.payload.size <= INLINE_BYTES and not self.payload.buffers


async def _send(core: ClientCore, values: list[_Value]) -> None:
    """Send values to the head, which keeps small ones and relays large ones. It has to admit these before."""
    needed = sum(value.payload.size for value in values if not value.is_small)
    if needed:
        await core.link.request("room", size=needed)
    core.link.flush()
    comm = core.link.session.comm
    assert comm is not None
    for future, payload, workers in values:
        message = m.Put(future._key, payload.size, workers or [])
        comm.send_buffers(message, [payload.pickle, *payload.buffers])


async def _begin_to_bring(core: ClientCore, values: list[_Value], places: list[tuple[str, int]]) -> None:
    at_once = asyncio.Semaphore(_AT_ONCE)
    for value, (place, order) in zip(values, places, strict=True):
        core.fetcher.look_after(_bring(core, value, place, order, at_once))


async def _bring(core: ClientCore, value: _Value, place: str, order: int, at_once: asyncio.Semaphore) -> None:
    """Bring a value to a worker; through the head if there is no other way, or the worker is lost meanwhile."""
    async with at_once:
        if place and await core.fetcher.bring(place, value.future._key, order, value.payload):
            ended = asyncio.Event()
            core.table.watch(value.future, lambda _: ended.set())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _UPDATE_SECONDS)
                return
        with contextlib.suppress(HPCLaunchError):  # the client is closed, or the head gone: its futures know
            if not core.link.closed:
                await _send(core, [value])


def _digest(payload: serialize.Payload) -> str:
    digest = hashlib.blake2b(payload.pickle, digest_size=16)
    for buffer in payload.buffers:
        digest.update(buffer)
    return digest.hexdigest()
