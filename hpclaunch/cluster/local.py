"""``LocalCluster``: a cluster whose jobs run on this machine, as processes or as threads of this one."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

from hpclaunch.cluster.arguments import whole
from hpclaunch.cluster.cluster import JobQueueCluster
from hpclaunch.cluster.shutdown import end_inner
from hpclaunch.errors import ConfigError
from hpclaunch.link.session import HeadSession


class LocalCluster(JobQueueCluster):
    """Workers on this machine: each is a job of the local batch system, run from the same kind of script.

    The workers are connected when the constructor returns; of an asynchronous one, when it has been awaited.

    :param n_workers: workers to start with; None is one per core.
    :param threads_per_worker: threads of each worker.
    :param processes: False has the workers as threads of this very process, for debugging.
    :param memory_limit: memory of each worker, as ``memory``; "auto", 0 or None is the machine's share.
    """

    config_name = "local"

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        processes: bool | int = True,
        memory_limit: str | int | None = None,
        **arguments: Any,
    ) -> None:
        if isinstance(processes, int) and not isinstance(processes, bool):
            raise ConfigError("processes: LocalCluster has one process per job; say n_workers", key="processes")
        threads = threads_per_worker or arguments.pop("cores", None) or 1
        if n_workers is None:
            n_workers = max(1, len(os.sched_getaffinity(0)) // (whole(threads) or 1))
        memory = arguments.pop("memory", None) or (None if memory_limit in ("auto", 0) else memory_limit)
        for theirs, ours in (("ip", "host"), ("scheduler_port", "port")):
            arguments.setdefault(ours, arguments.pop(theirs, None))
        self._in_process = not processes
        super().__init__(cores=threads, processes=1, memory=memory, n_workers=n_workers, **arguments)

    def _begin(self) -> None:
        if not self._in_process:
            super()._begin()
            return
        from hpclaunch.head.inprocess import InProcessHead

        async def begin() -> HeadSession:
            self._inner = InProcessHead(self.name, threads=self.config.threads)
            return await self.open_session(name=f"cluster-{os.getpid()}")

        self.directory = Path("/nonexistent")
        self._script = "# processes=False: the workers are threads of this process, there is no job\n"
        self.facts = {"id": self.name, "name": self.name, "addresses": ["memory"], "security": False}
        self.facts["result_memory"] = self.config.result_memory
        self._connect(begin())
        self._finalizer = weakref.finalize(self, end_inner, self._thread, self._inner)
        self._status = "running"

    def _end(self) -> None:
        if self._in_process:
            self._finalizer()
        else:
            super()._end()

    async def open_session(self, *, name: str, on_messages: Any = None, on_lost: Any = None) -> HeadSession:
        """Open one more connection to the head; what Client does."""
        if self._in_process:
            return self._inner.open_session(name, on_messages, on_lost)
        return await super().open_session(name=name, on_messages=on_messages, on_lost=on_lost)
