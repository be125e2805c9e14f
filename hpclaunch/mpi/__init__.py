"""One MPI job as a cluster: ``initialize()`` inside ``mpirun -np 8 python script.py``.

Rank 0 becomes the head, rank 1 goes on with the script, the others become workers; then ``Client()`` needs no
argument. MPI, where there is one, is used to start and for nothing after it.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "initialize": "hpclaunch.mpi.api",
    "execute": "hpclaunch.mpi.api",
    "cluster": "hpclaunch.mpi.api",
    "MPICluster": "hpclaunch.mpi.handle",
}

__all__ = ["MPICluster", "cluster", "execute", "initialize"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hpclaunch.mpi' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
