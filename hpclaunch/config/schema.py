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

from hpclaunch.config import shellwords
from hpclaunch.config.units import format_bytes, format_duration, parse_bytes, parse_duration

BATCH_SYSTEMS = ("sge", "slurm", "local")
#: What a section may say of its batch system: one of these, or that it is for the ranks of a running parallel job.
KINDS = (*BATCH_SYSTEMS, "mpi")
#: Sections that dask-jobqueue's own file has and we do not: skipped unless they are asked for.
FOREIGN_SECTIONS = ("oar", "pbs", "moab", "lsf", "htcondor")


# No value is larger than these: beyond are slips of the pen.
MOST = 1_000_000
LARGEST_SIZE = 10**18
LONGEST_NAME = 200
LONGEST_TIME = 10 * 366 * 86400


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


def _text(value: Any) -> str:
    """Read a text; a whole number is one too, but not what YAML has already changed: on, 1.10."""
    if isinstance(value, bool | float):
        raise ValueError(f"must be a text, not {_kind(value)}; put quotes around it if it is meant as one")
    if not isinstance(value, str | int):
        raise ValueError(f"must be a text, not {_kind(value)}")
    text = str(value)
    if not text.strip():
        raise ValueError("must not be empty; write null to leave it open")
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError(f"must be one line without control characters, not {text!r}")
    return text


def _count(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, not {_kind(value)}")
    if not 1 <= value <= MOST:
        raise ValueError(
            f"must be at least 1, not {value}" if value < 1 else f"must be at most {MOST}, not {value}"
        )
    return value


def _count_or_zero(value: Any) -> int:
    if isinstance(value, bool | float):
        return _count(value)  # which says what is wrong with it
    if isinstance(value, int) and value < 0:
        raise ValueError(f"must be 0 or more, not {value}")
    return 0 if value in (0, "0") else _count(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_kind(value)}")
    return value


def _security(value: Any) -> bool:
    """Read a switch; an object with certificates, as Dask's Security, is refused in so many words."""
    if not isinstance(value, bool | int | float | str | list | tuple | Mapping):
        raise ValueError(
            "must be true or false: hpclaunch makes the certificates of each cluster itself, "
            f"so leave out the {type(value).__name__} object"
        )
    return _bool(value)


def _silence_logs(value: Any) -> str | None:
    """Read what dask-jobqueue takes: the name or number of a logging level, or false."""
    return None if value is False else _text(value)


def _bytes(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f'must be a size such as "24 GB", not {_kind(value)}')
    size = parse_bytes(value)
    if size < 1 << 20:
        raise ValueError(
            f'{value!r} is less than 1 MiB; did you forget the unit? Write "{value} MB" or "{value} GB"'
        )
    if size > LARGEST_SIZE:
        raise ValueError(f"{value!r} is more than {format_bytes(LARGEST_SIZE)}")
    return size


def _most_bytes(value: Any) -> int | None:
    return None if value is False else _bytes(value)


def _slurm_size(value: Any) -> str:
    """Read a size as sbatch's --mem takes it: a whole number and a letter; 0 is all that the node has."""
    text = _text(value).strip()
    if not re.fullmatch(r"[0-9]+[KMGT]?", text, re.IGNORECASE):
        raise ValueError(f'{text!r} is no size for Slurm\'s --mem; write "4G", "500M" or 0 for the whole node')
    return text


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f'must be a time such as "01:00:00", not {_kind(value)}')
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("must be more than 0 seconds")
    if seconds > LONGEST_TIME:
        raise ValueError(f"{value!r} is more than ten years")
    return seconds


def _walltime(value: Any) -> int:
    seconds = _seconds(value)
    if seconds != int(seconds):
        raise ValueError("must be whole seconds")
    return int(seconds)


def _lines(value: Any) -> tuple[str, ...]:
    if value is None or (isinstance(value, str | Mapping) and not value):
        return ()  # what older files have for "nothing": "", {}
    if isinstance(value, str):
        raise ValueError(f"must be a list, so write [{value!r}]")
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of texts, not {_kind(value)}")
    return tuple(_line(one) for one in value)


