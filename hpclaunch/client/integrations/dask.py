"""Dask's ``.compute()`` and ``.persist()`` go to the current client, while there is one.

This is what dask.distributed's Client does, and what its users' scripts rely on. Dask may be imported before or
after the client is made, or never; it is not imported for this.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

from hpclaunch.client.current import current_client
from hpclaunch.client.graphs.dask_shuffle import SHUFFLE
from hpclaunch.on_import import never_mind, when_imported

_CONFIG = "dask.config"
#: Who has taken Dask's function for locks under its name, if they were imported before.
_USERS_OF_LOCKS = ("dask.array.core", "dask.dataframe.io.hdf")
_MISSING = object()


class _CurrentClient:
    """What Dask is given as its scheduler."""

    def __call__(self, dsk: Any, keys: Any, **options: Any) -> Any:
        return current_client().get(dsk, keys, **options)

    def persist(self, collections: Any, **options: Any) -> Any:
        """Dask looks for this where it persists."""
        return current_client().persist(collections, **options)

    def __repr__(self) -> str:
        return "<hpclaunch, the current client>"


scheduler_of_dask = _CurrentClient()
_before: Any = _MISSING  # what Dask had been told before
_has_set_shuffle = False


def register() -> None:
    """Have Dask use the current client, now or as soon as it is imported."""
    when_imported(_CONFIG, _register)


def unregister() -> None:
    """Undo :func:`register`, unless Dask has been told something else since."""
    global _before, _has_set_shuffle
    never_mind(_CONFIG)
    config = sys.modules.get(_CONFIG)
    if config is not None and _has_set_shuffle:
        _has_set_shuffle = False
        if config.get(SHUFFLE, None) == "tasks":
            config.set({SHUFFLE: None})
    if config is None or config.config.get("scheduler") is not scheduler_of_dask:
        return
    if _before is _MISSING:
        del config.config["scheduler"]
    else:
        config.config["scheduler"] = _before
    _before = _MISSING


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

        from hpclaunch.client.coordination.primitives import Lock  # most workers that import Dask never store

        get: Any = get_scheduler(collections=[collection], scheduler=scheduler)  # type: ignore[no-untyped-call]
        if get is scheduler_of_dask or hasattr(getattr(get, "__self__", None), "_core"):  # a client's get
            return Lock()
        return original(collection, scheduler)

    get_scheduler_lock.of_hpclaunch = True  # type: ignore[attr-defined]
    for module in (utils, *(sys.modules.get(name) for name in _USERS_OF_LOCKS)):
        if module is not None and getattr(module, "get_scheduler_lock", None) is original:
            module.get_scheduler_lock = get_scheduler_lock  # type: ignore[attr-defined]


def _register(config: ModuleType) -> None:
    global _before, _has_set_shuffle
    if not config.get(SHUFFLE, None):
        _has_set_shuffle = True
        config.set({SHUFFLE: "tasks"})
    now = config.config.get("scheduler", _MISSING)
    if now is not scheduler_of_dask:
        _before = now
        config.config["scheduler"] = scheduler_of_dask
