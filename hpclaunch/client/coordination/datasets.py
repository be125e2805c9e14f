"""Values that clients keep on the cluster by name, also when they are gone: ``publish_dataset`` and its kin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, cast

from hpclaunch.client.coordination.primitives import text_of
from hpclaunch.client.coordination.requests import ask_named
from hpclaunch.comm import serialize
from hpclaunch.link.facade import blocking, is_awaiting

if TYPE_CHECKING:
    from hpclaunch.client.client import Client

_MISSING = object()


class DatasetCalls:
    """The part of a Client that is about datasets."""

    @blocking
    def publish_dataset(self, *args: Any, name: Any = None, override: bool = False, **kwargs: Any) -> None:
        """Keep a value under a name for all clients, also when this one is gone; ``name=value`` keeps several.

        :param name: a name that is no text, such as ``("run", 7)``, is known by its ``repr``.
        :param override: replace a dataset of this name.
        :raises KeyError: there is a dataset of this name already.
        """
        if len(args) > 1 or bool(args) != (name is not None):
            raise ValueError("publish_dataset takes one value and its name=, or name=value pairs")
        for one, value in {**({name: args[0]} if name is not None else {}), **kwargs}.items():
            data, keys = serialize.dump_referring(value)
            _ask(self, "put", one, data=data, keys=keys, override=override)

    @blocking
    def get_dataset(self, name: Any, default: Any = _MISSING) -> Any:
        """Return a dataset; ``default=`` if there is none.

        :raises KeyError: there is none, and no default.
        """
        try:
            return _ask(self, "get", name)[0]
        except KeyError:
            if default is _MISSING:
                raise
            return default

    @blocking
    def list_datasets(self) -> list[str]:
        """Return the names of the datasets."""
        return list(_ask(self, "list", ""))

    @blocking
    def unpublish_dataset(self, name: Any) -> None:
        """Forget a dataset.

        :raises KeyError: there is none of this name.
        """
        _ask(self, "delete", name)

    @property
    def datasets(self) -> Datasets:
        """The datasets as a dict: ``client.datasets["name"] = value``."""
        return Datasets(_client(self))


class Datasets(MutableMapping[str, Any]):
    """The cluster's datasets, by name: what ``client.datasets`` is.

    Of an asynchronous client it can be read, by ``await client.datasets["name"]`` and ``async for``, and no more.
    """

    def __init__(self, client: Client) -> None:
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

    def _blocking(self, instead: str) -> Client:
        """Return the client, whose answers come at once.

        :raises TypeError: they are to be awaited.
        """
        if is_awaiting(self._client):
            raise TypeError(f"the datasets of an asynchronous client can't be used so: await it, by {instead}")
        return self._client


def _ask(calls: DatasetCalls, do: str, name: Any, **how: Any) -> Any:
    return ask_named(_client(calls), "dataset", do, text_of(name), None, **how)


def _client(calls: DatasetCalls) -> Client:
    return cast("Client", calls)
