"""The queue over a batch system that loses answers, refuses, is down for a while, or is slow to remove jobs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.batch import localctl, queue
from hpclaunch.batch.base import BatchSystem, Completed, JobState
from hpclaunch.batch.local import LocalProcesses
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.batch.sge import GridEngine
from hpclaunch.batch.slurm import Slurm
from hpclaunch.errors import CancelError, LimitReachedError, StatusError, SubmitError
from hpclaunch.transport.local import LocalTransport
from tests.batch.fake_slurm import Done, FakeSlurm
from tests.testbed.beds import Bed, wait_until

SCRIPT = Path("/run/demo-1/job.sh")


@pytest.fixture
def slurm_in_memory() -> FakeSlurm:
    """A Slurm without faults."""
    return FakeSlurm()


def queue_of(slurm: FakeSlurm) -> BatchQueue:
    """Return a queue that does not wait before it searches."""
    return BatchQueue(Slurm(), slurm, search_seconds=(0.0, 0.0))


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_LOOK_SECONDS", (0.001, 0.01))
    monkeypatch.setattr(queue, "_AGAIN_SECONDS", 0.02)


def run(work: Any) -> Any:
    """Run a coroutine to its end."""
    return asyncio.run(work)


# Submitting


def test_many_jobs_are_one_command(slurm_in_memory: FakeSlurm) -> None:
    ids = run(queue_of(slurm_in_memory).submit(SCRIPT, 1000))
    assert ids == [f"101_{i}" for i in range(1, 1001)]
    assert slurm_in_memory.commands == [("sbatch", "--parsable", "--array=1-1000", str(SCRIPT))]


def test_more_than_an_array_takes_are_several(slurm_in_memory: FakeSlurm) -> None:
    ids = run(queue_of(slurm_in_memory).submit(SCRIPT, 2500))
    assert len(set(ids)) == 2500
    assert set(ids) == set(slurm_in_memory.jobs)
    assert len(slurm_in_memory.commands) == 3


def test_a_site_with_short_arrays_gets_short_ones(slurm_in_memory: FakeSlurm) -> None:
    slurm_in_memory.longest_array = 101
    ids = run(queue_of(slurm_in_memory).submit(SCRIPT, 300))
    assert sorted(ids) == sorted(slurm_in_memory.jobs)
    assert len(ids) == 300


def test_a_site_that_takes_no_array_at_all_refuses(slurm_in_memory: FakeSlurm) -> None:
    slurm_in_memory.longest_array = 0
    with pytest.raises(SubmitError, match=r"Slurm did not take 1 job\n.*(\n.*)*MaxArraySize"):
        run(queue_of(slurm_in_memory).submit(SCRIPT, 5))


def test_what_was_taken_before_a_refusal_is_cancelled(slurm_in_memory: FakeSlurm) -> None:
    slurm_in_memory.room, slurm_in_memory.refusal = 1500, "Invalid qos specification"
    with pytest.raises(SubmitError) as caught:
        run(queue_of(slurm_in_memory).submit(SCRIPT, 2000))
    assert not slurm_in_memory.jobs
    error = caught.value
    assert error.exit_code == 1
    assert error.argv == ("sbatch", "--parsable", "--array=1-1000", str(SCRIPT))
    assert error.output == "sbatch: error: Batch job submission failed: Invalid qos specification"


@pytest.mark.parametrize(("room", "wanted"), [(2, 4), (1, 8), (1500, 2000), (0, 3)])
def test_what_fits_below_a_limit_is_submitted_and_kept(slurm_in_memory: FakeSlurm, room: int, wanted: int) -> None:
    slurm_in_memory.room = room
    with pytest.raises(
        LimitReachedError, match=rf"took {room} of {wanted} jobs: a limit of your account"
    ) as caught:
        run(queue_of(slurm_in_memory).submit(SCRIPT, wanted))
    assert sorted(caught.value.job_ids) == sorted(slurm_in_memory.jobs)
    assert len(slurm_in_memory.jobs) == room
    assert "sacctmgr show" in caught.value.hint
    assert not [command for command in slurm_in_memory.commands if command[0] == "scancel"]


def test_jobs_that_the_listing_hides_are_asked_for_by_id(slurm_in_memory: FakeSlurm) -> None:
    async def story() -> None:
        batch_queue = queue_of(slurm_in_memory)
        ids = await batch_queue.submit(SCRIPT, 3)
        slurm_in_memory.hidden = {ids[0], ids[2]}
        found = await batch_queue.poll([*ids, "9_1"])
        assert [found[job_id].state for job_id in ids] == [JobState.QUEUED] * 3
        assert found["9_1"].state is JobState.UNKNOWN
        assert "free resources" in found[ids[0]].reason

    run(story())


def test_hidden_jobs_are_cancelled_for_good(slurm_in_memory: FakeSlurm) -> None:
    async def story() -> None:
        batch_queue = queue_of(slurm_in_memory)
        ids = await batch_queue.submit(SCRIPT, 3)
        slurm_in_memory.hidden = set(ids)
        slurm_in_memory.deaf_to_scancel = 1
        await batch_queue.cancel(ids)
        assert not slurm_in_memory.jobs

    run(story())


def test_what_was_taken_and_cannot_be_cancelled_is_named(
    slurm_in_memory: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_in_memory.room, slurm_in_memory.refusal = 1500, "Invalid qos specification"
    slurm_in_memory.foreign = {"101_7"}
    batch_queue = queue_of(slurm_in_memory)
    cancel = batch_queue.cancel
    monkeypatch.setattr(batch_queue, "cancel", lambda ids: cancel(ids, timeout=0.1))
    with pytest.raises(SubmitError, match=r"could not be cancelled: (101_\d+, )*101_7[^0-9]") as caught:
        run(batch_queue.submit(SCRIPT, 2000))
    assert "Invalid qos" in caught.value.output
    assert "permission denied" in caught.value.output
    assert list(slurm_in_memory.jobs) == ["101_7"]


def test_jobs_of_a_lost_answer_are_found(slurm_in_memory: FakeSlurm) -> None:
    async def story() -> list[str]:
        batch_queue = queue_of(slurm_in_memory)
        first = await batch_queue.submit(SCRIPT, 2)
        slurm_in_memory.jobs["77_1"] = Path("/run/other-2/job.sh")
        slurm_in_memory.loses = {"sbatch"}
        second = await batch_queue.submit(SCRIPT, 3)
        assert not set(first) & set(second)
        return second

    ids = run(story())
    assert len(ids) == 3
    assert set(ids) < set(slurm_in_memory.jobs)


def test_jobs_that_were_polled_are_not_taken_for_lost_ones(slurm_in_memory: FakeSlurm) -> None:
    """A head that has adopted the jobs of an earlier head knows them by asking about them."""

    async def story() -> list[str]:
        earlier = await queue_of(slurm_in_memory).submit(SCRIPT, 2)
        batch_queue = queue_of(slurm_in_memory)
        await batch_queue.poll(earlier)
        slurm_in_memory.loses = {"sbatch"}
        return await batch_queue.submit(SCRIPT, 3)

    assert run(story()) == ["102_1", "102_2", "102_3"]


def test_a_submission_that_is_nowhere_is_an_error_that_warns(slurm_in_memory: FakeSlurm) -> None:
    slurm_in_memory.swallows = {"sbatch"}
    with pytest.raises(SubmitError, match="did not say whether it took 3 jobs") as caught:
        run(queue_of(slurm_in_memory).submit(SCRIPT, 3))
    assert caught.value.exit_code is None
    assert "It may yet take them" in caught.value.hint
    assert [words[0] for words in slurm_in_memory.commands] == ["sbatch", "squeue", "squeue"]


def test_part_of_a_lost_submission_is_cancelled(slurm_in_memory: FakeSlurm) -> None:
    slurm_in_memory.loses = {"sbatch"}
    take = slurm_in_memory.sbatch

    def half(words: tuple[str, ...]) -> Done:
        done = take(words)
        slurm_in_memory.jobs.popitem()
        return done

    slurm_in_memory.sbatch = half  # type: ignore[method-assign]
    with pytest.raises(SubmitError, match="did not say whether it took 3 jobs"):
        run(queue_of(slurm_in_memory).submit(SCRIPT, 3))
    assert not slurm_in_memory.jobs


def test_what_came_too_late_to_be_found_counts_the_next_time(slurm_in_memory: FakeSlurm) -> None:
    async def story() -> list[str]:
        batch_queue = queue_of(slurm_in_memory)
        slurm_in_memory.delays = 1
        with pytest.raises(SubmitError, match="It may yet take them"):
            await batch_queue.submit(SCRIPT, 3)
        slurm_in_memory.deliver()
        return await batch_queue.submit(SCRIPT, 4)

    assert sorted(run(story())) == sorted(slurm_in_memory.jobs)
    assert len(slurm_in_memory.jobs) == 4
    assert slurm_in_memory.commands[-1][2] == "--array=1-1", "one was missing"


def test_nothing_is_submitted_on_top_of_what_may_be_there(slurm_in_memory: FakeSlurm) -> None:
    async def story() -> list[str]:
        batch_queue = queue_of(slurm_in_memory)
        slurm_in_memory.delays = 1
        with pytest.raises(SubmitError, match="It may yet take them"):
            await batch_queue.submit(SCRIPT, 3)
        slurm_in_memory.deliver()
        slurm_in_memory.down_for = 1
        with pytest.raises(SubmitError, match="no more are submitted before it does"):
            await batch_queue.submit(SCRIPT, 3)
        return await batch_queue.submit(SCRIPT, 3)

    assert sorted(run(story())) == sorted(slurm_in_memory.jobs)
    assert len(slurm_in_memory.jobs) == 3


def test_strays_are_looked_for_only_when_there_may_be_some(
    slurm_in_memory: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_UNSURE_SECONDS", 0.0)

    async def story() -> list[str]:
        batch_queue = queue_of(slurm_in_memory)
        assert await batch_queue.strays(SCRIPT) == []
        assert not slurm_in_memory.commands
        slurm_in_memory.delays = 1
        with pytest.raises(SubmitError):
            await batch_queue.submit(SCRIPT, 2)
        slurm_in_memory.deliver()
        found = await batch_queue.strays(SCRIPT)
        asked = len(slurm_in_memory.commands)
        assert await batch_queue.strays(SCRIPT) == [], "it has been long enough"
        assert len(slurm_in_memory.commands) == asked
        return found

    assert sorted(run(story())) == sorted(slurm_in_memory.jobs)


@pytest.mark.parametrize("code", [-9, -15, 137, 143])
def test_a_command_that_was_killed_may_have_submitted(slurm_in_memory: FakeSlurm, code: int) -> None:
    take = slurm_in_memory.sbatch

    def killed(words: tuple[str, ...]) -> Done:
        take(words)
        return code, "", ""

    slurm_in_memory.sbatch = killed  # type: ignore[method-assign]
    assert sorted(run(queue_of(slurm_in_memory).submit(SCRIPT, 2))) == sorted(slurm_in_memory.jobs)
    assert len(slurm_in_memory.jobs) == 2


def test_a_refusal_is_not_searched_for(slurm_in_memory: FakeSlurm) -> None:
    slurm_in_memory.room, slurm_in_memory.refusal = 0, "Invalid qos specification"
    with pytest.raises(SubmitError):
        run(queue_of(slurm_in_memory).submit(SCRIPT, 3))
    assert len(slurm_in_memory.commands) == 1


LOST = [
    (Slurm(), Completed((), None, "", "no end within 60 s", is_late=True), True),
    (Slurm(), Completed((), None, "", "sbatch: command not found on this machine"), False),
    (Slurm(), Completed((), 1, "", "sbatch: error: Socket timed out on send/recv operation"), True),
    (Slurm(), Completed((), 1, "", "sbatch: error: Batch job submission failed: Message receive failure"), True),
    (Slurm(), Completed((), 1, "", "sbatch: error: Unable to contact slurm controller"), False),
    (GridEngine(), Completed((), 1, "", "Unable to run job: failed receiving gdi request response"), True),
    (GridEngine(), Completed((), 1, "", "error: commlib error: got select error (Connection refused)"), False),
    (GridEngine(), Completed((), None, "", "no end within 60 s", is_late=True), True),
]


@pytest.mark.parametrize(("codec", "done", "lost"), LOST)
def test_which_answers_are_lost(codec: BatchSystem, done: Completed, lost: bool) -> None:
    assert codec.is_lost(done) is lost


# Asking


def test_every_job_asked_for_is_answered(slurm_in_memory: FakeSlurm) -> None:
    async def story() -> list[JobState]:
        batch_queue = queue_of(slurm_in_memory)
        ids = await batch_queue.submit(SCRIPT, 2)
        found = await batch_queue.poll([*ids, "9_1"])
        assert list(found) == [*ids, "9_1"]
        return [status.state for status in found.values()]

    assert run(story()) == [JobState.QUEUED, JobState.QUEUED, JobState.UNKNOWN]
    assert [words[0] for words in slurm_in_memory.commands] == ["sbatch", "squeue", "scontrol"]


def test_many_ids_are_split_over_commands(slurm_in_memory: FakeSlurm) -> None:
    ids = [f"{number}_1" for number in range(1, 1202)]
    assert len(run(queue_of(slurm_in_memory).poll(ids))) == 1201
    listings = [words[-1].split(",") for words in slurm_in_memory.commands if words[0] == "squeue"]
    assert [len(ids) for ids in listings] == [500, 500, 201]


def test_no_jobs_need_no_command(slurm_in_memory: FakeSlurm) -> None:
    assert run(queue_of(slurm_in_memory).poll([])) == {}
    run(queue_of(slurm_in_memory).cancel([]))
    assert slurm_in_memory.commands == []


def test_silence_is_an_error(slurm_in_memory: FakeSlurm) -> None:
    slurm_in_memory.down_for = 3
    for question in ("poll", "usage"):
        with pytest.raises(StatusError, match="Unable to contact slurm controller"):
            run(getattr(queue_of(slurm_in_memory), question)(["1_1"]))
    with pytest.raises(StatusError, match="Unable to contact slurm controller"):
        run(queue_of(slurm_in_memory).explain("1_1"))


def test_one_silent_answer_of_accounting_does_not_hide_the_others() -> None:
    record = "=====\njobnumber 1\ntaskid 1\nfailed 0\nexit_status 0\n"

    class HalfSilent:
        async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
            return Completed(tuple(argv), *((0, record, "") if argv[-1] == "1" else (1, "", "Bus error")))

    found = run(BatchQueue(GridEngine(), HalfSilent()).usage(["1.1", "2.1"]))
    assert list(found) == ["1.1"]
    with pytest.raises(StatusError, match="Bus error"):
        run(BatchQueue(GridEngine(), HalfSilent()).usage(["2.1"]))


# Cancelling


def cancelled(slurm: FakeSlurm, *, count: int = 3, timeout: float = 5.0) -> None:
    """Submit and cancel."""

    async def story() -> None:
        batch_queue = queue_of(slurm)
        ids = await batch_queue.submit(SCRIPT, count)
        slurm.commands.clear()
        await batch_queue.cancel([*ids, ids[0]], timeout=timeout)

    run(story())


def test_a_cancellation_is_one_command_and_a_look(slurm_in_memory: FakeSlurm) -> None:
    cancelled(slurm_in_memory)
    assert not slurm_in_memory.jobs
    assert [words[0] for words in slurm_in_memory.commands] == ["scancel", "squeue", "scontrol"]
    assert slurm_in_memory.commands[0][1:] == ("101_1", "101_2", "101_3")


def test_a_cancellation_without_effect_is_repeated(slurm_in_memory: FakeSlurm) -> None:
    slurm_in_memory.deaf_to_scancel = 2
    cancelled(slurm_in_memory)
    assert not slurm_in_memory.jobs
    assert [words[0] for words in slurm_in_memory.commands].count("scancel") == 3


def test_a_cancellation_outlasts_an_outage(slurm_in_memory: FakeSlurm) -> None:
    async def story() -> None:
        batch_queue = queue_of(slurm_in_memory)
        ids = await batch_queue.submit(SCRIPT, 3)
        slurm_in_memory.down_for = 7
        await batch_queue.cancel(ids)

    run(story())
    assert not slurm_in_memory.jobs


def test_leftovers_are_named_and_the_others_are_gone(slurm_in_memory: FakeSlurm) -> None:
    slurm_in_memory.foreign = {"101_2"}
    with pytest.raises(CancelError, match=r"1 job could not be cancelled: 101_2\n") as caught:
        cancelled(slurm_in_memory, timeout=0.1)
    assert list(slurm_in_memory.jobs) == ["101_2"]
    assert caught.value.argv == ("scancel", "101_2")
    assert "permission denied" in caught.value.output


def test_jobs_of_a_host_that_is_gone_are_told_as_such(tmp_path: Path) -> None:
    """Grid Engine keeps them as "dr" for good."""
    job = "<JB_job_number>7</JB_job_number><state>dr</state><queue_name>all.q@sge2.site</queue_name>"

    class Gone:
        async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
            out = f"<job_info><job_list>{job}</job_list></job_info>" if argv[0] == "qstat" else ""
            return Completed(tuple(argv), 0, out, "")

    with pytest.raises(
        CancelError, match=r"still being ended on sge2, which may be down\. They go when"
    ) as caught:
        run(BatchQueue(GridEngine(), Gone()).cancel(["7.1"], timeout=0.1))
    assert caught.value.argv == ("qdel", "7.1")


def test_many_leftovers_are_counted(slurm_in_memory: FakeSlurm) -> None:
    slurm_in_memory.deaf_to_scancel = 1000
    with pytest.raises(
        CancelError,
        match=r"30 jobs could not be cancelled: 101_1, .*101_20 and 10 more\n.*(\n.*)*"
        r"still there 0\.1 s later",
    ):
        cancelled(slurm_in_memory, count=30, timeout=0.1)


# The local batch system's jobs outlive their shepherd, and are found


def test_a_job_whose_shepherd_was_killed_is_still_there_and_can_be_cancelled(tmp_path: Path) -> None:
    codec = LocalProcesses(python=sys.executable, program=localctl.__file__, spool=tmp_path / "spool")
    script = tmp_path / "job.sh"
    script.write_text("trap '' TERM\nsleep 60 & wait\nsleep 60\n")

    async def story() -> None:
        batch_queue = BatchQueue(codec, LocalTransport())
        (job_id,) = await batch_queue.submit(script, 1)
        directory = tmp_path / "spool" / "1" / "1"
        shepherd = int((directory / "pid").read_text().split()[0])
        child = int((directory / "child").read_text().split()[0])
        os.kill(shepherd, signal.SIGKILL)
        wait_until(lambda: localctl.start_time(shepherd) == "", "the shepherd to end")
        assert (await batch_queue.poll([job_id]))[job_id].state is JobState.RUNNING
        await batch_queue.cancel([job_id])
        assert localctl.start_time(child) == ""
        usage = await batch_queue.usage([job_id])
        assert usage[job_id].reason == "cancelled"

    run(story())


def test_a_shepherd_that_was_killed_is_told_once_its_job_has_ended(tmp_path: Path) -> None:
    codec = LocalProcesses(python=sys.executable, program=localctl.__file__, spool=tmp_path / "spool")
    script = tmp_path / "job.sh"
    script.write_text(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done\n")

    async def story() -> None:
        batch_queue = BatchQueue(codec, LocalTransport())
        (job_id,) = await batch_queue.submit(script, 1)
        os.kill(int((tmp_path / "spool/1/1/pid").read_text().split()[0]), signal.SIGKILL)
        (tmp_path / "go").touch()
        child = int((tmp_path / "spool/1/1/child").read_text().split()[0])
        wait_until(lambda: localctl.start_time(child) == "", "the job to end")
        assert (await batch_queue.poll([job_id]))[job_id].state is JobState.ENDED
        assert (await batch_queue.usage([job_id]))[job_id].reason == "its shepherd was killed"

    run(story())


# The real systems


class Forgetful:
    """A transport that carries commands out and then loses the answers to submissions."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
        """Run a command."""
        done: Completed = await self._inner.run(argv, timeout=timeout, cwd=cwd)
        if argv[0] in ("sbatch", "qsub") or "submit" in argv:
            return Completed(done.argv, None, "", "no end within 60 s; it was killed", is_late=True)
        return done


