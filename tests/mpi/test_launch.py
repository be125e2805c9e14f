"""What the environment says about a launch; the variables are those that the real launchers set."""

from __future__ import annotations

import pytest

from hpclaunch.errors import UserError
from hpclaunch.mpi.launch import Launch, detect, without_rank

OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_NAMESPACE": "prterun-vm-9@1"}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "4", "PMI_FD": "9", "HYDI_CONTROL_FD": "7"}
STEP = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_ID": "53", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"PATH": "/bin"}, None),
        (OPEN_MPI, Launch(2, 4, "Open MPI", "prterun-vm-9@1")),
        ({**OPEN_MPI, "JOB_ID": "4711"}, Launch(2, 4, "Open MPI", "4711-prterun-vm-9@1")),
        (MPICH, Launch(1, 4, "MPICH", "")),
        ({**MPICH, "PMI_JOBID": "53.0"}, Launch(1, 4, "MPICH", "53.0")),
        (STEP, Launch(3, 8, "srun", "53-0")),
        ({**STEP, "SLURM_RESTART_COUNT": "2"}, Launch(3, 8, "srun", "53-0-2")),
        # A batch script has the job's variables, but is no rank.
        ({"SLURM_JOB_ID": "53", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),
        # mpirun within Slurm: the step's variables are those of its proxies, one for each node.
        ({**STEP, **OPEN_MPI}, Launch(2, 4, "Open MPI", "53-prterun-vm-9@1")),
        ({**STEP, **MPICH}, Launch(1, 4, "MPICH", "")),
        (
            {"HPCLAUNCH_RANK": "0", "HPCLAUNCH_RANKS": "2", "HPCLAUNCH_LAUNCH": "x", **OPEN_MPI},
            Launch(0, 2, "hpclaunch", "x"),
        ),
    ],
)
def test_the_rank_that_the_environment_tells(environment: dict[str, str], expected: Launch | None) -> None:
    assert detect(environment) == expected


@pytest.mark.parametrize(("rank", "size"), [("4", "4"), ("-1", "4"), ("x", "4"), ("0", ""), ("0", "0")])
def test_variables_that_cannot_be(rank: str, size: str) -> None:
    with pytest.raises(UserError, match="PMI_RANK"):
        detect({"PMI_RANK": rank, "PMI_SIZE": size})


def test_a_child_is_no_rank() -> None:
    environment = {**OPEN_MPI, **MPICH, "PRTE_LAUNCHED": "1", "PATH": "/bin", "OMP_NUM_THREADS": "1"}
    assert without_rank(environment) == {"PATH": "/bin", "OMP_NUM_THREADS": "1"}
