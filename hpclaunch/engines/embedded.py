"""The engine that comes with hpclaunch: our own scheduler, inside the head."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpclaunch.comm import messages as m, tls
from hpclaunch.comm.listener import Listener
from hpclaunch.config.schema import JobConfig
from hpclaunch.engines.base import HeadHooks
from hpclaunch.errors import HandshakeError, HPCLaunchError
from hpclaunch.safepath import module_command
from hpclaunch.scheduler.demand import Demand
from hpclaunch.scheduler.passes import Passes
from hpclaunch.scheduler.server import SchedulerServer

#: Roles of those who speak for a job.
_OF_JOBS = ("worker", "supervisor", "task")


class EmbeddedEngine:
    """Our own scheduler."""

    name = "embedded"

    def head_command(self, python: str, directory: Path) -> list[str]:
        """Return the argv of the head whose run directory this is."""
        return [*module_command(python, "hpclaunch.head"), "--directory", str(directory)]

    def worker_command(self, config: JobConfig, directory: Path) -> list[str]:
        """Return the argv that a job runs."""
        from hpclaunch import scripts  # templates take a while to import, and not every head has any

        return list(scripts.worker_command(config, directory))

    async def start(
        self,
        directory: Path,
        cluster_id: str,
        config: JobConfig,
        hosts: Sequence[str],
        hooks: HeadHooks,
        **options: Any,
    ) -> RunningEmbedded:
        """Start a scheduler that listens on ``hosts``; ``options``: port, python_path, allowed_failures."""
        context = None
        if config.security:
            tls.write_credentials(directory, cluster_id)
            context = tls.server_context(directory, "head")
        server = SchedulerServer(
            cluster_id,
            python_path=options.get("python_path", []),
            allowed_failures=options.get("allowed_failures", 3),
            on_worker_joined=lambda hello: _tell_joined(hooks, hello),
            on_worker_left=hooks.worker_left,
            on_request=hooks.request,
            on_client_left=hooks.client_left,
            on_job_ends=hooks.job_ends,
            coming=hooks.coming,
            on_job_left=hooks.job_left,
        )
        server.ticks.allow_staying_awake()
        passes = Passes()

        def on_peer(comm: Any, hello: m.Hello) -> m.Welcome:
            if hello.role in _OF_JOBS:
                if not hooks.is_job_id(hello.job_id):
                    raise HandshakeError(f"{hello.job_id!r} is no id that a job of this cluster could have")
                passes.check(hello, hooks.start_of(hello.job_id) if hello.role == "supervisor" else None)
            return server.on_peer(comm, hello)

        listener = Listener(cluster_id, context, on_peer)
        await listener.start(hosts, options.get("port", 0))
        return RunningEmbedded(server, listener, hosts)


def _tell_joined(hooks: HeadHooks, hello: m.Hello) -> None:
    hooks.worker_joined(hello.job_id, hello.name, hello.host, hello.head_address)
    if hello.time:
        hooks.clock_told(hello.job_id, hello.host, hello.time - time.time())


class RunningEmbedded:
    """A scheduler at work; see :class:`hpclaunch.engines.base.RunningEngine`."""

    def __init__(self, server: SchedulerServer, listener: Listener | None, hosts: Sequence[str]) -> None:
        self.server = server
        self._listener = listener
        self._hosts = hosts

    @property
    def addresses(self) -> list[str]:
        """Where workers and clients reach it, best first."""
        if self._listener is None:
            return ["memory"]
        port = self._listener.port
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in self._hosts]

    def job_load(self) -> dict[str, tuple[int, int]]:
        """Return for each job with workers: tasks assigned to it, and bytes that only it holds."""
        load = self.server.load()
        return {job: (tasks, load.held_bytes.get(job, 0)) for job, tasks in load.busy_jobs.items()}

    def demand(self) -> Demand:
        """Return how much work there is and of what kind."""
        return self.server.demand()

    def summary(self) -> dict[str, Any]:
        """Return what there is to do and who does it, as plain values."""
        load: dict[str, Any] = msgspec.to_builtins(self.server.load())
        load["worker_list"] = msgspec.to_builtins(self.server.workers())
        return load

    def worker_count(self) -> int:
        """Return how many workers are connected."""
        return len(self.server.workers())

    async def wait_for_change(self) -> None:
        """Return when a worker has joined or left."""
        await self.server.wait_for_change()

    async def retire_job(self, job_id: str, reason: str, *, seconds: float = 60.0, patience: float = 3.0) -> None:
        """End a job's workers once they have finished what they run and moved what only they hold."""
        await self.server.retire_job(job_id, drain=True, reason=reason, timeout=seconds, patience=patience)

    def stop_jobs(self, reason: str) -> None:
        """Have all workers end at once."""
        self.server.stop_jobs(reason)

    def notify(self, error: HPCLaunchError | None) -> None:
        """Tell clients that the cluster cannot work, and why; None: another try is made."""
        if error is None:
            self.server.notices.forgive()
        else:
            self.server.notices.notify(error)

    async def close(self, reason: str) -> None:
        """End all workers, disconnect all clients, stop listening."""
        await self.server.close(reason)
        if self._listener is not None:
            await self._listener.close()
