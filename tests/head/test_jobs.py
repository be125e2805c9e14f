"""The job manager on a batch system in memory: what it promises to the head, in real asyncio."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hpclaunch.batch.base import JobState
from hpclaunch.config.layers import load
from hpclaunch.config.schema import JobConfig
from hpclaunch.errors import CancelError, ConfigError, JobsFailedError, SubmitError, UserError
from hpclaunch.head.jobs import JobManager
from hpclaunch.jobs import commands as c
from hpclaunch.jobs.job import Limits
from tests.jobs.fake_queue import FakeBatch, FakeQueue

#: Everything in a hurry; what the promises are about is order, not time.
HASTE = Limits(
    poll_floor=0.005,
    poll_cap=0.02,
    look_cap=0.01,
    proof=0.05,
    usage=0.05,
    listed=0.02,
    goodbye=0.02,
    retire=5.0,
    cancel_retry=0.02,
    explain=0.01,
)
PATIENCE = 10.0


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def config(**overrides: Any) -> JobConfig:
    values = {"cores": 1, "memory": "1 GB", "python": "/opt/env/bin/python", "walltime": "01:00:00", **overrides}
    return load("sge", values, env={}, paths=[]).job


class Rig:
    """A manager, its batch system, and everything that it told its head."""

    def __init__(self, directory: Path, *, limits: Limits = HASTE, delay: float = 0.0, **overrides: Any) -> None:
        self.directory = directory
        (directory / "jobs").mkdir(exist_ok=True)
        (directory / "logs").mkdir(exist_ok=True)
        self.batch = FakeBatch()
        self.queue = FakeQueue(self.batch, on_submit=self._on_submit, delay=delay)
        self.failures: list[JobsFailedError] = []
        self.retired: list[str] = []
        self.idle: list[str] = []
        self.live: Callable[[str], None] = lambda job_id: None  # what new jobs do
        self.manager = JobManager(
            config(**overrides),
            self.queue,
            directory / "job.sh",
            directory,
            retire=self._retire,
            idle_jobs=lambda: self.idle,
            on_failure=self.failures.append,
            limits=limits,
            rng=Random(1),
        )
        self.runner: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Rig:
        self.runner = asyncio.create_task(self.manager.run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self.runner is not None
        self.batch.is_down = False
        self.batch.undying.clear()
        await self.manager.close()
        await asyncio.wait_for(self.runner, PATIENCE)
        assert self.batch.alive() == []

    def _on_submit(self, ids: list[str]) -> None:
        for job_id in ids:
            self.live(job_id)

    async def _retire(self, command: c.RetireWorkers) -> None:
        job_id = command.id
        self.retired.append(job_id)
        self.manager.worker_left(job_id, f"{job_id}-w", "retired")

    # --- what jobs do

    def start(self, job_id: str, host: str = "node7") -> None:
        self.batch.start(job_id, host)
        (self.directory / "jobs" / f"{job_id}.start").write_text(f"{self.batch.now + 10**9} {host} 4711\n")

    def join(self, job_id: str) -> None:
        self.manager.worker_joined(job_id, f"{job_id}-w", "node7", "10.1.0.1:40123")

    def come_up(self, job_id: str) -> None:
        self.start(job_id)
        self.join(job_id)

    def die(self, job_id: str, code: int, *, log: str = "", fail: str = "") -> None:
        if log:
            (self.directory / "logs" / f"{job_id}.log").write_text(log)
        if fail:
            (self.directory / "jobs" / f"{job_id}.fail").write_text(fail)
        (self.directory / "jobs" / f"{job_id}.exit").write_text(f"{code}\n")
        self.batch.end(job_id, code)

    def start_and_die(self, code: int, **more: str) -> Callable[[str], None]:
        def live(job_id: str) -> None:
            self.start(job_id)
            self.die(job_id, code, **more)

        return live

    # --- questions

    def states(self) -> dict[str, str]:
        return {row.id: row.state for row in self.manager.table()}

    def reason(self, job_id: str) -> str:
        return next(row.reason for row in self.manager.table() if row.id == job_id)


@in_loop
async def test_scale_has_submitted_when_it_returns(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.manager.scale(3)
        assert rig.batch.submissions == [["1.1", "1.2", "1.3"]]
        assert rig.queue.scripts == [tmp_path / "job.sh"]
        assert set(rig.states().values()) == {"queued"}
        await rig.manager.scale(5)
        assert rig.batch.submissions[1:] == [["2.1", "2.2"]]
        await rig.manager.scale(5)
        assert len(rig.batch.submissions) == 2


@in_loop
async def test_a_refused_submission_is_raised_and_not_repeated_behind_the_callers_back(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.batch.submit_error = 'Unable to run job: Job was rejected because job requests unknown queue "nosuch".'
        with pytest.raises(SubmitError, match="unknown queue") as caught:
            await rig.manager.scale(2)
        assert caught.value.argv == ("qsub", "job.sh")
        assert rig.manager.table() == []
        rig.batch.submit_error = ""
        await rig.manager.scale(1)
        await until(lambda: rig.batch.polls)
        assert rig.batch.submissions == [["1.1"]]


@in_loop
async def test_a_refused_growth_keeps_what_there_is(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.manager.scale(2)
        rig.batch.submit_error = "over quota"
        with pytest.raises(SubmitError):
            await rig.manager.scale(4)
        assert set(rig.states()) == {"1.1", "1.2"}
        assert rig.batch.cancels == []


@pytest.mark.parametrize("jobs", [-1, 1.5, "2", None, True])
def test_a_wish_is_a_number_of_jobs(tmp_path: Path, jobs: Any) -> None:
    @in_loop
    async def test() -> None:
        with pytest.raises(ConfigError, match="is not a number of jobs"):
            await Rig(tmp_path).manager.scale(jobs)

    test()


@in_loop
async def test_a_cancelled_caller_loses_no_job(tmp_path: Path) -> None:
    async with Rig(tmp_path, delay=0.02) as rig:
        caller = asyncio.create_task(rig.manager.scale(2))
        await until(lambda: rig.queue.scripts)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        await until(lambda: set(rig.states()) == {"1.1", "1.2"})


@in_loop
async def test_closing_waits_for_a_submission_under_way(tmp_path: Path) -> None:
    rig = Rig(tmp_path, delay=0.02)
    async with rig:
        caller = asyncio.create_task(rig.manager.scale(2))
        await until(lambda: rig.queue.scripts)
        await rig.manager.close()
        await caller
        assert rig.batch.submissions == [["1.1", "1.2"]]
        assert rig.batch.alive() == []
        assert set(rig.states().values()) == {"ended"}
    with pytest.raises(UserError, match="being closed"):
        await rig.manager.scale(1)


@in_loop
async def test_the_life_of_a_job_is_told(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.manager.scale(1)
        rig.start("1.1")
        await until(lambda: rig.states() == {"1.1": "starting"})
        rig.join("1.1")
        row = rig.manager.table()[0]
        assert (row.state, row.host, row.workers) == ("up", "node7", 1)
        assert "starting on node7, python not yet up" in row.story[2]
        assert "reaching the head at 10.1.0.1:40123" in row.story[3]
        rig.die("1.1", 0)
        rig.manager.worker_left("1.1", "1.1-w", "it said goodbye")
        await until(lambda: rig.states().get("1.1") == "ended")
        assert rig.reason("1.1") == "the job script came to its end (exit code 0)"


@in_loop
async def test_a_job_ended_by_walltime_or_from_outside_is_replaced(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.live = rig.come_up
        await rig.manager.scale(2)
        rig.batch.end("1.1", reason="walltime reached")
        rig.manager.worker_left("1.1", "1.1-w", "connection lost")
        await until(lambda: "2.1" in rig.states())
        rig.batch.end("1.2", reason="cancelled by qdel")
        rig.manager.worker_left("1.2", "1.2-w", "connection lost")
        await until(lambda: "3.1" in rig.states())
        assert rig.reason("1.1") == "walltime reached (01:00:00)"
        assert rig.reason("1.2") == "cancelled from outside (cancelled by qdel)"
        assert rig.states()["2.1"] == rig.states()["3.1"] == "up"


@in_loop
async def test_early_deaths_stop_with_one_error_with_reason_log_and_advice(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.live = rig.start_and_die(1, log="prologue\n/opt/env/bin/python: No module named hpclaunch\n")
        rig.manager._ledger.verdict.deaths.first_seconds = 0.01  # waiting is not what is tested
        await rig.manager.scale(2)
        await until(lambda: rig.failures)
        text = str(rig.failures[0])
        assert rig.manager.failure is rig.failures[0]
        assert "3 times in a row" in text
        assert "on node7: exit code 1" in text
        assert "  | /opt/env/bin/python: No module named hpclaunch" in text
        assert str(tmp_path / "logs" / "3.") in text
        assert "set the key `python`" in text
        assert len(rig.batch.submissions) == 3
        rig.live = rig.come_up
        await rig.manager.scale(2)
        assert rig.manager.failure is None
        assert [state for state in rig.states().values() if state == "up"] == ["up", "up"]


@in_loop
async def test_a_worker_that_gave_up_says_why(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.live = rig.start_and_die(
            1, fail="could not reach the head at 10.1.0.1:4 from node7 (tried ib0, eth0)\n"
        )
        await rig.manager.scale(1)
        await until(lambda: rig.states().get("1.1") == "ended")
        said = "the worker gave up: could not reach the head at 10.1.0.1:4 from node7 (tried ib0, eth0)"
        assert rig.reason("1.1") == said
        rig.live = rig.come_up


@in_loop
async def test_a_stuck_job_ends_with_the_reason_and_is_deleted(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.manager.scale(1)
        rig.batch.stick("1.1")
        await until(lambda: rig.states()["1.1"] == "ended")
        assert rig.reason("1.1") == "Grid Engine put it in Eqw: can't chdir to /scratch/x"
        assert rig.batch.cancels == [("1.1",)]


@in_loop
async def test_silence_is_shown_and_costs_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.manager.scale(2)
        rig.batch.is_down = True
        await until(lambda: "not answered" in rig.reason("1.1"))
        assert "cannot reach the batch system" in rig.manager.trouble
        rig.batch.is_down = False
        await until(lambda: "not answered" not in rig.reason("1.1"))
        assert rig.manager.trouble == ""
        assert len(rig.batch.submissions) == 1
        assert rig.batch.cancels == []


@in_loop
async def test_shrinking_goes_by_cost(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.live = rig.come_up
        await rig.manager.scale(3)
        rig.live = lambda job_id: None
        await rig.manager.scale(4)
        rig.idle = ["1.2", "1.1", "1.3"]
        await rig.manager.scale(2)
        await until(lambda: rig.batch.alive() == ["1.1", "1.3"])
        assert rig.retired == ["1.2"]
        assert rig.batch.cancels[0] == ("2.1",)
        await until(lambda: rig.states()["1.2"] == "ended")
        assert rig.reason("1.2") == "not wanted any more (4 jobs alive, 2 wanted)"


@in_loop
async def test_a_broken_engine_does_not_keep_a_job_alive(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.live = rig.come_up

        async def fail(command: c.RetireWorkers) -> None:
            raise RuntimeError("no such worker")

        rig.manager._retire = fail
        await rig.manager.scale(1)
        await rig.manager.scale(0)
        await until(lambda: rig.batch.alive() == [])


@in_loop
async def test_close_names_what_it_could_not_cancel_and_can_be_tried_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig:
        await rig.manager.scale(2)
        rig.batch.stick("1.2")
        rig.batch.undying.add("1.1")
        with pytest.raises(CancelError, match=r"still there after they were cancelled: 1\.1"):
            await rig.manager.close()
        assert rig.batch.alive() == ["1.1"]
        rig.batch.is_down = True
        with pytest.raises(CancelError):
            await rig.manager.close()
    assert set(rig.states().values()) == {"ended"}


@in_loop
async def test_close_without_jobs_asks_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.manager.close()
        assert rig.batch.cancels == []


@in_loop
async def test_a_mistake_of_ours_does_not_pass_in_silence(tmp_path: Path) -> None:
    rig = Rig(tmp_path)

    async def poll(ids: Any) -> Any:
        raise ZeroDivisionError("a bug")

    rig.queue.poll = poll  # type: ignore[method-assign]
    runner = asyncio.create_task(rig.manager.run())
    await rig.manager.scale(1)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(runner, PATIENCE)
    await rig.manager.close()


@in_loop
async def test_logs_are_read_or_missed_in_words(tmp_path: Path) -> None:
    logs = tmp_path / "elsewhere"
    logs.mkdir()
    async with Rig(tmp_path, log_directory=str(logs)) as rig:
        await rig.manager.scale(2)
        (logs / "1.1.log").write_bytes(b"hello \xff\n")
        found = rig.manager.logs()
        assert list(found) == ["1.1", "1.2"]
        assert found["1.1"] == "hello \ufffd\n"
        assert found["1.2"] == f"Job 1.2 has written no log yet, or could not; it would be at {logs}/1.2.log."
        assert rig.manager.logs("1.1") == {"1.1": "hello \ufffd\n"}
        with pytest.raises(UserError, match=r"no job '\.\./\.\./etc/passwd'; it has 1\.1, 1\.2"):
            rig.manager.logs("../../etc/passwd")


@in_loop
async def test_a_huge_log_is_read_from_its_end(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.manager.scale(1)
        (tmp_path / "logs" / "1.1.log").write_text("x" * 2_000_000 + "the end\n")
        text = rig.manager.logs("1.1")["1.1"]
        assert text.startswith("[the first ")
        assert text.endswith("the end\n")
        assert len(text) < 1_100_000


@in_loop
async def test_the_next_head_finds_and_cancels_what_was_left(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    await first.manager.scale(3)
    first.batch.end("1.2", reason="walltime reached")
    first.start("1.3")
    async with asyncio.timeout(PATIENCE):
        runner = asyncio.create_task(first.manager.run())
        await until(lambda: first.states().get("1.2") == "ended")
    runner.cancel()  # kill -9
    with (tmp_path / "jobs" / "ledger.jsonl").open("a") as journal:
        journal.write('{"subm')
    left = sorted(job_id for job_id in first.states() if first.states()[job_id] != "ended")
    second = Rig(tmp_path)
    second.queue.batch = second.batch = first.batch
    async with second:
        assert sorted(second.manager.leftovers()) == left
        assert second.manager.table() == []
        assert sorted(await second.manager.sweep()) == left
        assert second.batch.alive() == []
        assert await second.manager.sweep() == []
        assert second.manager.table() == []  # tickets of the earlier life are not its own


@in_loop
async def test_the_next_head_may_keep_what_was_left(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    await first.manager.scale(2)
    second = Rig(tmp_path)
    second.queue.batch = second.batch = first.batch
    async with second:
        second.manager.adopt(second.manager.leftovers())
        second.come_up("1.1")
        assert second.states() == {"1.1": "up", "1.2": "queued"}
        assert second.manager.leftovers() == []
        await until(lambda: second.batch.polls)
        assert second.batch.cancels == []


@in_loop
async def test_the_journal_is_private(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.manager.scale(1)
        journal = tmp_path / "jobs" / "ledger.jsonl"
        assert journal.stat().st_mode & 0o777 == 0o600
        assert json.loads(journal.read_text()) == {"submitted": ["1.1"]}


@in_loop
async def test_a_silent_job_is_told_where_the_head_listens(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(json.dumps({"addresses": ["10.1.0.1:40123", "10.2.0.1:40123"]}))
    async with Rig(tmp_path, limits=Limits(poll_floor=0.005, poll_cap=0.02, look_cap=0.01, startup=0.05)) as rig:
        await rig.manager.scale(1)
        rig.batch.start("1.1", "node7")
        await until(lambda: rig.states()["1.1"] == "ended")
        assert "no worker connected" in rig.reason("1.1")
        assert "the head listens at 10.1.0.1:40123, 10.2.0.1:40123" in rig.reason("1.1")


@in_loop
async def test_half_written_files_are_read_again(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.manager.scale(1)
        ticket = tmp_path / "jobs" / "1.1.start"
        ticket.write_text("")
        polls = len(rig.batch.polls)
        await until(lambda: len(rig.batch.polls) > polls + 2)
        assert rig.states() == {"1.1": "queued"}
        ticket.write_text("1700000000 node9 77\n")
        await until(lambda: rig.states() == {"1.1": "starting"})
        assert rig.manager.table()[0].host == "node9"
        assert rig.batch.jobs["1.1"].state is JobState.QUEUED  # known from the ticket alone
