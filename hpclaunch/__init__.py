"""hpclaunch: from a Python script and an account on a batch cluster to a running task pool."""

# `python -m hpclaunch` has the current directory first on its path until hpclaunch.cli.entry drops it. Up to there
# nothing is imported that Python itself has not imported yet: not __future__ or typing, for example.
import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # names are loaded when first used: a worker starts as quickly as its imports
    from hpclaunch.client.calls.actors import Actor as Actor
    from hpclaunch.client.calls.setups import WorkerPlugin as WorkerPlugin
    from hpclaunch.client.client import Client as Client
    from hpclaunch.client.coordination.primitives import (
        Event as Event,
        Lock as Lock,
        MultiLock as MultiLock,
        Queue as Queue,
        Semaphore as Semaphore,
        Variable as Variable,
    )
    from hpclaunch.client.futures.answer import ActorFuture as ActorFuture
    from hpclaunch.client.futures.collect import fire_and_forget as fire_and_forget, futures_of as futures_of
    from hpclaunch.client.futures.future import Future as Future
    from hpclaunch.client.futures.progress import progress as progress
    from hpclaunch.client.futures.waiting import as_completed as as_completed, wait as wait
    from hpclaunch.client.graphs.delayed import Delayed as Delayed, delayed as delayed
    from hpclaunch.client.integrations.executor import ClientExecutor as ClientExecutor
    from hpclaunch.client.lookup import get_client as get_client, worker_client as worker_client
    from hpclaunch.cluster.cluster import (
        JobQueueCluster as JobQueueCluster,
        SGECluster as SGECluster,
        SLURMCluster as SLURMCluster,
    )
    from hpclaunch.cluster.local import LocalCluster as LocalCluster
    from hpclaunch.comm.registry import register_serialization as register_serialization
    from hpclaunch.errors import (
        ActorError as ActorError,
        BugError as BugError,
        CancelError as CancelError,
        CancelledError as CancelledError,
        ClusterNotFoundError as ClusterNotFoundError,
        CommandError as CommandError,
        CommClosedError as CommClosedError,
        ConfigError as ConfigError,
        ConfigErrors as ConfigErrors,
        FrameError as FrameError,
        HandshakeError as HandshakeError,
        HeadError as HeadError,
        HPCLaunchError as HPCLaunchError,
        IllegalTransitionError as IllegalTransitionError,
        JobsFailedError as JobsFailedError,
        KilledWorkerError as KilledWorkerError,
        LimitReachedError as LimitReachedError,
        LostResultError as LostResultError,
        MemoryFullError as MemoryFullError,
        PeerError as PeerError,
        PeerSilentError as PeerSilentError,
        ResultTooLargeError as ResultTooLargeError,
        ScriptError as ScriptError,
        SerializationError as SerializationError,
        SetupError as SetupError,
        SiteError as SiteError,
        StatusError as StatusError,
        SubmitError as SubmitError,
        TaskError as TaskError,
        TaskTimeoutError as TaskTimeoutError,
        TooLargeError as TooLargeError,
        UnknownTaskError as UnknownTaskError,
        UserError as UserError,
        WaitTimeoutError as WaitTimeoutError,
    )
    from hpclaunch.mpi.api import execute as execute, initialize as initialize
    from hpclaunch.tasks.context import (
        get_task as get_task,
        get_worker as get_worker,
        rejoin as rejoin,
        secede as secede,
    )

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
    "LocalCluster": "hpclaunch.cluster.local",
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
