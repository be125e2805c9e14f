"""Batch systems: codecs, and the queue that runs their commands."""

from __future__ import annotations

from pathlib import Path

from hpclaunch.batch.base import BatchSystem
from hpclaunch.batch.systems import codec
from hpclaunch.config.schema import JobConfig

__all__ = ["BatchSystem", "by_name", "codec"]


def by_name(name: str, config: JobConfig, directory: Path) -> BatchSystem:
    """Return the codec of a batch system.

    :param directory: the cluster's run directory, where the local batch system keeps its jobs.
    :raises ScriptError: the user's own directives send jobs where they can't be followed.
    :raises ConfigError: there is none of this name, or its package cannot be used.
    """
    return codec(name).from_config(config, directory)
