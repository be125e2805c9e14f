"""Workers in the head's own process, over memory: for ``processes=False`` and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpclaunch.comm.memory import memory_pair
from hpclaunch.worker.server import WorkerServer, make_hello

if TYPE_CHECKING:
    from hpclaunch.scheduler.server import SchedulerServer


async def start_inprocess_worker(
    scheduler: SchedulerServer, *, name: str, threads: int, job_id: str = "inprocess"
) -> WorkerServer:
    """Start a worker whose tasks run in threads of this process, and join it to ``scheduler``."""
    ours, theirs = memory_pair(name, "head")
    hello = make_hello(name, scheduler.cluster_id, threads=threads, job_id=job_id, head_address="memory")
    worker = WorkerServer(hello)
    welcome = scheduler.on_peer(theirs, hello)
    worker.attach(ours, welcome)
    return worker
