"""What dask.distributed's Client can do and ours can't, and what to use instead: for a clear error."""

from __future__ import annotations

from typing import Any

_HEAD = "the head runs no code of users and keeps no log of single events"
_INSTEAD = {
    "benchmark_hardware": "",
    "cluster_dump": "scheduler_info(), processing(), why(future) and the logs say how things stand",
    "dump_cluster_state": "scheduler_info(), processing(), why(future) and the logs say how things stand",
    "forward_logging": "`hpclaunch logs` shows what workers log",
    "get_events": _HEAD,
    "get_metadata": "Variable, Queue and datasets keep values by name",
    "get_scheduler_logs": "the head's log is head.log in cluster.directory; `hpclaunch logs` shows it",
    "get_task_stream": "call_stack() and processing() say what runs; there is no record of what has run",
    "get_versions": "run() with a function that returns them asks the workers",
    "get_worker_logs": "cluster.logs() and `hpclaunch logs` show the workers' logs",
    "log_event": _HEAD,
    "loop": "the client's event loop is its own",
    "nbytes": "has_what() and who_has() list large results",
    "normalize_collection": "persisted collections are used again as they are",
    "profile": "py-spy attaches to a worker's process; call_stack() says where tasks are",
    "recreate_error_locally": "future.traceback() says where it was; call the function here with its inputs",
    "recreate_task_locally": "call the function here with its inputs",
    "register_scheduler_plugin": _HEAD,
    "restart_workers": "restart() replaces all worker processes; cancel(force=True) those of a task",
    "retire_workers": "cluster.scale() gives jobs back after their results were moved",
    "scheduler": "scheduler_info() says what the head knows",
    "set_metadata": "Variable, Queue and datasets keep values by name",
    "start_ipython_workers": "",
    "story": "why(future) says how a task stands and why",
    "subscribe_topic": "Queue, Event and Variable carry messages between tasks and clients",
    "sync": "make the client with asynchronous=False and call its methods",
    "unsubscribe_topic": "Queue, Event and Variable carry messages between tasks and clients",
    "write_scheduler_file": "cluster.directory holds the cluster's file; Client(name) finds it by the name",
}

#: Arguments of dask.distributed's Client that nothing here depends on.
_NOT_NEEDED = ("connection_limit", "direct_to_workers", "heartbeat_interval", "loop", "no_global_client_warning")
_REFUSED = {
    "deserializers": "values are pickled; register_serialization() is for types that can't be",
    "extensions": "there are no extensions",
    "preload": "job-script-prologue prepares each job",
    "scheduler_file": "a cluster is found by its name or its directory: Client(name)",
    "serializers": "values are pickled; register_serialization() is for types that can't be",
}


def accept_dask_arguments(cluster: Any, local: dict[str, Any]) -> Any:
    """Remove the arguments of dask.distributed's Client from the further arguments; return the cluster to use.

    :raises TypeError: one asks for what is not there.
    """
    if isinstance(cluster, type):
        raise TypeError(f"Client takes a cluster, and not the class: Client({cluster.__name__}(...))")
    for word in _NOT_NEEDED:
        local.pop(word, None)
    for word, instead in _REFUSED.items():
        if local.pop(word, None) is not None:
            raise TypeError(f"Client takes no {word}=; {instead}")
    address = local.pop("address", None)
    if address is not None and cluster is not None:
        raise TypeError("Client takes a cluster or its address=, and not both")
    return cluster if address is None else address


def missing_attribute(name: str) -> str:
    """Return the text of the AttributeError for a name that a Client does not have."""
    text = f"'Client' object has no attribute {name!r}"
    if name not in _INSTEAD:
        return text
    return f"{text}: it is not there in hpclaunch" + (f"; {_INSTEAD[name]}" if _INSTEAD[name] else "")
