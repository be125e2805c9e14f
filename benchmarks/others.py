"""Clusters of other task libraries on this machine, reachable from nowhere else; each ends with its ``with``."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def _leave_network() -> None:
    """Put this process, which has no threads yet, into a network namespace of its own with nothing but a loopback.

    :raises OSError: the kernel does not let it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET | (_CLONE_NEWUSER if os.geteuid() else 0)):
        number = ctypes.get_errno()
        raise OSError(number, f"no network namespace: {os.strerror(number)}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


@contextlib.contextmanager
def ray_cluster(workers: int) -> Iterator[Any]:
    """Give the module ray, initialised with so many processors.

    In a network namespace of its own: one of Ray's servers listens on all addresses, whatever it is told.
    """
    _leave_network()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    with tempfile.TemporaryDirectory(prefix="ray") as directory:
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=directory,
            object_store_memory=200_000_000,
            log_to_driver=False,
            logging_level="error",
        )
        try:
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def parsl_cluster(workers: int) -> Iterator[Any]:
    """Give the module parsl, loaded with a HighThroughputExecutor of so many workers."""
    # Its interchange and its workers are programs beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider
    from parsl.usage_tracking.levels import DISABLED

    with tempfile.TemporaryDirectory(prefix="parsl") as directory:
        executor = HighThroughputExecutor(
            label="htex",
            address="127.0.0.1",
            max_workers_per_node=workers,
            cores_per_worker=0.1,
            provider=LocalProvider(init_blocks=1, max_blocks=1),
        )
        config = Config(
            executors=[executor],
            strategy="none",
            run_dir=directory,
            usage_tracking=DISABLED,
            initialize_logging=False,
        )
        with parsl.load(config):
            yield parsl


@contextlib.contextmanager
def ipyparallel_view(workers: int) -> Iterator[Any]:
    """Give a load-balanced view of a new ipyparallel cluster with so many engines."""
    with tempfile.TemporaryDirectory(prefix="ipp") as directory:
        os.environ["IPYTHONDIR"] = directory
        import ipyparallel

        with ipyparallel.Cluster(
            n=workers, profile_dir=f"{directory}/profile", controller_ip="127.0.0.1", log_level=40
        ) as client:
            client.wait_for_engines(workers, timeout=60)
            yield client.load_balanced_view()
