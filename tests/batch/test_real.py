"""Codecs and queue on the real Slurm and Grid Engine: what recordings cannot show, that the commands work.

Each test submits its own small scripts, and waits for states, not for times.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.batch.base import BatchSystem, JobState, JobStatus, JobUsage
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.batch.sge import GridEngine
from hpclaunch.batch.slurm import Slurm
from hpclaunch.errors import CancelError, StatusError, SubmitError
from tests.testbed.beds import Bed, wait_until

PATIENCE = 60.0
SLOW_PATIENCE = 200.0  # Slurm looks at walltimes every 30 s
GONE = {JobState.ENDED, JobState.UNKNOWN}
#: What small jobs ask for, so that several fit on the bed at once.
DIRECTIVES = {
    "slurm": "#SBATCH --mem=50M --time=10 --output={logs}/%A_%a.log\n",
    "sge": "#$ -S /bin/bash\n#$ -j y\n#$ -l h_vmem=200M\n#$ -o {logs}/$JOB_ID.$TASK_ID.log\n",
}


class World:
    """A queue on a bed, and jobs to put into it."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.name = bed.name
        self.logs = bed.new_directory("logs")

    def queue(self, *submit_extra: str) -> BatchQueue:
        """Return a queue whose submissions have more arguments."""
        kind: Callable[..., BatchSystem] = {"slurm": Slurm, "sge": GridEngine}[self.name]
        return BatchQueue(kind(submit_extra=submit_extra), self.bed.transport())

    def script(self, body: str, *, logs: Path | None = None) -> Path:
        """Write a job script; ``$ELEMENT`` is the number of the array's element."""
        element = {"slurm": "$SLURM_ARRAY_TASK_ID", "sge": "$SGE_TASK_ID"}[self.name]
        path = self.bed.directory / f"job-{time.monotonic_ns()}.sh"
        head = DIRECTIVES[self.name].format(logs=logs or self.logs)
        path.write_text(f"#!/bin/bash\n{head}ELEMENT={element}\n{body}\n")
        path.chmod(0o755)
        return path

    def submit(self, body: str, count: int, *extra: str, logs: Path | None = None) -> list[str]:
        """Submit jobs and return their ids."""
        return asyncio.run(self.queue(*extra).submit(self.script(body, logs=logs), count))

    def poll(self, ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the jobs' states."""
        return asyncio.run(self.queue().poll(ids))

    def wait_for(self, ids: list[str], states: set[JobState], patience: float = PATIENCE) -> dict[str, JobStatus]:
        """Wait until all jobs are in one of these states."""
        end = time.monotonic() + patience
        while True:
            found = self.poll(ids)
            if all(status.state in states for status in found.values()):
                return found
            assert time.monotonic() < end, f"{found} are not yet in {states}"
            time.sleep(0.2)

    def wait_for_usage(self, ids: list[str]) -> dict[str, JobUsage]:
        """Wait until accounting knows the end of all jobs; it lags."""
        end = time.monotonic() + PATIENCE
        while True:
            found = asyncio.run(self.queue().usage(ids))
            if set(found) == set(ids):
                return found
            assert time.monotonic() < end, f"accounting knows only {list(found)} of {ids}"
            time.sleep(0.3)

    def wait_for_reason(self, job_id: str, words: str) -> str:
        """Wait until the batch system explains a job with these words; its scheduler takes its time."""
        end = time.monotonic() + PATIENCE
        while words not in (reason := asyncio.run(self.queue().explain(job_id))):
            assert time.monotonic() < end, f"{reason!r} lacks {words!r}"
            time.sleep(0.3)
        return reason

    def cancel(self, ids: list[str], **options: Any) -> None:
        """Cancel jobs."""
        asyncio.run(self.queue().cancel(ids, **options))


@pytest.fixture(
    params=[pytest.param("slurm", marks=pytest.mark.slurm), pytest.param("sge", marks=pytest.mark.sge)]
)
def world(request: pytest.FixtureRequest) -> World:
    """Each batch system in turn."""
    return World(request.getfixturevalue(request.param))


def test_five_jobs_run_and_end_as_they_will(world: World) -> None:
    body = "case $ELEMENT in 1) exit 3;; 2) kill -9 $$;; 3) nosuchprogram;; 4) sleep 1;; 5) sleep 300;; esac"
    ids = world.submit(body, 5)
    separator = {"slurm": "_", "sge": "."}[world.name]
    number = ids[0].partition(separator)[0]
    assert ids == [f"{number}{separator}{i}" for i in range(1, 6)]
    world.wait_for(ids[:4], GONE)
    (running,) = world.wait_for(ids[4:], {JobState.RUNNING}).values()
    assert running.host in world.bed.nodes
    usage = world.wait_for_usage(ids[:4])
    assert [usage[one].exit_code for one in ids[:4]] == [3, None, 127, 0]
    assert usage[ids[0]].reason == "exit code 3"
    assert usage[ids[1]].signal == 9
    assert "SIGKILL" in usage[ids[1]].reason
    assert {usage[one].host for one in ids[:4]} <= set(world.bed.nodes)
    wall = usage[ids[3]].wall_seconds
    assert wall is not None
    assert wall >= 1
    assert asyncio.run(world.queue().usage(ids[4:])) == {}
    assert "nosuchprogram" in (world.logs / f"{ids[2]}.log").read_text()
    world.cancel(ids)
    assert world.poll(ids)[ids[4]].state in GONE


def test_cancelling_some_elements_leaves_the_others(world: World) -> None:
    """Of 30 jobs not all can run at once: some of those cancelled run and some wait."""
    ids = world.submit("sleep 300", 30)
    world.wait_for(ids[:2], {JobState.RUNNING})
    gone, kept = [ids[0], ids[1], ids[28], ids[29]], ids[2:28]
    world.cancel(gone)
    found = world.poll(ids)
    assert {one for one in ids if found[one].state in GONE} == set(gone)
    assert {found[one].state for one in kept} <= {JobState.QUEUED, JobState.STARTING, JobState.RUNNING}
    usage = world.wait_for_usage([ids[0]])
    assert "cancel" in usage[ids[0]].reason
    world.cancel(kept)
    assert {status.state for status in world.poll(ids).values()} <= GONE


def test_cancelling_again_and_what_never_was_is_no_error(world: World) -> None:
    ids = world.submit("sleep 300", 2)
    never = {"slurm": ["9999999_1", f"{ids[0].partition('_')[0]}_77"], "sge": ["999999.1", "999999.2"]}
    world.cancel([*ids, *never[world.name]])
    world.cancel(ids)
    assert world.poll(never[world.name])[never[world.name][0]].state is JobState.UNKNOWN


def test_a_job_that_ignores_sigterm_is_gone_when_cancel_returns(world: World) -> None:
    ids = world.submit("trap '' TERM; echo ready; while true; do sleep 1; done", 1)
    world.wait_for(ids, {JobState.RUNNING})
    world.cancel(ids)
    assert world.poll(ids)[ids[0]].state in GONE


def test_what_is_still_there_is_named(world: World) -> None:
    """A job that is deaf to signals goes on for the seconds that the batch system leaves it."""
    extra = ["-notify"] if world.name == "sge" else []
    ids = world.submit("trap '' TERM USR2; echo ready; while true; do sleep 1; done", 1, *extra)
    log = world.logs / f"{ids[0]}.log"
    wait_until(lambda: log.exists() and "ready" in log.read_text(), "the job to be deaf")
    with pytest.raises(CancelError, match=ids[0]) as caught:
        world.cancel(ids, timeout=0.0)
    assert ids[0] in caught.value.argv
    world.cancel(ids)


def refusal(system: str, extra: list[str], words: str, advice: str) -> Any:
    """Return a case that is marked as needing its bed."""
    return pytest.param(system, extra, words, advice, marks=getattr(pytest.mark, system), id=" ".join(extra))


REFUSALS = [
    refusal("slurm", ["-p", "nosuch"], "invalid partition specified: nosuch", "sinfo"),
    refusal("slurm", ["--mem=9T"], "Memory specification can not be satisfied", "%m"),
    refusal("slurm", ["--time=abc"], "Invalid --time", ""),
    refusal("sge", ["-q", "nosuch.q"], 'unknown queue "nosuch.q"', "qconf -sql"),
    refusal("sge", ["-pe", "nosuch", "2"], '"nosuch" does not exist', "qconf -spl"),
    refusal("sge", ["-l", "nosuch=1"], 'unknown resource "nosuch"', "qconf -sc"),
    refusal("sge", ["-l", "h_vmem=4GB"], "not a memory value", "24G"),
    refusal("sge", ["-P", "nosuch"], '"nosuch" does not exist', "qconf -sprjl"),
]


@pytest.mark.parametrize(("system", "extra", "words", "advice"), REFUSALS)
def test_a_refusal_is_told_with_all_that_is_known(
    request: pytest.FixtureRequest, system: str, extra: list[str], words: str, advice: str
) -> None:
    world = World(request.getfixturevalue(system))
    with pytest.raises(SubmitError) as caught:
        world.submit("true", 2, *extra)
    error = caught.value
    assert words in error.output
    assert advice in error.hint
    assert error.exit_code
    assert list(error.argv[-len(extra) - 1 : -1]) == extra
    text = str(error)
    assert words in text
    assert f"exit code: {error.exit_code}" in text
    assert "did not take 2 jobs" in text


@pytest.mark.sge
def test_impossible_memory_is_explained(sge: Bed) -> None:
    world = World(sge)
    ids = world.submit("true", 2, "-l", "h_vmem=100G")
    reason = world.wait_for_reason(ids[1], "it offers only")
    assert "h_vmem" in reason
    assert reason.count("it offers only") == 1
    assert all(node in reason for node in sge.nodes)
    assert {status.state for status in world.poll(ids).values()} == {JobState.QUEUED}
    world.cancel(ids)


@pytest.mark.sge
def test_an_unwritable_log_directory_is_explained(sge: Bed) -> None:
    world = World(sge)
    ids = world.submit("true", 2, logs=Path("/no/such/directory"))
    world.wait_for(ids, {JobState.STUCK})
    for job_id in ids:
        reason = world.wait_for_reason(job_id, "can't open output file")
        assert reason == f'can\'t open output file "/no/such/directory/{job_id}.log": No such file or directory'
    world.cancel(ids)
    assert world.wait_for_usage(ids)[ids[0]].reason == "its log file could not be opened"


@pytest.mark.sge
def test_the_end_of_the_walltime_is_told(sge: Bed) -> None:
    world = World(sge)
    ids = world.submit("sleep 300", 2, "-l", "h_rt=3")
    world.wait_for(ids, GONE)
    assert {usage.reason for usage in world.wait_for_usage(ids).values()} == {"walltime reached (h_rt 00:00:03)"}


@pytest.mark.sge
def test_a_held_job_waits(sge: Bed) -> None:
    world = World(sge)
    ids = world.submit("true", 2, "-h")
    assert {status.state for status in world.poll(ids).values()} == {JobState.QUEUED}
    world.wait_for_reason(ids[0], "hold state")
    world.cancel(ids)


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--partition=short", "--time=60"], "shorten walltime"),
        (["--nodes=9"], "more than the partition has"),
        (["--hold"], "it is held"),
    ],
)
def test_waiting_is_explained(slurm: Bed, extra: list[str], words: str) -> None:
    world = World(slurm)
    ids = world.submit("true", 2, *extra)
    for job_id in ids:
        world.wait_for_reason(job_id, words)
    assert {status.state for status in world.poll(ids).values()} == {JobState.QUEUED}
    world.cancel(ids)


