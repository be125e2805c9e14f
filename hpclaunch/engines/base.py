"""The seam between the launch half and what runs tasks: an engine.

A cluster asks its engine for two commands: the one that starts the head, and the one that a job runs. The head
asks it for a running engine, whose load the scaling policy looks at, and which can end the workers of a job.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hpclaunch.config.schema import JobConfig
from hpclaunch.errors import ConfigError, HPCLaunchError
from hpclaunch.scheduler.demand import Demand

_ENGINES = {"embedded": "hpclaunch.engines.embedded:EmbeddedEngine"}


class HeadHooks(NamedTuple):
    """What an engine tells its head."""

    worker_joined: Callable[[str, str, str, str], None]  # job id, worker, host, the head's address that it reached
    worker_left: Callable[[str, str, str], None]  # job id, worker, how it ended
    request: Callable[[str, dict[str, Any]], Awaitable[Any]]  # a client's control request
    client_left: Callable[[str], None] = lambda name: None
    job_ends: Callable[[str, float, str], None] = lambda job, seconds, why: None
    # job id, seconds left (0: not known), the batch system's signal if it has announced the end, else ""
    coming: Callable[[], Sequence[int]] = tuple  # memory limits of the workers that may yet come; 0 is none
    job_left: Callable[[str, str], None] = lambda job, reason: None
    # job id, why it will have no more workers; "": the connection to its supervisor is lost
    clock_told: Callable[[str, str, float], None] = lambda job, host, ahead: None
    # job id, host, seconds by which that host's clock is ahead of this one's; after each worker_joined
    is_job_id: Callable[[str], bool] = lambda job: True  # a job of this cluster can have it
    start_of: Callable[[str], object] = lambda job: ""
    # job id; what tells its latest start from those before, None if it has not started as far as can be seen


class RunningEngine(Protocol):
    """An engine at work inside a head."""

    @property
    def addresses(self) -> list[str]:
        """Where workers and clients reach it, best first, as ``host:port``."""

    def job_load(self) -> dict[str, tuple[int, int]]:
        """Return for each job with workers: tasks assigned to it, and bytes of results that only it holds."""

    def demand(self) -> Demand:
        """Return how much work there is and of what kind, for adaptive scaling."""

    def summary(self) -> dict[str, Any]:
        """Return what there is to do and who does it, as plain values."""

    def worker_count(self) -> int:
        """Return how many workers are connected."""

    async def wait_for_change(self) -> None:
        """Return when a worker has joined or left."""

    async def retire_job(self, job_id: str, reason: str, *, seconds: float = 60.0, patience: float = 3.0) -> None:
        """End a job's workers once they have finished what they run and moved what only they hold.

        After so many seconds they are ended all the same, or the job's own end has come. ``patience``: seconds to
        wait for a worker that can take what they hold.
        """

    def stop_jobs(self, reason: str) -> None:
        """Have all workers end at once: the batch system is about to be told to cancel their jobs."""

    def notify(self, error: HPCLaunchError | None) -> None:
        """Tell clients that the cluster cannot work, and why; None: another try is made."""

    async def close(self, reason: str) -> None:
        """End all workers and disconnect all clients."""


class Engine(Protocol):
    """How to start one kind of task scheduler and its workers."""

    name: str

    def head_command(self, python: str, directory: Path) -> list[str]:
        """Return the argv of the head whose run directory this is."""

    def worker_command(self, config: JobConfig, directory: Path) -> list[str]:
        """Return the argv that a job runs."""

    async def start(
        self,
        directory: Path,
        cluster_id: str,
        config: JobConfig,
        hosts: Sequence[str],
        hooks: HeadHooks,
        **options: Any,
    ) -> RunningEngine:
        """Start it inside the head, listening on ``hosts``."""


def by_name(name: str) -> Engine:
    """Return an engine.

    :raises ConfigError: this version has none of that name.
    """
    if name not in _ENGINES:
        have = ", ".join(_ENGINES)
        raise ConfigError(f"engine {name!r} is not in this version yet; there is: {have}", key="engine")
    module, _, attribute = _ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), attribute)()
    return engine
