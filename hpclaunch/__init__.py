"""hpclaunch: from a Python script and an account on a batch cluster to a running task pool."""

# `python -m hpclaunch` has the current directory first on its path until hpclaunch.cli.entry drops it. Up to there
# nothing is imported that Python itself has not imported yet: not __future__ or typing, for example.
import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

# Names are loaded when first used: a worker starts as quickly as its imports.
_PUBLIC: dict[str, str] = {
    "Client": "hpclaunch.client.client",
    "Future": "hpclaunch.client.futures.future",
    "Event": "hpclaunch.client.coordination.primitives",
    "Lock": "hpclaunch.client.coordination.primitives",
    "MultiLock": "hpclaunch.client.coordination.primitives",
    "Queue": "hpclaunch.client.coordination.primitives",
    "Semaphore": "hpclaunch.client.coordination.primitives",
    "Variable": "hpclaunch.client.coordination.primitives",
    "delayed": "hpclaunch.client.graphs.delayed",
    "fire_and_forget": "hpclaunch.client.futures.collect",
    "futures_of": "hpclaunch.client.futures.collect",
    "get_client": "hpclaunch.client.lookup",
    "get_task": "hpclaunch.tasks.context",
    "get_worker": "hpclaunch.tasks.context",
    "rejoin": "hpclaunch.tasks.context",
    "secede": "hpclaunch.tasks.context",
    "worker_client": "hpclaunch.client.lookup",
    "register_serialization": "hpclaunch.comm.registry",
    "WorkerPlugin": "hpclaunch.client.calls.setups",
    "as_completed": "hpclaunch.client.futures.waiting",
    "progress": "hpclaunch.client.futures.progress",
    "wait": "hpclaunch.client.futures.waiting",
    "JobQueueCluster": "hpclaunch.cluster.cluster",
    "LocalCluster": "hpclaunch.cluster.local",
    "SGECluster": "hpclaunch.cluster.cluster",
    "SLURMCluster": "hpclaunch.cluster.cluster",
    "execute": "hpclaunch.mpi.api",
    "initialize": "hpclaunch.mpi.api",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> "Any":
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'hpclaunch' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
