"""Workers in the head's own process, over memory: for ``processes=False`` and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpclaunch.comm.memory import memory_pair
from hpclaunch.comm.messages import Hello
from hpclaunch.link.session import HeadSession
from hpclaunch.worker import dask_imports
from hpclaunch.worker.door import WorkerDoor
from hpclaunch.worker.server import WorkerServer, make_hello

if TYPE_CHECKING:
    from hpclaunch.scheduler.server import SchedulerServer


async def start_inprocess_worker(
    scheduler: SchedulerServer, *, name: str, threads: int, job_id: str = "inprocess"
) -> WorkerServer:
    """Start a worker whose tasks run in threads of this process, and join it to ``scheduler``."""
    dask_imports.register()
    ours, theirs = memory_pair(name, "head")
    hello = make_hello(name, scheduler.cluster_id, threads=threads, job_id=job_id, head_address="memory")
    worker = WorkerServer(hello, door=_MemoryDoor(hello, scheduler))
    welcome = scheduler.on_peer(theirs, hello)
    worker.attach(ours, welcome)
    return worker


class _MemoryDoor(WorkerDoor):
    """As WorkerDoor, to a head in this process."""

    def __init__(self, hello: Hello, scheduler: SchedulerServer) -> None:
        super().__init__(hello, None)
        self._scheduler = scheduler

    async def open_session(self, *, name: str, on_messages: Any = None, on_lost: Any = None) -> HeadSession:
        ours, theirs = memory_pair(name, "head")
        session = HeadSession(on_messages, on_lost)
        welcome = self._scheduler.on_peer(theirs, self.client_hello(name))
        session.attach(ours, welcome)
        return session
