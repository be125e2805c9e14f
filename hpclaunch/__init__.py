"""hpclaunch: from a Python script and an account on a batch cluster to a running task pool."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # names are loaded when first used: a worker starts as quickly as its imports
    from hpclaunch.client.calls.actors import Actor as Actor
    from hpclaunch.client.calls.setups import WorkerPlugin as WorkerPlugin
    from hpclaunch.client.client import Client as Client
    from hpclaunch.client.coordination.primitives import Event as Event
    from hpclaunch.client.coordination.primitives import Lock as Lock
    from hpclaunch.client.coordination.primitives import MultiLock as MultiLock
    from hpclaunch.client.coordination.primitives import Queue as Queue
    from hpclaunch.client.coordination.primitives import Semaphore as Semaphore
    from hpclaunch.client.coordination.primitives import Variable as Variable
    from hpclaunch.client.futures.answer import ActorFuture as ActorFuture
    from hpclaunch.client.futures.collect import fire_and_forget as fire_and_forget
    from hpclaunch.client.futures.collect import futures_of as futures_of
    from hpclaunch.client.futures.future import Future as Future
    from hpclaunch.client.futures.progress import progress as progress
    from hpclaunch.client.futures.waiting import as_completed as as_completed
    from hpclaunch.client.futures.waiting import wait as wait
    from hpclaunch.client.graphs.delayed import Delayed as Delayed
    from hpclaunch.client.graphs.delayed import delayed as delayed
    from hpclaunch.client.integrations.executor import ClientExecutor as ClientExecutor
    from hpclaunch.client.lookup import get_client as get_client
    from hpclaunch.client.lookup import worker_client as worker_client
    from hpclaunch.cluster.cluster import JobQueueCluster as JobQueueCluster
    from hpclaunch.cluster.cluster import LocalCluster as LocalCluster
    from hpclaunch.cluster.cluster import SGECluster as SGECluster
    from hpclaunch.cluster.cluster import SLURMCluster as SLURMCluster
    from hpclaunch.comm.registry import register_serialization as register_serialization
    from hpclaunch.errors import (
        ActorError as ActorError,
    )
    from hpclaunch.errors import (
        BugError as BugError,
    )
    from hpclaunch.errors import (
        CancelError as CancelError,
    )
    from hpclaunch.errors import (
        CancelledError as CancelledError,
    )
    from hpclaunch.errors import (
        ClusterNotFoundError as ClusterNotFoundError,
    )
    from hpclaunch.errors import (
        CommandError as CommandError,
    )
    from hpclaunch.errors import (
        CommClosedError as CommClosedError,
    )
    from hpclaunch.errors import (
        ConfigError as ConfigError,
    )
    from hpclaunch.errors import (
        ConfigErrors as ConfigErrors,
    )
    from hpclaunch.errors import (
        FrameError as FrameError,
    )
    from hpclaunch.errors import (
        HandshakeError as HandshakeError,
    )
    from hpclaunch.errors import (
        HeadError as HeadError,
    )
    from hpclaunch.errors import (
        HPCLaunchError as HPCLaunchError,
    )
    from hpclaunch.errors import (
        IllegalTransitionError as IllegalTransitionError,
    )
    from hpclaunch.errors import (
        JobsFailedError as JobsFailedError,
    )
    from hpclaunch.errors import (
        KilledWorkerError as KilledWorkerError,
    )
    from hpclaunch.errors import (
        LimitReachedError as LimitReachedError,
    )
    from hpclaunch.errors import (
        LostResultError as LostResultError,
    )
    from hpclaunch.errors import (
        MemoryFullError as MemoryFullError,
    )
    from hpclaunch.errors import (
        PeerError as PeerError,
    )
    from hpclaunch.errors import (
        PeerSilentError as PeerSilentError,
    )
    from hpclaunch.errors import (
        ResultTooLargeError as ResultTooLargeError,
    )
    from hpclaunch.errors import (
        ScriptError as ScriptError,
    )
    from hpclaunch.errors import (
        SerializationError as SerializationError,
    )
    from hpclaunch.errors import (
        SetupError as SetupError,
    )
    from hpclaunch.errors import (
        SiteError as SiteError,
    )
    from hpclaunch.errors import (
        StatusError as StatusError,
    )
    from hpclaunch.errors import (
        SubmitError as SubmitError,
    )
    from hpclaunch.errors import (
        TaskError as TaskError,
    )
    from hpclaunch.errors import (
        TaskTimeoutError as TaskTimeoutError,
    )
    from hpclaunch.errors import (
        TooLargeError as TooLargeError,
    )
    from hpclaunch.errors import (
        UnknownTaskError as UnknownTaskError,
    )
    from hpclaunch.errors import (
        UserError as UserError,
    )
    from hpclaunch.errors import (
        WaitTimeoutError as WaitTimeoutError,
    )
    from hpclaunch.mpi.api import execute as execute
    from hpclaunch.mpi.api import initialize as initialize
    from hpclaunch.tasks.context import get_task as get_task
    from hpclaunch.tasks.context import get_worker as get_worker
    from hpclaunch.tasks.context import rejoin as rejoin
    from hpclaunch.tasks.context import secede as secede

# The same names, for Python.
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
    "LocalCluster": "hpclaunch.cluster.cluster",
    "SGECluster": "hpclaunch.cluster.cluster",
    "SLURMCluster": "hpclaunch.cluster.cluster",
    "execute": "hpclaunch.mpi.api",
    "initialize": "hpclaunch.mpi.api",
    "Actor": "hpclaunch.client.calls.actors",
    "ActorFuture": "hpclaunch.client.futures.answer",
    "ClientExecutor": "hpclaunch.client.integrations.executor",
    "Delayed": "hpclaunch.client.graphs.delayed",
    **dict.fromkeys(
        [
            "ActorError",
            "BugError",
            "CancelError",
            "CancelledError",
            "ClusterNotFoundError",
            "CommClosedError",
            "CommandError",
            "ConfigError",
            "ConfigErrors",
            "FrameError",
            "HPCLaunchError",
            "HandshakeError",
            "HeadError",
            "IllegalTransitionError",
            "JobsFailedError",
            "KilledWorkerError",
            "LimitReachedError",
            "LostResultError",
            "MemoryFullError",
            "PeerError",
            "PeerSilentError",
            "ResultTooLargeError",
            "ScriptError",
            "SerializationError",
            "SetupError",
            "SiteError",
            "StatusError",
            "SubmitError",
            "TaskError",
            "TaskTimeoutError",
            "TooLargeError",
            "UnknownTaskError",
            "UserError",
            "WaitTimeoutError",
        ],
        "hpclaunch.errors",
    ),
}

__all__ = [*_PUBLIC, "__version__"]

if not TYPE_CHECKING:  # to type checkers, a misspelt name is an error

    def __getattr__(name: str) -> Any:
        try:
            module = _PUBLIC[name]
        except KeyError:
            raise AttributeError(f"module 'hpclaunch' has no attribute {name!r}") from None
        value = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
