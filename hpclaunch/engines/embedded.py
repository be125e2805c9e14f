"""The engine that comes with hpclaunch: our own scheduler, inside the head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpclaunch.comm import tls
from hpclaunch.comm.connection import Listener
from hpclaunch.config.schema import JobConfig
from hpclaunch.engines.base import HeadHooks
from hpclaunch.errors import HPCLaunchError
from hpclaunch.scheduler.demand import Demand
from hpclaunch.scheduler.server import SchedulerServer


class EmbeddedEngine:
    """Our own scheduler."""

    name = "embedded"

    def head_command(self, python: str, directory: Path) -> list[str]:
        """Return the argv of the head whose run directory this is."""
        return [python, "-m", "hpclaunch.head", "--directory", str(directory)]

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
            on_worker_joined=lambda h: hooks.worker_joined(h.job_id, h.name, h.host, h.head_address),
            on_worker_left=hooks.worker_left,
            on_request=hooks.request,
            on_client_left=hooks.client_left,
            on_job_ends=hooks.job_ends,
            coming=hooks.coming,
            on_job_left=hooks.job_left,
        )
        server.rounds.allow_staying_awake()
        listener = Listener(cluster_id, context, server.on_peer)
        await listener.start(hosts, options.get("port", 0))
        return RunningEmbedded(server, listener, hosts)


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
