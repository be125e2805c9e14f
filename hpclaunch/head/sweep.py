"""Cleaning up after a head that did not end in order: its jobs are cancelled, its files removed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hpclaunch import batch, rundir
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.head import options as head_options
from hpclaunch.head.jobs import JobManager
from hpclaunch.transport.local import LocalTransport


def sweep(directory: Path) -> list[str]:
    """Cancel the jobs that a dead head has left, remove its run directory, and return the jobs' ids.

    :raises CancelError: some are still there; the directory is kept, so that this can be tried again.
    :raises HeadError: the directory does not say what its head was.
    """
    options = head_options.read(directory)

    async def nothing(job_id: str) -> None:
        """No engine runs any more that could drain workers."""

    async def cancel() -> list[str]:
        queue = BatchQueue(batch.by_name(options.config.batch_system, options.config, directory), LocalTransport())
        manager = JobManager(
            options.config,
            queue,
            directory / "job.sh",
            directory,
            retire=nothing,
            idle_jobs=list,
            on_failure=lambda error: None,
        )
        return await manager.sweep()

    cancelled = asyncio.run(cancel())
    rundir.remove(directory)
    return cancelled