@pytest.mark.slurm
def test_an_unwritable_log_directory_is_told(slurm: Bed) -> None:
    world = World(slurm)
    ids = world.submit("true", 2, logs=Path("/no/such/directory"))
    world.wait_for(ids, {JobState.ENDED})
    assert all("log file" in usage.reason for usage in world.wait_for_usage(ids).values())


@pytest.mark.slurm
@pytest.mark.slow
def test_the_end_of_walltime_and_memory_is_told(slurm: Bed) -> None:
    world = World(slurm)
    body = "if [ $ELEMENT = 1 ]; then python3 -c 'x = bytearray(400_000_000)'; else sleep 300; fi"
    ids = world.submit(body, 2, "--time=1")
    world.wait_for(ids[1:], {JobState.RUNNING})
    # A minute is the shortest walltime there is; operators can move its end.
    subprocess.run(["scontrol", "update", f"JobId={ids[1]}", "EndTime=now+2"], check=True)
    world.wait_for(ids, {JobState.ENDED}, SLOW_PATIENCE)
    usage = world.wait_for_usage(ids)
    assert [usage[one].reason for one in ids] == ["killed: out of memory", "walltime reached"]


@pytest.mark.slurm
def test_more_jobs_than_an_array_takes(slurm: Bed) -> None:
    world = World(slurm)
    ids = world.submit("true", 1001, "--hold")
    assert len(set(ids)) == 1001
    assert len({one.partition("_")[0] for one in ids}) == 2
    assert {status.state for status in world.poll(ids).values()} == {JobState.QUEUED}
    world.cancel(ids)
    assert {status.state for status in world.poll(ids).values()} <= GONE


def test_a_batch_system_that_does_not_answer_is_not_an_empty_one(world: World) -> None:
    class Elsewhere:
        """Runs commands with the configuration of a batch system that is not there."""

        async def run(self, argv: Any, **options: Any) -> Any:
            setting = {"slurm": "SLURM_CONF=/dev/null", "sge": "SGE_ROOT=/nowhere"}[world.name]
            return await world.bed.transport().run(["env", setting, *argv], **options)

    batch = world.queue().batch
    queue = BatchQueue(batch, Elsewhere())
    with pytest.raises(StatusError):
        asyncio.run(queue.poll(["1.1", "1_1"]))
    with pytest.raises(SubmitError):
        asyncio.run(queue.submit(world.script("true"), 1))
    with pytest.raises(CancelError):
        asyncio.run(queue.cancel(["1.1", "1_1"], timeout=0.0))
