"""The typed, frozen shape of a cluster's configuration, and how each key's value is read. Pure.

:class:`JobConfig` is parsed once, at the edge; nothing deeper asks again. Its field names are the configuration's
keys with ``_`` for ``-``. Sizes are bytes, times are seconds. ``KEYS`` says how to read each key; the text that
explains them to users is ``configs/defaults.yaml``.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from hpclaunch.config import values as v
from hpclaunch.config.units import format_duration

BATCH_SYSTEMS = ("sge", "slurm", "local")
#: What a section may say of its batch system: one of these, or that it is for the ranks of a running parallel job.
KINDS = (*BATCH_SYSTEMS, "mpi")
#: Sections that dask-jobqueue's own file has and we do not: skipped unless they are asked for.
FOREIGN_SECTIONS = ("oar", "pbs", "moab", "lsf", "htcondor")


class JobConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about the jobs of one cluster: one section below ``jobqueue:`` after all layers are merged."""

    section: str  # the section it came from: "sge", "slurm", "local" or a site's own name
    group: str = ""  # the group of jobs that it describes; empty: that of the section itself
    inherited_directives: tuple[str, ...] = ()  # from the user's environment; see batch.environment
    batch_system: str  # "sge", "slurm", "local"; "mpi": the ranks of a running job
    name: str  # job name in the batch system
    cores: int
    memory: int  # bytes per job
    processes: int  # worker processes per job; cores // processes threads each, unless worker_threads says more
    worker_threads: int | None = None  # from --nthreads in worker-extra-args
    python: str  # words of a command, as the job's shell reads them
    interface: str | None
    death_timeout: float  # seconds without a head after which a worker ends
    local_directory: str | None
    shared_temp_directory: str | None
    worker_extra_args: tuple[str, ...]
    resources: dict[str, float]  # of each worker process: what tasks can ask for
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
    max_submit_rate: int  # submissions in a minute
    submit_command_extra: tuple[str, ...]
    cancel_command_extra: tuple[str, ...]
    template_directory: str | None
    drain_margin: float | None  # seconds before its end at which a job gets no new tasks
    walltime_limit: int | None  # seconds; stated by the site file, checked against walltime
    nanny: bool
    protocol: str | None
    security: bool
    n_workers: int
    exclusive_workers: bool  # mpi: no workers on the ranks of head and client
    start_timeout: float  # mpi: seconds in which all ranks must have come
    silence_logs: str | None
    scheduler_options: dict[str, Any]
    adaptive: dict[str, Any]  # defaults of adapt(), by argument
    groups: dict[str, Any]  # more kinds of jobs: name -> keys that differ
    engine: str  # "embedded", "dask", "ray"
    result_memory: float | None  # the part of a client's free memory that results may have; None is not checked
    memory_target: float | None  # fractions of the worker's memory; None is "false" in YAML
    memory_spill: float | None
    memory_pause: float | None
    memory_terminate: float | None
    memory_max_spill: int | None  # bytes on disk per worker; None is no limit

    @property
    def threads(self) -> int:
        """Threads per worker process."""
        return self.worker_threads or max(1, self.cores // self.processes)

    @property
    def memory_per_worker(self) -> int:
        """Bytes per worker process."""
        return self.memory // self.processes


# --- reading one value: each of these returns it typed, or raises ValueError with what to write instead ------


class Key(NamedTuple):
    """How a key is read. ``optional``: null is a value of its own; else null means the default."""

    read: Callable[[Any], Any]
    optional: bool = False


KEYS: dict[str, Key] = {
    "batch_system": Key(v.read_text),  # layers.py knows which there are
    "name": Key(v.read_text),
    "cores": Key(v.read_count, optional=True),
    "memory": Key(v.read_bytes, optional=True),
    "processes": Key(v.read_count, optional=True),
    "python": Key(v.read_command, optional=True),
    "interface": Key(v.read_interface, optional=True),
    "death_timeout": Key(v.read_seconds),
    "local_directory": Key(v.read_text, optional=True),
    "shared_temp_directory": Key(v.read_text, optional=True),
    "worker_extra_args": Key(v.read_arguments),
    "resources": Key(v.read_resources),
    "shebang": Key(v.read_shebang),
    "queue": Key(v.read_text, optional=True),
    "account": Key(v.read_text, optional=True),
    "walltime": Key(v.read_walltime, optional=True),
    "job_script_prologue": Key(v.read_lines),
    "job_script_epilogue": Key(v.read_lines),
    "job_extra_directives": Key(v.read_directives),
    "job_directives_skip": Key(v.read_directives),
    "log_directory": Key(v.read_text, optional=True),
    "resource_spec": Key(v.read_text, optional=True),
    "parallel_environment": Key(v.read_text, optional=True),
    "memory_resource": Key(v.read_text, optional=True),
    "job_cpu": Key(v.read_count, optional=True),
    "job_mem": Key(v.read_slurm_size, optional=True),
    "max_submit_rate": Key(v.read_count),
    "submit_command_extra": Key(v.read_directives),
    "cancel_command_extra": Key(v.read_directives),
    "template_directory": Key(v.read_text, optional=True),
    "drain_margin": Key(v.read_seconds, optional=True),
    "walltime_limit": Key(v.read_walltime, optional=True),
    "nanny": Key(v.read_bool),
    "protocol": Key(v.read_protocol, optional=True),
    "security": Key(v.read_security),
    "n_workers": Key(v.read_count_or_zero),
    "exclusive_workers": Key(v.read_bool),
    "start_timeout": Key(v.read_seconds),
    "silence_logs": Key(v.read_silence_logs, optional=True),
    "scheduler_options": Key(v.read_mapping),
    "adaptive": Key(v.read_adaptive),
    "groups": Key(v.read_groups),
    "engine": Key(v.choice_of("embedded", "dask", "ray")),
    "result_memory": Key(v.read_fraction),
    "memory_target": Key(v.read_fraction),
    "memory_spill": Key(v.read_fraction),
    "memory_pause": Key(v.read_fraction),
    "memory_terminate": Key(v.read_fraction),
    "memory_max_spill": Key(v.read_most_bytes),
}

#: Keys that stand under ``distributed: worker: memory:`` in a file, as in Dask's.
MEMORY_KEYS = ("target", "spill", "pause", "terminate", "max_spill")
#: Those of them that are fractions, from the lowest to the highest.
MEMORY_LEVELS = MEMORY_KEYS[:4]

#: What else Dask has there, and we do not read.
FOREIGN_MEMORY_KEYS = (
    "limit",
    "monitor-interval",
    "rebalance",
    "recent-to-old-time",
    "spill-compression",
    "transfer",
)

#: Older or other names: name -> (today's name, whether it is out of date).
ALIASES: dict[str, tuple[str, bool]] = {
    "extra": ("worker_extra_args", True),
    "env_extra": ("job_script_prologue", True),
    "job_extra": ("job_extra_directives", True),
    "header_skip": ("job_directives_skip", True),
    "project": ("account", False),
    "job_name": ("name", False),
    "nthreads": ("cores", False),
    "memory_limit": ("memory", False),
}

#: Keys of dask-jobqueue that mean nothing here: name -> (values that do no harm, what to say of others).
FOREIGN_KEYS: dict[str, tuple[tuple[Any, ...], str]] = {
    "worker_command": (
        (None, "distributed.cli.dask_worker"),
        "names a Dask worker; hpclaunch starts its own. Change the job's script with template-directory",
    ),
    "scheduler_cls": ((None,), "names a Dask scheduler class; hpclaunch has its own scheduler"),
    "worker_class": (
        (None, "distributed.Nanny", "distributed.Worker"),
        "names a Dask class; hpclaunch has its own",
    ),
    "job_cls": ((None,), "names a dask-jobqueue class; say batch-system: sge, slurm or local"),
    "loop": ((None,), "is an event loop of Dask's; hpclaunch runs its own"),
    "config_name": ((None,), "names a section; give it to JobQueueCluster(config_name=...)"),
}


def rules(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Check values against each other; return (key, what is wrong) for each broken rule.

    ``values`` may lack keys that could not be read.
    """
    get = values.get
    wrong: list[tuple[str, str]] = []
    cores, processes = get("cores"), get("processes")
    if cores and processes and processes > cores:
        wrong.append(("processes", f"{processes} processes need at least as many cores; the job has {cores}"))
    walltime, limit = get("walltime"), get("walltime_limit")
    if walltime and limit and walltime > limit:
        text = f"{format_duration(walltime)} is over this site's limit of {format_duration(limit)}"
        wrong.append(("walltime", text))
    margin = get("drain_margin")
    if walltime and margin and margin >= walltime:
        text = f"{format_duration(margin)} must be less than the walltime, {format_duration(walltime)}"
        wrong.append(("drain_margin", text))
    if get("security") is False and get("protocol") == "tls":
        wrong.append(("protocol", "tls:// needs security: true"))
    levels = [(key, get(f"memory_{key}")) for key in MEMORY_LEVELS]
    known = [(key, level) for key, level in levels if level is not None]
    for (low, a), (high, b) in itertools.pairwise(known):
        if a > b:
            wrong.append((f"memory_{low}", f"{low} ({a:g}) must not be above {high} ({b:g})"))
    if "name" in values:
        wrong += _name_rules(str(values["name"]), get("batch_system"))
    return wrong


def written(key: str) -> str:
    """Return a key as it stands in a file: ``memory_pause`` is ``distributed.worker.memory.pause``."""
    prefix, _, rest = key.partition("_")
    if prefix == "memory" and rest in MEMORY_KEYS:
        return f"distributed.worker.memory.{rest.replace('_', '-')}"
    return key.replace("_", "-")


def _name_rules(name: str, batch_system: str | None) -> list[tuple[str, str]]:
    bad = sorted(set(re.findall(r"[\s/:@*?\\\"'`$;|&<>()!]|[^\x20-\x7e]", name)))
    if len(name) > v.LONGEST_NAME:
        return [("name", f"a job's name must have at most {v.LONGEST_NAME} characters, not {len(name)}")]
    if bad:
        shown = " ".join(repr(one) for one in bad)
        return [("name", f"a job's name must not contain {shown}")]
    if batch_system == "sge" and name[0].isdigit():
        return [("name", f"Grid Engine takes no job name that begins with a digit: {name!r}")]
    return []


def default_processes(cores: int) -> int:
    """Return processes for a job that does not say: about the square root of its cores, and a divisor of them.

    The rule is dask-jobqueue's: up to four cores a process for each, else the smallest divisor that is not below
    the square root. So 8 cores are 4 processes of 2 threads, 24 are 6 of 4, and 7 are 7 of 1.
    """
    if cores <= 4:
        return cores
    processes = math.isqrt(cores - 1) + 1
    while cores % processes:
        processes += 1
    return processes
