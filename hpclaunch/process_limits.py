"""What the kernel lets a process of ours do: how many files it opens, and what it leaves when it crashes."""

from __future__ import annotations

import contextlib
import os
import resource


def raise_open_files() -> None:
    """Let this process open as many files as its hard limit says: each connection of a head is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def no_core_dumps() -> None:
    """Have a crash leave no image of memory, with keys and data in it, unless ``HPCLAUNCH_CORE_DUMPS=1``.

    The hard limit stays, so that a task can raise the soft one for itself.
    """
    if os.environ.get("HPCLAUNCH_CORE_DUMPS", "0") in ("", "0"):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
