"""The typed, frozen shape of a cluster's configuration. Parsed once, at the edge; nothing deeper asks again.

Field names are the configuration's keys with ``_`` for ``-``. Sizes are bytes, times are seconds.
"""

from __future__ import annotations

from typing import Any

import msgspec


class JobConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about the jobs of one cluster: one section below ``jobqueue:`` after all layers are merged."""

    section: str  # the section it came from: "sge", "slurm", "local" or a site's own name
    batch_system: str  # "sge", "slurm" or "local"
    name: str  # job name in the batch system
    cores: int
    memory: int  # bytes per job
    processes: int  # worker processes per job; cores // processes threads each
    python: str
    interface: str | None
    death_timeout: float  # seconds without a head after which a worker ends
    local_directory: str | None
    shared_temp_directory: str | None
    worker_extra_args: tuple[str, ...]
    shebang: str
    queue: str | None
    account: str | None
    walltime: int | None  # seconds
    job_script_prologue: tuple[str, ...]
    job_script_epilogue: tuple[str, ...]
    job_extra_directives: tuple[str, ...]
    job_directives_skip: tuple[str, ...]
    log_directory: str | None
    resource_spec: str | None
    parallel_environment: str | None
    memory_resource: str | None
    job_cpu: int | None
    job_mem: str | None
    submit_command_extra: tuple[str, ...]
    cancel_command_extra: tuple[str, ...]
    template_directory: str | None
    walltime_limit: int | None  # seconds; stated by the site file, checked against walltime
    nanny: bool
    protocol: str | None
    security: bool
    n_workers: int
    silence_logs: str | None
    scheduler_options: dict[str, Any]
    engine: str  # "embedded", "dask", "ray"
    memory_target: float | None  # fractions of the worker's memory; None is "false" in YAML
    memory_spill: float | None
    memory_pause: float | None
    memory_terminate: float | None

    @property
    def threads(self) -> int:
        """Threads per worker process."""
        return max(1, self.cores // self.processes)

    @property
    def memory_per_worker(self) -> int:
        """Bytes per worker process."""
        return self.memory // self.processes
