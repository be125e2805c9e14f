"""Datasets: values that clients keep on the cluster by name, also when these clients are gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

from hpclaunch.client.coordination.primitives import text_of
from hpclaunch.client.coordination.requests import request_named
from hpclaunch.client.core import ClientCore
from hpclaunch.comm import serialize
from hpclaunch.link.facade import is_awaiting

MISSING = object()


def publish(core: ClientCore, args: tuple[Any, ...], name: Any, override: bool, kwargs: dict[str, Any]) -> None:
    """Keep values under names: see :meth:`hpclaunch.Client.publish_dataset`."""
    if len(args) > 1 or bool(args) != (name is not None):
        raise ValueError("publish_dataset takes one value and its name=, or name=value pairs")
    for one, value in {**({name: args[0]} if name is not None else {}), **kwargs}.items():
        data, keys = serialize.dump_referring(value)
        _request(core, "put", one, data=data, keys=keys, override=override)


def get(core: ClientCore, name: Any, default: Any) -> Any:
    """Return a dataset; ``default`` if there is none and that is not MISSING."""
    try:
        return _request(core, "get", name)[0]
    except KeyError:
        if default is MISSING:
            raise
        return default


def names(core: ClientCore) -> list[str]:
    """Return the names of the datasets."""
    return list(_request(core, "list", ""))


def unpublish(core: ClientCore, name: Any) -> None:
    """Forget a dataset."""
    _request(core, "delete", name)


class Datasets(MutableMapping[str, Any]):
    """The cluster's datasets, by name: what ``client.datasets`` is.

    Of an asynchronous client it can be read, by ``await client.datasets["name"]`` and ``async for``, and no more.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getitem__(self, name: str) -> Any:
        return self._client.get_dataset(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._blocking("publish_dataset()").publish_dataset(value, name=name)

    def __delitem__(self, name: str) -> None:
        self._blocking("unpublish_dataset()").unpublish_dataset(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocking("async for").list_datasets())

    async def __aiter__(self) -> AsyncIterator[str]:
        names: Any = self._client.list_datasets()
        for name in await names if is_awaiting(self._client) else names:
            yield name

    def __len__(self) -> int:
        return len(self._blocking("list_datasets()").list_datasets())

    def __contains__(self, name: object) -> bool:
        return text_of(name) in self._blocking("list_datasets()").list_datasets()

    def _blocking(self, instead: str) -> Any:
        """Return the client, whose answers come at once.

        :raises TypeError: they are to be awaited.
        """
        if is_awaiting(self._client):
            raise TypeError(f"the datasets of an asynchronous client can't be used so: await it, by {instead}")
        return self._client


def _request(core: ClientCore, do: str, name: Any, **how: Any) -> Any:
    return request_named(core, "dataset", do, text_of(name), None, **how)
