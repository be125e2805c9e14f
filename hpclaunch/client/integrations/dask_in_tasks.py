"""Dask inside a task: its default scheduler is the task's client, as with dask.distributed.

A scheduler that the task names, by ``scheduler=`` or ``dask.config.set(scheduler=...)``, is used. Dask's own
schedulers do not know our futures: they are given the results, in tasks and elsewhere. Nothing here imports Dask.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from hpclaunch.client.graphs.dask_shuffle import SHUFFLE
from hpclaunch.client.integrations.dask import lock_between_processes, scheduler_of_dask
from hpclaunch.on_import import when_imported
from hpclaunch.tasks.context import here

#: The modules that have Dask's common scheduling loop under its name.
_USERS_OF_LOOP = ("dask.local", "dask.threaded", "dask.multiprocessing")


def register() -> None:
    """Prepare Dask, now or as soon as it is imported; again is no error."""
    for name in ("dask.utils", "dask.local", "dask.base"):
        when_imported(name, prepare)


def prepare(module: ModuleType, *, is_worker: bool = False) -> None:
    """Prepare one of Dask's modules.

    :param is_worker: this process runs nothing but tasks: data frames are shuffled by tasks here.
    """
    match module.__name__:
        case "dask.utils":
            lock_between_processes(module)
        case "dask.local":
            _resolve_futures(module)
        case "dask.base":
            _follow_tasks(module, is_worker=is_worker)


def _follow_tasks(base: ModuleType, *, is_worker: bool) -> None:
    """Have Dask's choice of a scheduler end at the task's client."""
    config: Any = sys.modules["dask.config"]
    if is_worker and not config.get(SHUFFLE, None):
        config.set({SHUFFLE: "tasks"})
    original = base.get_scheduler
    if hasattr(original, "of_hpclaunch"):
        return

    @functools.wraps(original)
    def get_scheduler(get: Any = None, scheduler: Any = None, collections: Any = None, cls: Any = None) -> Any:
        if here.place is not None and not get and scheduler is None and not config.get("scheduler", None):
            return scheduler_of_dask
        return original(get=get, scheduler=scheduler, collections=collections, cls=cls)

    get_scheduler.of_hpclaunch = True  # type: ignore[attr-defined]
    for module in (base, sys.modules.get("dask.dataframe.io.hdf")):
        if module is not None and getattr(module, "get_scheduler", None) is original:
            module.get_scheduler = get_scheduler  # type: ignore[attr-defined]


def _resolve_futures(local: ModuleType) -> None:
    """Have Dask's own schedulers run on results instead of futures."""
    original: Callable[..., Any] = local.get_async
    if hasattr(original, "of_hpclaunch"):
        return

    @functools.wraps(original)
    def get_async(submit: Any, num_workers: Any, dsk: Any, *args: Any, **options: Any) -> Any:
        return original(submit, num_workers, with_results(dsk), *args, **options)

    get_async.of_hpclaunch = True  # type: ignore[attr-defined]
    for module in (sys.modules.get(name) for name in _USERS_OF_LOOP):
        if module is not None and getattr(module, "get_async", None) is original:
            module.get_async = get_async  # type: ignore[attr-defined]


def with_results(dsk: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a graph with results for the futures in it; waits for them.

    :raises Exception: what their tasks raised.
    """
    if "hpclaunch.client.client" not in sys.modules:  # there are no futures in this process
        return dsk
    from hpclaunch.client.graphs import plan
    from hpclaunch.link.facade import allowing_to_block

    if hasattr(dsk, "__dask_graph__"):
        dsk = dsk.__dask_graph__()
    found = [future for node in dsk.values() for future in plan.futures_within(node)]
    if not found:
        return dsk
    futures = {future._key: future for future in found}
    by_client: dict[Any, list[Any]] = {}
    for future in futures.values():
        by_client.setdefault(future.client, []).append(future)
    values: dict[str, Any] = {}
    with allowing_to_block():
        for client, some in by_client.items():
            values.update(zip([one._key for one in some], client.gather(some), strict=True))
    return {key: plan.replace_futures(node, values) for key, node in dsk.items()}
