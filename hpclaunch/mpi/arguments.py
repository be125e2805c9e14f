"""The arguments of dask-mpi's functions and command as configuration keys of ours. Pure.

Those that are keys anyway (``interface``, ``nthreads``, ``protocol`` ...) go through; the configuration says what
is wrong with their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpclaunch.errors import ConfigError

#: Arguments of Dask's worker classes that have a meaning here.
_WORKER_OPTIONS = ("nthreads", "memory_limit", "local_directory", "death_timeout", "interface", "protocol")
#: Arguments of the head.
_HEAD_OPTIONS = {
    "host": "host",
    "port": "port",
    "scheduler_port": "port",
    "dashboard_address": "dashboard_address",
}
#: Accepted, and without effect: there is no dashboard yet, and workers are named by their ranks.
_WITHOUT_EFFECT = ("dashboard", "worker_name")
_DEFAULT_DASHBOARD = ":8787"


def overrides(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return configuration keys for arguments; None and an empty text stand for "not given".

    :raises ConfigError: an item of ``worker_options`` has no meaning here.
    """
    given = {key: value for key, value in arguments.items() if value is not None and value != ""}
    for key, value in dict(given.pop("worker_options", {})).items():
        if key not in _WORKER_OPTIONS:
            raise ConfigError(
                f"worker_options: {key!r} has no meaning here; there are {', '.join(_WORKER_OPTIONS)}",
                key="worker_options",
            )
        given.setdefault(key, value)
    if given.get("memory_limit") in ("auto", 0, "0"):
        del given["memory_limit"]
    if given.get("dashboard_address") == _DEFAULT_DASHBOARD:
        del given["dashboard_address"]
    for key in _WITHOUT_EFFECT:
        given.pop(key, None)
    head = {name: given.pop(key) for key, name in _HEAD_OPTIONS.items() if key in given}
    if head:
        given["scheduler_options"] = {**(given.get("scheduler_options") or {}), **head}
    return given


def patience(given: Mapping[str, Any], default: float) -> float:
    """Return how many seconds to wait for the other ranks, which must be known before any file is read.

    :raises ConfigError: it is no number of seconds.
    """
    value = given.get("start_timeout", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(f"start_timeout must be seconds above 0, not {value!r}", key="start-timeout")
    return float(value)


def inclusive(exclusive_workers: object) -> bool | None:
    """Return whether workers are also on the ranks of head and script; None is as configured.

    :raises ConfigError: it is neither true nor false.
    """
    if exclusive_workers is not None and not isinstance(exclusive_workers, bool):
        raise ConfigError(
            f"exclusive_workers must be True or False, not {exclusive_workers!r}", key="exclusive-workers"
        )
    return None if exclusive_workers is None else not exclusive_workers
