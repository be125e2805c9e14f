"""A head without a process: scheduler and workers in threads of the user's own process (``processes=False``).

For debugging and tests: no jobs, no files, no sockets, nothing secret. What a job is elsewhere is one worker here.
Everything runs on the given loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from hpclaunch.comm.memory import memory_pair
from hpclaunch.comm.messages import PROTOCOL_VERSION, Hello
from hpclaunch.config.schema import JobConfig
from hpclaunch.engines.embedded import RunningEmbedded
from hpclaunch.errors import HPCLaunchError, UserError
from hpclaunch.head.control import Control
from hpclaunch.jobs.adaptive import Adaptive, Facts, JobFact, LogRow, Policy, Shape
from hpclaunch.jobs.job import State
from hpclaunch.link.session import HeadSession
from hpclaunch.scheduler.server import SchedulerServer
from hpclaunch.worker.inprocess import start_inprocess_worker
from hpclaunch.worker.server import WorkerServer


class InProcessHead:
    """The head of a cluster whose workers are threads of this process. Make it on its loop."""

    failure: HPCLaunchError | None = None

    def __init__(self, cluster_id: str, *, threads: int) -> None:
        self._control = Control(self)
        self._server = SchedulerServer(cluster_id, on_request=self._control.answer)
        self.engine = RunningEmbedded(self._server, None, ())
        self._threads = threads
        self._workers: dict[str, tuple[WorkerServer, float]] = {}
        self._started = 0
        self._scaling = asyncio.Lock()
        self._closed = False
        self._adaptive: Adaptive | None = None
        self._adapting: asyncio.Task[None] | None = None

    def open_session(self, name: str, on_messages: Any, on_lost: Callable[..., None] | None) -> HeadSession:
        """Connect a client."""
        ours, theirs = memory_pair(name, "head")
        session = HeadSession(on_messages, on_lost)
        welcome = self._server.on_peer(theirs, Hello(PROTOCOL_VERSION, "client", name, self._server.cluster_id))
        session.attach(ours, welcome)
        return session

    async def scale(self, jobs: int, group: str = "") -> None:
        """Have this many workers from now on; ends adaptive scaling."""
        _no_groups(group)
        if self._adapting is not None:
            self._adapting.cancel()
            self._adapting = None
        await self._resize(jobs)

    def adapt(self, policy: Policy, group: str = "") -> None:
        """Have as many workers as the work is worth from now on."""
        _no_groups(group)
        if self._adapting is not None:
            self._adapting.cancel()
        before, self._adaptive = self._adaptive, Adaptive(policy, Shape(self._threads, self._threads, None))
        if before is not None:
            self._adaptive.take_over(before)
        self._adapting = asyncio.ensure_future(self._adapt(self._adaptive))

    def adapt_log(self, group: str = "") -> list[LogRow]:
        """Return what adaptive scaling has decided, the oldest first."""
        _no_groups(group)
        return list(self._adaptive.log) if self._adaptive is not None else []

    def group_configs(self) -> dict[str, JobConfig]:
        """There are none."""
        return {}

    def add_group(self, name: str, config: JobConfig) -> None:
        """Refuse: there is but one kind of thread."""
        _no_groups(name)

    async def _adapt(self, adaptive: Adaptive) -> None:
        while True:
            demand, now = self.engine.demand(), time.time()
            jobs = []
            for job_id, (_, since) in self._workers.items():
                load = demand.jobs.get(job_id)
                tasks, held = (load.tasks, load.held_bytes) if load is not None else (0, 0)
                jobs.append(JobFact(job_id, State.UP, now - since, tasks, held))
            work = [(w.tasks, w.seconds) for w in demand.ready]
            work += [(w.tasks, w.seconds) for w in demand.jobs.values()]
            facts = Facts(jobs, sum(w[1] for w in work), sum(w[0] for w in work), demand.waiting)
            decision = adaptive.step(facts, now)
            if decision.submit or decision.retire:
                await self._resize(len(jobs) + decision.submit - len(decision.retire), decision.retire)
            await asyncio.sleep(adaptive.policy.interval)

    async def _resize(self, jobs: int, first: Sequence[str] = ()) -> None:
        """Have this many workers; those in ``first`` go first. Several calls take turns."""
        async with self._scaling:
            if self._closed:
                raise UserError("This cluster is being closed; make a new one to run more workers.")
            await self._resize_alone(jobs, first)

    async def _resize_alone(self, jobs: int, first: Sequence[str]) -> None:
        while len(self._workers) < jobs:
            self._started += 1
            job_id = f"thread.{self._started}"
            worker = await start_inprocess_worker(
                self._server, name=f"{job_id}-0", threads=self._threads, job_id=job_id
            )
            self._workers[job_id] = (worker, time.time())
        load = self.engine.job_load()
        cheapest = sorted(self._workers, key=lambda job: (job not in first, *load.get(job, (0, 0))))
        for job_id in cheapest[: len(self._workers) - jobs]:
            worker, _ = self._workers.pop(job_id)
            await self.engine.retire_job(job_id, "the cluster was scaled down")
            worker.end("the cluster was scaled down")

    @property
    def wanted_workers(self) -> int:
        """How many workers there are to be."""
        return len(self._workers)

    def job_table(self) -> list[dict[str, Any]]:
        """Return the workers as if they were jobs."""
        return [
            {
                "id": job_id,
                "state": "up",
                "since": since,
                "host": worker.hello.host,
                "workers": 1,
                "reason": "",
                "story": ["in this process"],
            }
            for job_id, (worker, since) in self._workers.items()
        ]

    def job_notes(self) -> list[str]:
        """There are no limits here."""
        return []

    def job_logs(self, job_id: str | None) -> dict[str, str]:
        """Return what there is of logs: workers in this process print where it prints."""
        jobs = [job_id] if job_id is not None else list(self._workers)
        return dict.fromkeys(jobs, "(this worker is a thread of your own process and prints there)")

    async def close_all(self, reason: str) -> None:
        """End the workers and disconnect the clients."""
        if self._closed:
            return
        self._closed = True
        if self._adapting is not None:
            self._adapting.cancel()
        for worker, _ in self._workers.values():
            worker.end(reason)
        self._workers.clear()
        asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(self._server.close(reason)))


def _no_groups(name: str) -> None:
    if name:
        raise UserError("a cluster with processes=False has no groups: its workers are threads of this process")
