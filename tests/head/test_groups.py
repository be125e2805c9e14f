"""Jobs of several kinds: who is whose, also before the batch system has named a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import msgspec
import pytest

from hpclaunch import rundir
from hpclaunch.config.schema import JobConfig
from hpclaunch.errors import UserError
from hpclaunch.head.groups import Groups
from hpclaunch.head.jobs import JobManager
from hpclaunch.jobs import commands as c
from hpclaunch.jobs.adaptive import Policy
from hpclaunch.scheduler.demand import Demand, JobLoad, ReadyWork
from tests.head.test_jobs import HASTE, config, in_loop, until
from tests.jobs.fake_queue import FakeBatch, FakeQueue

GPU = (("GPU", 1.0),)


class Queue(FakeQueue):
    """A queue whose submissions are answered only when a test says so."""

    def __init__(self, batch: FakeBatch) -> None:
        super().__init__(batch)
        self.answers = asyncio.Event()
        self.answers.set()

    async def submit(self, script: Path, count: int) -> list[str]:
        ids = await super().submit(script, count)
        await self.answers.wait()
        return ids


class Rig:
    """A cluster of two kinds of jobs on one batch system."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.batch = FakeBatch()
        self.queues: dict[str, Queue] = {}
        self.demand = Demand([], 0, {})
        (directory / "logs").mkdir()
        self.groups = Groups(config(), self._make, lambda: self.demand)
        self.groups.add("gpu", msgspec.structs.replace(config(resources={"GPU": 1}), group="gpu"))

    def _make(self, name: str, one: JobConfig) -> JobManager:
        rundir.tickets_path(self.directory, name).mkdir()
        self.queues[name] = Queue(self.batch)

        async def retire(command: c.RetireWorkers) -> None:
            self.groups.worker_left(command.id, f"{command.id}-w", "retired")

        return JobManager(
            one,
            self.queues[name],
            rundir.script_path(self.directory, name),
            self.directory,
            retire=retire,
            idle_jobs=list,
            on_failure=lambda error: None,
            limits=HASTE,
            rng=Random(1),
        )

    def come_up(self, job_id: str, group: str) -> None:
        """A job starts, leaves its ticket where its script says, and its worker connects."""
        self.batch.start(job_id, "node7")
        ticket = rundir.tickets_path(self.directory, group) / f"{job_id}.start"
        ticket.write_text("1700000000 node7 4711\n")
        self.groups.worker_joined(job_id, f"{job_id}-w", "node7", "10.1.0.1:40123")

    def kinds(self) -> dict[str, tuple[str, str]]:
        return {row.id: (row.group, row.state) for row in self.groups.table()}


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Rig]:
    rig = Rig(directory)
    runner = asyncio.create_task(rig.groups.run())
    try:
        yield rig
    finally:
        for queue in rig.queues.values():
            queue.answers.set()
        await rig.groups.close()
        await asyncio.wait_for(runner, 10)
        assert rig.batch.alive() == []


@pytest.mark.parametrize("order", [("", "gpu"), ("gpu", "")])
def test_an_early_worker_is_its_groups_own(tmp_path: Path, order: Iterable[str]) -> None:
    """It connects before the answer to its submission has come: its ticket says whose it is."""

    @in_loop
    async def test() -> None:
        async with running(tmp_path) as rig:
            scaling: list[asyncio.Task[None]] = []
            ids: dict[str, str] = {}
            for name in order:
                rig.queues[name].answers.clear()
                scaling.append(asyncio.create_task(rig.groups.scale(1, name)))
                await until(lambda: len(rig.batch.jobs) == len(scaling))
                ids[name] = list(rig.batch.jobs)[-1]
            for name, job_id in ids.items():
                rig.come_up(job_id, name)
            assert rig.kinds() == {ids[name]: (name, "up") for name in order}
            rig.groups.job_ends(ids["gpu"], 1000.0, "")
            for queue in rig.queues.values():
                queue.answers.set()
            await asyncio.gather(*scaling)
            assert rig.kinds() == {ids[name]: (name, "up") for name in order}
            assert len(rig.batch.jobs) == 2, "nothing was submitted in its stead"

    test()


@in_loop
async def test_a_worker_without_a_ticket_is_the_clusters_own(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.batch.submit(1)
        rig.groups.worker_joined("1.1", "1.1-w", "node7", "10.1.0.1:40123")
        assert rig.kinds()["1.1"][0] == ""


@in_loop
async def test_work_that_is_given_much_has_the_group_grow_whose_workers_have_the_memory(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        most = rig.groups.group("").config.memory_per_worker
        rig.groups.add("roomy", msgspec.structs.replace(config(memory=str(4 * most)), group="roomy"))
        assert rig.groups.coming() == [most, most, 4 * most]
        for name in ("", "roomy"):
            rig.groups.adapt(Policy(maximum=2, interval=0.01), name)
        rig.demand = Demand([ReadyWork((), 5, 500.0, 2 * most)], 0, {})
        await until(lambda: len(rig.kinds()) == 2)
        assert {group for group, _ in rig.kinds().values()} == {"roomy"}


@in_loop
async def test_work_has_the_group_grow_that_fits(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        for name in ("", "gpu"):
            rig.groups.adapt(Policy(maximum=2, interval=0.01), name)
        rig.demand = Demand([ReadyWork(GPU, 5, 500.0)], 0, {})
        await until(lambda: len(rig.kinds()) == 2)
        assert {group for group, _ in rig.kinds().values()} == {"gpu"}
        assert rig.queues["gpu"].scripts == [tmp_path / "job-gpu.sh"]
        rig.demand = Demand([ReadyWork((), 5, 500.0)], 0, {job: JobLoad(1, 100.0, 0) for job in rig.kinds()})
        await until(lambda: len(rig.kinds()) == 4)
        assert rig.queues[""].scripts == [tmp_path / "job.sh"]


@in_loop
async def test_who_is_not_known_is_named(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        with pytest.raises(UserError, match="there is no group 'tpu'; there are 'gpu'"):
            await rig.groups.scale(1, "tpu")
