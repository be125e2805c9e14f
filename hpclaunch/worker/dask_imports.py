"""What a worker does when a task imports Dask. Until then it needs nothing of it, nor of the client's half."""

from __future__ import annotations

import functools
from types import ModuleType

from hpclaunch.on_import import when_imported


def register(*, is_worker: bool = False) -> None:
    """Have Dask find the tasks' client, as soon as it is imported; again is no error.

    :param is_worker: this process runs nothing but tasks.
    """
    for name in ("dask.utils", "dask.local", "dask.base"):
        when_imported(name, functools.partial(_prepare, is_worker=is_worker))


def _prepare(module: ModuleType, *, is_worker: bool) -> None:
    from hpclaunch.client.integrations.dask_in_tasks import prepare  # most workers never import Dask

    prepare(module, is_worker=is_worker)
