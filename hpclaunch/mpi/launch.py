"""What the environment says about the launch that this process is a part of. Pure.

``mpirun``, ``srun`` and others tell each process its rank by variables; this is the table of them. A batch script
itself has some of Slurm's variables too, though it is not a rank: those of a step decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hpclaunch.errors import UserError


class Launch(NamedTuple):
    """One process of a parallel launch."""

    rank: int
    size: int
    by: str  # what started it, as a person writes it
    key: str  # the same in all processes of this launch and in no other; empty if nothing tells


class _Source(NamedTuple):
    by: str
    rank: str
    size: str
    key: tuple[str, ...]


#: What we tell ranks that we start: number, how many, and a name of the launch.
RANK_VARIABLES = ("HPCLAUNCH_RANK", "HPCLAUNCH_RANKS", "HPCLAUNCH_LAUNCH")

#: Who sets what. Those that start ranks within a Slurm step stand before srun: its variables count their proxies.
_SOURCES = (
    _Source("hpclaunch", *RANK_VARIABLES[:2], RANK_VARIABLES[2:]),
    _Source(
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid"),
    ),
    _Source("MVAPICH", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", ("PMI_ID", "PMI_JOBID")),
    _Source("PALS", "PALS_RANKID", "PALS_SIZE", ("PALS_APID",)),
    _Source("MPICH", "PMI_RANK", "PMI_SIZE", ("PMI_JOBID", "PMI_PORT", "PMI_ID_SPACE")),
    _Source("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ("SLURM_STEP_ID",)),
    _Source("PMIx", "PMIX_RANK", "PMIX_SIZE", ("PMIX_NAMESPACE",)),
)

#: Beginnings of variables that make a process a rank. A child that is none must not have them.
_RANK_PREFIXES = ("OMPI_", "PMIX_", "PMI_", "PMI2_", "PRTE_", "HYDI_", "HYDRA_", "MPIR_", "MV2_COMM", "PALS_")


def detect(environment: Mapping[str, str]) -> Launch | None:
    """Return the launch that a process with this environment belongs to; None if it was started alone.

    :raises UserError: the variables contradict one another.
    """
    for source in _SOURCES:
        if source.rank not in environment or source.size not in environment:
            continue
        try:
            rank, size = int(environment[source.rank]), int(environment[source.size])
        except ValueError:
            rank, size = -1, 0
        if not 0 <= rank < size:
            raise UserError(
                f"{source.rank}={environment[source.rank]} and {source.size}={environment[source.size]} are no "
                f"rank of a launch by {source.by}; unset them if this process was started alone"
            )
        return Launch(rank, size, source.by, _key(environment, source))
    return None


def _key(environment: Mapping[str, str], source: _Source) -> str:
    own = next((environment[name] for name in source.key if environment.get(name)), "")
    if not own:
        return ""
    job = environment.get("SLURM_JOB_ID") or environment.get("JOB_ID") or ""
    again = environment.get("SLURM_RESTART_COUNT", "")
    return "-".join(part for part in (job, own, again) if part)


def without_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a child that is no rank: its own use of MPI must not pose as this rank's."""
    return {name: value for name, value in environment.items() if not name.startswith(_RANK_PREFIXES)}
