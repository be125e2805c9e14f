"""What is done when the system gives a worker's process no more memory, as under Grid Engine's ``h_vmem``.

A task that asks for too much gets a MemoryError, and that is its outcome; :func:`explain` says in it what the
limit is and what to raise. If a worker's own threads or its event loop get one, because a task has taken all there
was, what was left undone is not known: the process then says so and ends (:func:`give_up`), and the tasks that it
ran count it. In a process that is not the worker's own (``processes=False``) the task fails, and the thread goes
on.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hpclaunch.comm.messages import Failure

if TYPE_CHECKING:
    from hpclaunch.tasks.context import WorkerFacts

#: Why a task or a call has no outcome. Made now, since there is no memory for it then.
NOTHING_LEFT = Failure(
    "TaskError",
    "this process had no memory left to note how it ended, or to take its result. Free some, run fewer tasks at "
    "once, or run them in processes of their own (not processes=False), where one that takes too much ends alone",
)
_LAST_WORDS = b"hpclaunch worker: there is no memory left for the worker itself, so its process ends\n"


def address_space() -> tuple[int, int]:
    """Return the bytes of virtual memory that this process has, and that it may have; 0 is no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = 0
    with contextlib.suppress(OSError):
        used = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    return used, 0 if limit == resource.RLIM_INFINITY else limit


def explain(error: MemoryError, worker: WorkerFacts) -> None:
    """Say in a task's MemoryError what its limit is, and drop what the task had."""
    for one in _chain(error):
        traceback.clear_frames(one.__traceback__)
    with contextlib.suppress(Exception):  # there may be no memory for words either
        text = in_words(worker.name, worker.job_id, worker.host)
        if error.args:
            error.add_note(text)
        else:
            error.args = (text,)


def in_words(worker: str, job_id: str, host: str) -> str:
    """Say what the limit is, and what to raise."""
    used, limit = address_space()
    where = f"worker {worker} (job {job_id}, host {host})"
    if not limit:
        return f"the system gave {where} no more memory; its process has {used / 1e6:.0f} MB of virtual memory now"
    return (
        f"{where} may have {limit / 1e6:.0f} MB of virtual memory, which the batch system has set (RLIMIT_AS; "
        f"h_vmem on Grid Engine), and without this task it has {used / 1e6:.0f} MB. Ask for more per job: memory=,"
        " and resource_spec= if that names h_vmem"
    )


def give_up(slots: mmap.mmap, mark: int) -> None:
    """End this process at once, with ``mark`` as what it has noted of its end; needs next to no memory."""
    slots[-1] = mark
    os.write(2, _LAST_WORDS)
    os._exit(1)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give an exception and those that it came after."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
