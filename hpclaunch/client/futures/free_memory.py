"""Whether results fit into the memory that is free here, before they are fetched.

What is free is the least of what the machine has available, what the control group of this process may still have
(a batch job, a container), and what this process may still have of address space and data (RLIMIT_AS and
RLIMIT_DATA, as ``ulimit`` and ``h_vmem`` set them). Results on this host are mapped, not copied: they have their
memory already, and need address space only.
"""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hpclaunch.cgroup import ControlGroup
from hpclaunch.comm.sharing import LEAST_BYTES
from hpclaunch.errors import ResultTooLargeError

#: Bytes of results below which it is not looked at what is free.
_FEW_BYTES = 16 << 20
#: The part of the free memory that results may have, where no configuration says otherwise.
PART = 0.9

_ADVICE = (
    "Results are still on the cluster, and futures are still good: reduce them there first, with a task that takes"
    " these futures, keep collections there (persist), write to files from the tasks, or ask for fewer at a time"
)


class Stored(NamedTuple):
    """Where a large result is."""

    places: list[str]  # addresses of its holders
    size: int  # bytes

    @property
    def is_mapped(self) -> bool:
        """True if it is on this host, and so large that it is mapped."""
        return self.size >= LEAST_BYTES and any(_host_of(place) in _own_hosts() for place in self.places)


class MemoryLimit(NamedTuple):
    """Bytes that are free, and what says so."""

    size: int
    why: str
    is_of_addresses: bool  # mapped results need it too


def memory_limits() -> list[MemoryLimit]:
    """Return all that limits what this process may still have; what is not known, or not limited, is left out."""
    found = [_machine(), _control_group(), *_limits_of_process()]
    return [limit for limit in found if limit is not None]


def check(results: Mapping[str, Stored], part: float | None) -> None:
    """Check that results fit into what is free.

    :param results: by key.
    :param part: of the free memory that they may have; None: they are not checked.
    :raises ResultTooLargeError: they do not.
    """
    total = sum(one.size for one in results.values())
    if part is None or total < _FEW_BYTES:
        return
    copied = sum(one.size for one in results.values() if not one.is_mapped)
    for limit in memory_limits():
        needed = total if limit.is_of_addresses else copied
        if needed > part * limit.size:
            raise ResultTooLargeError(
                f"{_what(results, total)} {'does' if len(results) == 1 else 'do'} not fit into the memory of this "
                f"process: {max(0, limit.size) / 1e6:.0f} MB are free ({limit.why}), of which results may have "
                f"{part:.0%}. {_ADVICE}. The configuration's key result-memory changes that part, and false "
                "turns this check off"
            )


def explained(error: BaseException, results: Mapping[str, Stored]) -> ResultTooLargeError | None:
    """Return what to raise if an error says that there was no memory for results; None if it does not."""
    if not isinstance(error, MemoryError) and getattr(error, "errno", None) != errno.ENOMEM:
        return None
    if isinstance(error, ResultTooLargeError):
        return error
    free = "; ".join(f"{max(0, limit.size) / 1e6:.0f} MB are free: {limit.why}" for limit in memory_limits())
    what = _what(results, sum(one.size for one in results.values()))
    return ResultTooLargeError(
        f"there was no memory for {what} ({error or type(error).__name__}; {free}). {_ADVICE}"
    )


def _what(results: Mapping[str, Stored], total: int) -> str:
    if len(results) == 1:
        (key,) = results
        return f"the result of task {key} ({total / 1e6:.0f} MB)"
    largest = max(results, key=lambda key: results[key].size)
    return (
        f"{len(results)} results of {total / 1e6:.0f} MB together (the largest is {largest}, "
        f"{results[largest].size / 1e6:.0f} MB)"
    )


# --- what is free


def _machine(meminfo: Path = Path("/proc/meminfo")) -> MemoryLimit | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return MemoryLimit(int(line.split()[1]) * 1024, "what this machine has available", False)
    return None


def _control_group() -> MemoryLimit | None:
    free = ControlGroup().free()
    return (
        None
        if free is None
        else MemoryLimit(free, "the rest of what the job or container may have, a cgroup", False)
    )


def _limits_of_process() -> list[MemoryLimit]:
    found = []
    for name, line in (("RLIMIT_AS", "VmSize:"), ("RLIMIT_DATA", "VmData:")):
        limit, _ = resource.getrlimit(getattr(resource, name))
        if limit != resource.RLIM_INFINITY and (used := _status_of_process(line)):
            flag = "ulimit -v" if name == "RLIMIT_AS" else "ulimit -d"
            found.append(MemoryLimit(limit - used, f"of {limit / 1e6:.0f} MB by {name}, {flag}", True))
    return found


def _status_of_process(name: str) -> int:
    """Return a size out of this process's status, in bytes; 0 if it is not there."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def _host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


@cache
def _own_hosts() -> frozenset[str]:
    """Return the addresses of this host."""
    import psutil

    return frozenset(one.address.partition("%")[0] for each in psutil.net_if_addrs().values() for one in each)
