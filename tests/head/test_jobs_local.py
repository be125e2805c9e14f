"""The job manager on the real local batch system: bash jobs with tickets and exit codes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random

import pytest

from hpclaunch import batch
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.config.layers import load
from hpclaunch.errors import JobsFailedError, SubmitError
from hpclaunch.head.jobs import JobManager
from hpclaunch.jobs import commands as c
from hpclaunch.jobs.job import Limits
from hpclaunch.transport.local import LocalTransport
from tests.head.test_jobs import in_loop, until

SCRIPT = """\
#!/usr/bin/env bash
job="$HPCLAUNCH_JOB_ID.$HPCLAUNCH_TASK_ID"
exec >{directory}/logs/$job.log 2>&1
echo "$(date +%s) $(hostname) $$" >{directory}/jobs/$job.start
trap 'echo $? >{directory}/jobs/$job.exit' EXIT
{work}
"""


class Local:
    """A manager over real processes."""

    def __init__(self, directory: Path, work: str) -> None:
        self.directory = directory
        (directory / "jobs").mkdir()
        (directory / "logs").mkdir()
        script = directory / "job.sh"
        script.write_text(SCRIPT.format(directory=directory, work=work))
        config = load("local", {"cores": 1, "memory": "1 GB", "python": "python-of-nowhere"}, env={}, paths=[]).job
        self.queue = BatchQueue(batch.by_name("local", config, directory), LocalTransport())
        self.failures: list[JobsFailedError] = []
        self.manager = JobManager(
            config,
            self.queue,
            script,
            directory,
            retire=self._retire,
            idle_jobs=list,
            on_failure=self.failures.append,
            limits=Limits(poll_floor=0.02, poll_cap=0.1, look_cap=0.05, goodbye=0.1),
            rng=Random(1),
        )

    async def __aenter__(self) -> Local:
        self.runner = asyncio.create_task(self.manager.run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.manager.close()
        await self.runner
        # An exit code is written by the job just before it ends.
        await until(lambda: not [job_id for job_id in self.pids() if self.is_running(job_id)])

    async def _retire(self, command: c.RetireWorkers) -> None:
        job_id = command.id
        self.manager.worker_left(job_id, "w", "retired")

    def join(self, job_id: str) -> None:
        self.manager.worker_joined(job_id, "w", os.uname().nodename, "127.0.0.1:40123")

    def states(self) -> dict[str, str]:
        return {row.id: row.state for row in self.manager.table()}

    def reason(self, job_id: str) -> str:
        return next(row.reason for row in self.manager.table() if row.id == job_id)

    def pids(self) -> dict[str, int]:
        tickets = (self.directory / "jobs").glob("*.start")
        return {path.stem: int(text[2]) for path in tickets if len(text := path.read_text().split()) == 3}

    def is_running(self, job_id: str) -> bool:
        try:
            status = Path(f"/proc/{self.pids()[job_id]}/stat").read_text()
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@in_loop
async def test_jobs_start_go_and_are_replaced(tmp_path: Path) -> None:
    async with Local(tmp_path, "echo hello; sleep 1000 & wait") as local:
        await local.manager.scale(2)
        await until(lambda: local.states() == {"1.1": "starting", "1.2": "starting"})
        local.join("1.1")
        local.join("1.2")
        assert set(local.states().values()) == {"up"}
        await until(lambda: local.manager.logs("1.1") == {"1.1": "hello\n"})

        await local.queue.cancel(["1.1"])  # another user's qdel
        local.manager.worker_left("1.1", "w", "connection lost")
        await until(lambda: local.states().get("2.1") == "starting")
        assert local.reason("1.1").startswith("cancelled from outside")

        os.kill(local.pids()["1.2"], 9)
        local.manager.worker_left("1.2", "w", "connection lost")
        await until(lambda: local.states().get("1.2") == "ended")
        assert "killed by SIGKILL" in local.reason("1.2")


@in_loop
async def test_shrinking_ends_the_processes(tmp_path: Path) -> None:
    async with Local(tmp_path, "sleep 1000 & wait") as local:
        await local.manager.scale(2)
        await until(lambda: set(local.pids()) == {"1.1", "1.2"})
        local.join("1.1")
        await local.manager.scale(0)
        await until(lambda: set(local.states().values()) == {"ended"})
        assert not any(local.is_running(job_id) for job_id in local.pids())


@in_loop
async def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with Local(tmp_path, "echo preparing; python-of-nowhere -m hpclaunch.worker") as local:
        local.manager._ledger.verdict.deaths.first_seconds = 0.01  # waiting is not what is tested
        await local.manager.scale(1)
        await until(lambda: local.failures)
        text = str(local.failures[0])
        assert "exit code 127: the job script did not find a command" in text
        assert "  | preparing\n" in text
        assert "python-of-nowhere: command not found" in text
        assert "The compute node does not have python-of-nowhere: set the key `python`" in text


@in_loop
async def test_a_script_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async with Local(tmp_path, "") as local:
        (tmp_path / "job.sh").unlink()
        with pytest.raises(SubmitError, match=r"job\.sh"):
            await local.manager.scale(1)
        assert local.manager.table() == []