def _line(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be a list of texts; one of them is {_kind(value)}")
    if "\0" in str(value):
        raise ValueError("must not contain a null character")
    return str(value)


def _arguments(value: Any) -> tuple[str, ...]:
    """Read arguments for the worker: a list, or all of them in one text, as in the oldest files."""
    lines = value.splitlines() if isinstance(value, str) else _lines(value)
    return tuple(line for line in lines if line.strip())


def _command(value: Any) -> str:
    """Read the words of a command, which may be several (``apptainer exec IMAGE python``) and have variables."""
    text = _text(value)
    shellwords.split(text)
    return text


def _directives(value: Any) -> tuple[str, ...]:
    lines = _lines(value)
    for line in lines:
        if "\n" in line:
            raise ValueError(f"must have one directive per item, not two lines in {line!r}")
    return lines


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping, not {_kind(value)}")
    for key, one in value.items():
        if not isinstance(key, str):
            raise ValueError(f"must have texts as keys, not {_kind(key)}")
        if not _is_plain(one):
            raise ValueError(f"{key} must be a plain value, as a file could have it, not {_kind(one)}")
    return dict(value)


def _resources(value: Any) -> dict[str, float]:
    """Read what each worker has that tasks can ask for."""
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping of names and amounts, such as {{GPU: 1}}, not {_kind(value)}")
    for name, amount in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[^\s,=]+", name):
            raise ValueError(f"{name!r} can't be the name of a resource: it must have no blank, comma or '='")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount <= LARGEST_SIZE:
            raise ValueError(f"{name} must be a number above 0, not {_kind(amount)}")
    return {name: float(amount) for name, amount in value.items()}


def _adaptive(value: Any) -> dict[str, Any]:
    return {key.replace("-", "_"): one for key, one in _mapping(value).items()}


def _groups(value: Any) -> dict[str, Any]:
    groups = _mapping(value)
    for name, keys in groups.items():
        check_group_name(name)
        if not isinstance(keys, Mapping):
            raise ValueError(f"{name} must have a mapping of keys, not {_kind(keys)}")
    return groups


def check_group_name(name: Any) -> None:
    """Raise ValueError if a group of jobs can't have this name: it is part of file names."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,30}", name):
        raise ValueError(f"the name of a group must be of up to 31 letters, digits and _, not {name!r}")


def _is_plain(value: Any) -> bool:
    """Say whether a value can go to the head, another process, as it is."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    if isinstance(value, int):
        return abs(value) < 1 << 63
    return value is None or isinstance(value, str | float)


def _fraction(value: Any) -> float | None:
    if value is False:
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9]*\.?[0-9]+", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"must be false or a fraction of the memory above 0 and up to 1, not {value!r}")
    return float(value)


def _shebang(value: Any) -> str:
    text = _text(value)
    if not text.startswith("#!") or not text[2:].strip():
        raise ValueError(f'must begin with "#!" and name a shell, such as "#!/usr/bin/env bash", not {text!r}')
    return text


def _interface(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9._:@-]{1,15}", text):
        raise ValueError(f"{text!r} is not the name of a network interface (`ip addr` lists them)")
    return text


def _choice(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"must be one of {', '.join(words)}, not {_kind(value)}")
        return value

    return read


def _protocol(value: Any) -> str:
    text = _text(value).removesuffix("://")
    if text not in ("tcp", "tls"):
        raise ValueError(f"must be tls:// or tcp://, not {value!r}: others are not spoken here")
    return text


def _kind(value: Any) -> str:
    """Say what a value is in the words of a YAML file."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if value is not None else "null"


class Key(NamedTuple):
    """How a key is read. ``optional``: null is a value of its own; else null means the default."""

    read: Callable[[Any], Any]
    optional: bool = False


KEYS: dict[str, Key] = {
    "batch_system": Key(_text),  # layers.py knows which there are
    "name": Key(_text),
    "cores": Key(_count, optional=True),
    "memory": Key(_bytes, optional=True),
    "processes": Key(_count, optional=True),
    "python": Key(_command, optional=True),
    "interface": Key(_interface, optional=True),
    "death_timeout": Key(_seconds),
    "local_directory": Key(_text, optional=True),
    "shared_temp_directory": Key(_text, optional=True),
    "worker_extra_args": Key(_arguments),
    "resources": Key(_resources),
    "shebang": Key(_shebang),
    "queue": Key(_text, optional=True),
    "account": Key(_text, optional=True),
    "walltime": Key(_walltime, optional=True),
    "job_script_prologue": Key(_lines),
    "job_script_epilogue": Key(_lines),
    "job_extra_directives": Key(_directives),
    "job_directives_skip": Key(_directives),
    "log_directory": Key(_text, optional=True),
    "resource_spec": Key(_text, optional=True),
    "parallel_environment": Key(_text, optional=True),
    "memory_resource": Key(_text, optional=True),
    "job_cpu": Key(_count, optional=True),
    "job_mem": Key(_slurm_size, optional=True),
    "max_submit_rate": Key(_count),
    "submit_command_extra": Key(_directives),
    "cancel_command_extra": Key(_directives),
    "template_directory": Key(_text, optional=True),
    "drain_margin": Key(_seconds, optional=True),
    "walltime_limit": Key(_walltime, optional=True),
    "nanny": Key(_bool),
    "protocol": Key(_protocol, optional=True),
    "security": Key(_security),
    "n_workers": Key(_count_or_zero),
    "exclusive_workers": Key(_bool),
    "start_timeout": Key(_seconds),
    "silence_logs": Key(_silence_logs, optional=True),
    "scheduler_options": Key(_mapping),
    "adaptive": Key(_adaptive),
    "groups": Key(_groups),
    "engine": Key(_choice("embedded", "dask", "ray")),
    "result_memory": Key(_fraction),
    "memory_target": Key(_fraction),
    "memory_spill": Key(_fraction),
    "memory_pause": Key(_fraction),
    "memory_terminate": Key(_fraction),
    "memory_max_spill": Key(_most_bytes),
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
    if len(name) > LONGEST_NAME:
        return [("name", f"a job's name must have at most {LONGEST_NAME} characters, not {len(name)}")]
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