REAL: dict[str, tuple[Callable[[], BatchSystem], str]] = {
    "slurm": (Slurm, "#SBATCH --mem=50M\n#SBATCH --hold\n"),
    "sge": (lambda: GridEngine(job_name="lost-job"), "#$ -N lost-job\n#$ -h\n#$ -l h_vmem=50M\n"),
}


@pytest.mark.parametrize("system", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in REAL])
def test_jobs_of_a_lost_answer_are_found_on_the_real_system(system: str, request: pytest.FixtureRequest) -> None:
    bed: Bed = request.getfixturevalue(system)
    codec, header = REAL[system]
    mine, other = bed.directory / "a job's script.sh", bed.directory / "other.sh"
    for path in (mine, other):
        path.write_text(f"#!/bin/bash\n{header}sleep 60\n")

    async def story() -> None:
        forgetful = BatchQueue(codec(), Forgetful(bed.transport()), search_seconds=(0.0, 1.0))
        others = await BatchQueue(codec(), bed.transport()).submit(other, 2)
        first = await forgetful.submit(mine, 3)
        second = await forgetful.submit(mine, 2)
        try:
            assert len({*others, *first, *second}) == 7
            states = await forgetful.poll([*first, *second])
            assert {status.state for status in states.values()} == {JobState.QUEUED}
            assert {*others, *first, *second} == set(bed.jobs())
        finally:
            await forgetful.cancel([*others, *first, *second])

    run(story())
    assert bed.jobs() == []


def test_jobs_of_a_lost_answer_are_found_locally(tmp_path: Path) -> None:
    codec = LocalProcesses(python=sys.executable, program=localctl.__file__, spool=tmp_path / "spool")
    script = tmp_path / "job.sh"
    script.write_text("sleep 60\n")

    async def story() -> None:
        forgetful = BatchQueue(codec, Forgetful(LocalTransport()), search_seconds=(0.0,))
        assert await forgetful.submit(script, 2) == ["1.1", "1.2"]
        assert await forgetful.submit(script, 1) == ["2.1"]
        await forgetful.cancel(["1.1", "1.2", "2.1"])

    run(story())
