"""Codecs by their names in configuration: hpclaunch's own, and those of installed packages."""

from __future__ import annotations

import functools
import importlib

from hpclaunch import extensions
from hpclaunch.batch.base import BatchSystem

_OWN = {
    "sge": ("hpclaunch.batch.sge", "GridEngine"),
    "slurm": ("hpclaunch.batch.slurm", "Slurm"),
    "local": ("hpclaunch.batch.local", "LocalProcesses"),
}


@functools.cache
def codec(name: str) -> type[BatchSystem]:
    """Return the class of a batch system's codec.

    :raises ConfigError: there is none of this name, or its package cannot be used.
    """
    if name not in _OWN:
        return extensions.load(name)
    module, attribute = _OWN[name]
    found: type[BatchSystem] = getattr(importlib.import_module(module), attribute)
    return found
