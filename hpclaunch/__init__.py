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
    "Future": "hpclaunch.client.future",
    "Event": "hpclaunch.client.named",
    "Lock": "hpclaunch.client.named",
    "MultiLock": "hpclaunch.client.named",
    "Queue": "hpclaunch.client.named",
    "Semaphore": "hpclaunch.client.named",
    "Variable": "hpclaunch.client.named",
    "delayed": "hpclaunch.client.delayed",
    "fire_and_forget": "hpclaunch.client.held",
    "futures_of": "hpclaunch.client.held",
    "get_client": "hpclaunch.client.current",
    "get_task": "hpclaunch.worker.context",
    "get_worker": "hpclaunch.worker.context",
    "rejoin": "hpclaunch.worker.context",
    "secede": "hpclaunch.worker.context",
    "worker_client": "hpclaunch.worker.context",
    "register_serialization": "hpclaunch.comm.registry",
    "as_completed": "hpclaunch.client.waiting",
    "progress": "hpclaunch.client.progress",
    "wait": "hpclaunch.client.waiting",
    "JobQueueCluster": "hpclaunch.cluster.cluster",
    "LocalCluster": "hpclaunch.cluster.cluster",
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
