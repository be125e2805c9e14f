"""The codec of PBS: hpclaunch's conformance tests, and what only PBS has."""

from __future__ import annotations

from pathlib import Path

import pytest
from hpclaunch_pbs.codec import PBS, seconds

from hpclaunch.batch.base import JobState
from hpclaunch.errors import ScriptError
from hpclaunch.testing import BatchSystemTests, Ends

ARRAY = ["4711[1].pbs1", "4711[2].pbs1", "4711[3].pbs1"]


class TestConformance(BatchSystemTests):
    codec = PBS
    recordings = Path(__file__).parent / "recorded"
    submissions = {"qsub-array": (3, ARRAY), "qsub-one": (None, ["4712.pbs1"])}
    refusals = ["qsub-err-queue", "qsub-err-limit"]
    limits = ["qsub-err-limit"]
    listings = {
        "qstat-array": dict(zip(ARRAY, (JobState.RUNNING, JobState.QUEUED, JobState.ENDING), strict=True)),
        "qstat-ended": dict.fromkeys([*ARRAY, "4712.pbs1"], JobState.ENDED),
    }
    absences = ["qstat-unknown"]
    silences = ["qstat-down"]
    ends = {
        "qstat-ended": {
            ARRAY[0]: Ends(exit_code=0),
            ARRAY[1]: Ends(exit_code=3),
            ARRAY[2]: Ends(signal=15),
            "4712.pbs1": Ends(),
        },
        "qstat-array": {},
    }
    cancellations = {
        "qdel-gone": ([ARRAY[0], "9999.pbs1"], []),
        "qdel-denied": ([ARRAY[1], "12.pbs1"], ["12.pbs1"]),
    }
    job_environment = {"PBS_JOBID": "4711[2].pbs1", "PBS_ARRAY_INDEX": "2"}
    job_id = "4711[2].pbs1"

    def test_lost_jobs_are_found_by_their_script(self) -> None:
        done = self.recording("qstat-array")
        script = Path("/home/ann/a-directory-with-a-rather-long-name/run/job.sh")
        assert self.make().parse_find(done, script) == ARRAY
        assert self.make().parse_find(done, script.with_name("other.sh")) == []

    def test_reasons_and_hosts(self) -> None:
        running, waiting, _ = self.make().parse_status(self.recording("qstat-array"), ARRAY).values()
        assert running.host == "node1"
        assert "Insufficient amount of resource" in waiting.reason
        usage = self.make().parse_usage(self.recording("qstat-ended"), ARRAY)
        assert "walltime reached" in usage[ARRAY[2]].reason
        assert usage[ARRAY[2]].max_memory_bytes == 3264 * 1024

    def test_one_job_is_no_array(self) -> None:
        assert "-J" not in self.make().submit(Path("/x.sh"), 1)

    def test_refused_directive(self, tmp_path: Path) -> None:
        with pytest.raises(ScriptError, match="-J"):
            self.render(tmp_path, job_extra_directives=["-J 1-8"])


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("02:03", 123), ("01:00:01", 3601), ("1d", None)])
def test_times(text: str, expected: int | None) -> None:
    assert seconds(text) == expected
