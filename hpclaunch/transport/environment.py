"""The environment of the batch systems' commands: what would filter or change their answers is left out.

Listings and questions run in the C locale. A submission keeps the user's locale, since the job may inherit it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Variables of sbatch, without ``SBATCH_``, and the options that they stand for where the names differ.
SBATCH_OPTIONS = {
    **dict.fromkeys(
        (
            "ACCOUNT",
            "ACCTG_FREQ",
            "BATCH",
            "CLUSTERS",
            "CLUSTER_CONSTRAINT",
            "CONSTRAINT",
            "CONTAINER",
            "CORE_SPEC",
            "CPUS_PER_GPU",
            "DELAY_BOOT",
            "DISTRIBUTION",
            "ERROR",
            "EXCLUSIVE",
            "EXPORT",
            "GET_USER_ENV",
            "GPUS",
            "GPUS_PER_NODE",
            "GPUS_PER_SOCKET",
            "GPUS_PER_TASK",
            "GPU_BIND",
            "GPU_FREQ",
            "GRES",
            "GRES_FLAGS",
            "HINT",
            "IGNORE_PBS",
            "INPUT",
            "JOB_NAME",
            "MEM_BIND",
            "MEM_PER_CPU",
            "MEM_PER_GPU",
            "NETWORK",
            "NO_KILL",
            "NO_REQUEUE",
            "OPEN_MODE",
            "OUTPUT",
            "OVERCOMMIT",
            "PARTITION",
            "POWER",
            "PROFILE",
            "QOS",
            "REQUEUE",
            "RESERVATION",
            "SIGNAL",
            "SPREAD_JOB",
            "THREADS_PER_CORE",
            "THREAD_SPEC",
            "USE_MIN_NODES",
            "WAIT",
            "WAIT_ALL_NODES",
            "WCKEY",
        ),
        "",
    ),
    "ARRAY_INX": "--array",
    "BURST_BUFFER": "--bb",
    "CPU_FREQ_REQ": "--cpu-freq",
    "DEBUG": "--verbose",
    "MEM_PER_NODE": "--mem",
    "REQ_SWITCH": "--switches",
    "TIMELIMIT": "--time",
    "WAIT4SWITCH": "--switches",
}

_SLURM_SUBMIT = frozenset({"sbatch"})
_SGE_SUBMIT = frozenset({"qsub"})
_SLURM_ASK = frozenset({"squeue", "sacct", "scancel", "scontrol"})
_SGE_ASK = frozenset({"qstat", "qacct", "qdel", "qconf"})
#: Of Slurm's own variables, those that change what its commands print or mean.
SLURM_OUTPUT = frozenset({"SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "SLURM_EXIT_ERROR", "SLURM_BITSTR_LEN"})
#: The same for Grid Engine.
SGE_OUTPUT = frozenset({"SGE_LONG_QNAMES", "SGE_LONG_JOB_NAMES", "SGE_DEBUG_LEVEL", "SGE_SINGLE_LINE"})
#: What an allocation leaves in the environment, and srun within another job would take for its own.
_ALLOCATION = re.compile(
    r"SLURM_(MEM_PER_|CPUS_PER_|NTASKS|NPROCS|NNODES|NODELIST|TASKS_PER_NODE|GPUS|GPU_|TRES_PER|JOB|STEP|"
    r"DISTRIBUTION|CPU_BIND|MEM_BIND|EXPORT_ENV|HINT|THREADS_PER_CORE|ARRAY_)"
)
_LOCALES = re.compile(r"LC_|LANG$|LANGUAGE$")


def known_environment(argv: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that a command is to run with; as it is, if it is none of a batch system's."""
    program = Path(argv[0]).name if argv else ""
    if program in _SLURM_SUBMIT:
        return {name: value for name, value in environ.items() if not _changes_sbatch(name)}
    if program in _SGE_SUBMIT:
        return {name: value for name, value in environ.items() if name not in SGE_OUTPUT}
    if program not in _SLURM_ASK | _SGE_ASK:
        return dict(environ)
    known = {name: value for name, value in environ.items() if not (_filters(name) or _LOCALES.match(name))}
    return {**known, "LC_ALL": "C"}


def _changes_sbatch(name: str) -> bool:
    is_known = name.startswith("SBATCH_") and name.removeprefix("SBATCH_") in SBATCH_OPTIONS
    return is_known or name in SLURM_OUTPUT or _ALLOCATION.match(name) is not None


def _filters(name: str) -> bool:
    return name.startswith(("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")) or name in SLURM_OUTPUT | SGE_OUTPUT
