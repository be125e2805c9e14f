"""How the head of a cluster ends when its handle does, or the handle's process."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Any

from hpclaunch.errors import CancelError, HPCLaunchError
from hpclaunch.head.launch import EXIT_JOBS_LEFT, HeadProcess, log_tail
from hpclaunch.head.sweep import sweep_apart
from hpclaunch.link.loop import LoopThread, loop_thread


def end_unclosed(head: HeadProcess, directory: Path) -> None:
    """End the head of a cluster that was not closed: its handle is garbage, or its process ends."""
    if head.owner_pid != os.getpid():
        return  # a forked child: the head is its parent's
    if loop_thread().is_here:  # garbage is collected in any thread, and this one must not wait
        threading.Thread(target=end_unclosed, args=(head, directory)).start()
        return
    try:
        end_head(head, directory)
        if head.exit_code() == EXIT_JOBS_LEFT:
            raise CancelError(f"cluster {directory.name} may have left jobs behind", output=log_tail(directory))
    except HPCLaunchError as error:
        print(f"hpclaunch: {error}", file=sys.stderr)


def end_head(head: HeadProcess, directory: Path) -> None:
    """End a head that may still be there, and see to what it has left if it did not end in order.

    :raises CancelError: jobs may be left, of which only ``hpclaunch clean`` takes care.
    """
    head.let_go()
    if head.exit_code() not in (0, EXIT_JOBS_LEFT):
        sweep_apart(directory)


def end_inner(thread: LoopThread, head: Any) -> None:
    """End the workers that are threads of this process."""
    if not thread.is_foreign:
        asyncio.run_coroutine_threadsafe(head.close_all("the cluster was closed"), thread.loop)
