"""hpclaunch's own codecs pass the suite that packages with a batch system run."""

from __future__ import annotations

import json
from pathlib import Path

from hpclaunch.batch.base import Completed, JobState
from hpclaunch.batch.local import LocalProcesses
from hpclaunch.batch.sge import GridEngine
from hpclaunch.batch.slurm import Slurm
from hpclaunch.testing import BatchSystemTests, Ends

DATA = Path(__file__).parents[1] / "data"


class TestGridEngine(BatchSystemTests):
    codec = GridEngine
    recordings = DATA / "sge"
    config = {"parallel_environment": "smp"}
    submissions = {
        "qsub-terse": (20, [f"11.{i}" for i in range(1, 21)]),
        "qsub-one": (None, ["12.1"]),
        "err-warning-submitted": (1, ["755.1"]),
    }
    refusals = ["err-unknown-queue", "err-bad-mem", "err-bad-project", "err-unknown-pe"]
    listings = {
        "qstat-arrays-xml": {"11.2": JobState.ENDING, "11.3": JobState.RUNNING, "11.20": JobState.QUEUED},
        "qstat-Eqw-array-xml": {"16.1": JobState.STUCK, "16.2": JobState.STUCK},
    }
    absences = ["qstat-empty"]
    silences = ["err-qmaster-down-qstat"]
    ends = {"qacct-ok": {"1.1": Ends(exit_code=0)}, "qacct-unknown": {}}
    cancellations = {"qdel-unknown": (["99999.1"], []), "qdel-denied": (["15.1", "15.2"], ["15.1", "15.2"])}
    job_environment = {"JOB_ID": "11", "SGE_TASK_ID": "3"}
    job_id = "11.3"


class TestSlurm(BatchSystemTests):
    codec = Slurm
    recordings = DATA / "slurm"
    submissions = {"sbatch-array": (12, [f"22_{i}" for i in range(1, 13)])}
    refusals = ["sbatch-err-partition", "sbatch-err-memory", "sbatch-err-time", "sbatch-controller-down"]
    listings = {
        "squeue-array": {"22_1": JobState.RUNNING, "22_12": JobState.QUEUED},
        "squeue-after-scancel": {"22_1": JobState.ENDED, "22_9": JobState.RUNNING},
    }
    absences = ["squeue-unknown"]
    silences = ["squeue-controller-down"]
    ends = {"sacct-ends": {"32_1": Ends(exit_code=3), "32_2": Ends(signal=9), "32_4": Ends(exit_code=0)}}
    cancellations = {
        "scancel-elements": (["22_1", "22_11"], []),
        "scancel-other": (["44_1", "44_2", "36_1"], ["44_1", "44_2"]),
    }
    job_environment = {"SLURM_ARRAY_JOB_ID": "22", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "25"}
    job_id = "22_3"


class TestLocalProcesses(BatchSystemTests):
    codec = LocalProcesses
    has_directives = False
    submissions = {"submit": (2, ["4.1", "4.2"])}
    refusals = ["full"]
    listings = {"status": {"4.1": JobState.RUNNING, "4.2": JobState.QUEUED}}
    absences = ["nothing"]
    silences = ["broken"]
    ends = {"usage": {"4.1": Ends(exit_code=3), "4.2": Ends(signal=9)}}
    cancellations = {"nothing": (["4.1"], []), "broken": (["4.1"], ["4.1"])}
    job_environment = {"HPCLAUNCH_JOB_ID": "4", "HPCLAUNCH_TASK_ID": "2"}
    job_id = "4.2"

    def recording(self, name: str) -> Completed:
        def rows(*rows: dict[str, object]) -> str:
            return "".join(f"{json.dumps(row)}\n" for row in rows)

        spent = {"reason": "ended", "host": "here", "wall_seconds": 1.0, "cpu_seconds": 0.1, "max_memory_bytes": 1}
        return {
            "submit": Completed((), 0, "4\n", ""),
            "full": Completed((), 1, "", "OSError: [Errno 28] No space left on device\n"),
            "status": Completed(
                (), 0, rows({"id": "4.1", "state": "running"}, {"id": "4.2", "state": "queued"}), ""
            ),
            "nothing": Completed((), 0, "", ""),
            "broken": Completed((), 1, "", "MemoryError\n"),
            "usage": Completed(
                (),
                0,
                rows(
                    {"id": "4.1", "exit_code": 3, "signal": None, **spent},
                    {"id": "4.2", "exit_code": None, "signal": 9, **spent},
                ),
                "",
            ),
        }[name]
