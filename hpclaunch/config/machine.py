"""What this machine lets this process use: cores and memory, after the limits of its job or container."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import NamedTuple


class Machine(NamedTuple):
    """What a process may use of its machine."""

    cores: int
    memory: int  # bytes

    def memory_of(self, cores: int) -> int:
        """Return the memory that goes with so many cores, in bytes, when each has the same."""
        return self.memory * min(cores, self.cores) // self.cores


def this_machine() -> Machine:
    """Return what this process may use: its CPU mask, and the lowest of all memory limits."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *cgroup_limits()]
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    return Machine(cores=len(os.sched_getaffinity(0)), memory=min(limits))


def cgroup_limits(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return the memory limits, in bytes, of the control groups (version 2) that this process is in."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        number, _, group = line.partition("::")
        if number != "0":
            continue  # version 1
        inner = root / group.lstrip("/")
        for directory in (inner, *inner.parents):
            if not directory.is_relative_to(root):
                break
            try:
                text = (directory / "memory.max").read_text().strip()
            except OSError:
                continue
            if text.isdecimal():
                limits.append(int(text))
    return limits
