"""Dask's ``.compute()`` and ``.persist()`` go to the client that is meant, while there is one.

This is what dask.distributed's Client does, and what its users' scripts rely on. Dask may be imported before or
after the client is made, or never; it is not imported for this.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hpclaunch.client.integrations import dask_in_tasks
from hpclaunch.on_import import never_mind, when_imported

if TYPE_CHECKING:
    from hpclaunch.client.client import Client

_CONFIG = "dask.config"
#: Who has taken Dask's function for locks under its name, if they were imported before.
_USERS_OF_LOCKS = ("dask.array.core", "dask.dataframe.io.hdf")
_MISSING = object()


class _MeantClient:
    """What Dask is given as its scheduler."""

    def _client(self) -> Client:
        from hpclaunch.client.current import get_client

        return get_client()

    def __call__(self, dsk: Any, keys: Any, **options: Any) -> Any:
        return self._client().get(dsk, keys, **options)

    def persist(self, collections: Any, **options: Any) -> Any:
        """Dask looks for this where it persists."""
        return self._client().persist(collections, **options)

    def __repr__(self) -> str:
        return "<hpclaunch, the client that is meant>"


meant_client = _MeantClient()
_before: Any = _MISSING  # what Dask had been told before
_SHUFFLE = "dataframe.shuffle.method"
_has_set_shuffle = False


def register() -> None:
    """Have Dask use the meant client, now or as soon as it is imported."""
    dask_in_tasks.register()
    when_imported(_CONFIG, _register)


def unregister() -> None:
    """Undo :func:`register`, unless Dask has been told something else since."""
    global _before, _has_set_shuffle
    never_mind(_CONFIG)
    config = sys.modules.get(_CONFIG)
    if config is not None and _has_set_shuffle:
        _has_set_shuffle = False
        if config.get(_SHUFFLE, None) == "tasks":
            config.set({_SHUFFLE: None})
    if config is None or config.config.get("scheduler") is not meant_client:
        return
    if _before is _MISSING:
        del config.config["scheduler"]
    else:
        config.config["scheduler"] = _before
    _before = _MISSING


def shuffling_by_tasks() -> Any:
    """Return a ``with`` block in which Dask shuffles data frames by tasks, unless it was told otherwise.

    It would go by files of one host else, which no other host sees, and into which a task that runs again writes
    its rows twice.
    """
    from dask import config

    return config.set({} if config.get(_SHUFFLE, None) else {_SHUFFLE: "tasks"})


def lock_between_processes(utils: ModuleType) -> None:
    """Have Dask guard what is stored from the cluster's processes by a lock of the cluster.

    It asks dask.distributed for such a lock only, and else takes one that holds within a process: two workers
    could write into one file at once.
    """
    original = utils.get_scheduler_lock
    if hasattr(original, "of_hpclaunch"):
        return

    @functools.wraps(original)
    def get_scheduler_lock(collection: Any = None, scheduler: Any = None) -> Any:
        from dask.base import get_scheduler

        from hpclaunch.client.client import Client
        from hpclaunch.client.coordination.primitives import Lock

        get: Any = get_scheduler(collections=[collection], scheduler=scheduler)  # type: ignore[no-untyped-call]
        if get is meant_client or isinstance(getattr(get, "__self__", None), Client):
            return Lock()
        return original(collection, scheduler)

    get_scheduler_lock.of_hpclaunch = True  # type: ignore[attr-defined]
    for module in (utils, *(sys.modules.get(name) for name in _USERS_OF_LOCKS)):
        if module is not None and getattr(module, "get_scheduler_lock", None) is original:
            module.get_scheduler_lock = get_scheduler_lock  # type: ignore[attr-defined]


def _register(config: ModuleType) -> None:
    global _before, _has_set_shuffle
    if not config.get(_SHUFFLE, None):
        _has_set_shuffle = True
        config.set({_SHUFFLE: "tasks"})
    now = config.config.get("scheduler", _MISSING)
    if now is not meant_client:
        _before = now
        config.config["scheduler"] = meant_client
