"""What the kernel says of this job's memory: its control group's limit, and how often that was enforced.

Batch systems that limit memory put each job into a control group; the kernel then ends a process of the group when
there is no more. Read from files, of either version of control groups; where they can't be read, nothing is known.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

#: More than any machine has: how version 1 writes that there is no limit.
_ENDLESS = 1 << 60


class ControlGroup:
    """The control group that this process is in.

    :param proc: this process's directory below ``/proc``.
    :param mounted: where control groups are mounted.
    """

    def __init__(self, proc: Path = Path("/proc/self"), mounted: Path = Path("/sys/fs/cgroup")) -> None:
        self._directories: list[Path] = []  # its own, then those above it
        with contextlib.suppress(OSError):
            for line in (proc / "cgroup").read_text().splitlines():
                _, kinds, path = line.split(":", 2)
                base = mounted / "memory" if "memory" in kinds.split(",") else mounted
                if base != mounted or (not kinds and not self._directories):
                    self._directories = _existing(base, path)

    def oom_kills(self) -> int:
        """Return how many processes of the group the kernel has ended because its memory was full."""
        for directory in self._directories[:1]:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError, ValueError, KeyError):
                    lines = (directory / name).read_text().splitlines()
                    return int(dict(line.split() for line in lines)["oom_kill"])
        return 0

    def limit(self) -> int:
        """Return the bytes that the group may have; 0 if there is no limit, or none is known."""
        limits = []
        for directory in self._directories:
            for name in ("memory.max", "memory.limit_in_bytes"):
                with contextlib.suppress(OSError, ValueError):
                    limits.append(int((directory / name).read_text()))
        return min((limit for limit in limits if limit < _ENDLESS), default=0)

    def free(self) -> int | None:
        """Return the bytes that the group, and those above it, may still have; None: there is no limit.

        Pages of files that it could give up at once are free.
        """
        found = [
            room
            for directory in self._directories
            for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
            if (room := _room_in(directory, *names)) is not None
        ]
        return min(found, default=None)


def _room_in(directory: Path, limit_name: str, usage_name: str) -> int | None:
    try:
        limit, usage = (int((directory / name).read_text()) for name in (limit_name, usage_name))
    except (OSError, ValueError):  # the limit may be the word "max"
        return None
    if limit >= _ENDLESS:
        return None
    idle = 0
    with contextlib.suppress(OSError, ValueError, KeyError):
        stat = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
        idle = int(stat.get("total_inactive_file") or stat["inactive_file"])
    return limit - usage + idle


def oom_kills_of_machine(vmstat: Path = Path("/proc/vmstat")) -> int | None:
    """Return how many processes the kernel has ended for want of memory; None: it does not say."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(dict(line.split() for line in vmstat.read_text().splitlines())["oom_kill"])
    return None


def _existing(base: Path, path: str) -> list[Path]:
    """Return a group's directory and those above it; inside a container its own group is what is mounted."""
    own = base / path.lstrip("/")
    if not own.is_dir():
        own = base
    return [own, *(parent for parent in own.parents if parent.is_relative_to(base))]
