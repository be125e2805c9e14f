"""A job manager on a batch system that loses answers, is down and is late: no job too many, none lost, none left.

The clock is made up: whenever the loop would wait, the time it would wait for is there at once.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hpclaunch.batch import queue
from hpclaunch.batch.base import Completed
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.batch.slurm import Slurm
from hpclaunch.errors import CancelError, SubmitError
from hpclaunch.head.jobs import JobManager
from hpclaunch.jobs import commands as c
from hpclaunch.jobs.job import Limits
from tests.batch.fake_slurm import FakeSlurm
from tests.head.test_jobs import config

#: What can happen to one command of the batch system.
FAULTS = ("none", "loses", "swallows", "delays", "down")


class _Leap(selectors.SelectSelector):
    """Does not wait: the time that it was to wait for has passed."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            ready = super().select(0.0005)  # a thread may be about to answer
            self.passed += 0.0 if ready else timeout
            return ready
        return super().select(timeout)


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock leaps over every wait."""

    def __init__(self) -> None:
        self.leap = _Leap()
        super().__init__(self.leap)

    def time(self) -> float:
        return super().time() + self.leap.passed


class Faulty(FakeSlurm):
    """A Slurm whose next commands meet with these faults; after them all is well."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__()
        self.faults = list(faults)
        self.patience = 0

    async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
        fault = self.faults.pop(0) if self.faults else "none"
        self.patience -= 1
        if self.patience <= 0:
            self.deliver()
        if fault == "delays":
            self.patience = 6  # commands: more than there are searches
        self.down_for = int(fault == "down")
        self.delays = int(fault == "delays")
        self.loses = {argv[0]} if fault == "loses" else set()
        self.swallows = {argv[0]} if fault == "swallows" else set()
        await asyncio.sleep(60.0 if fault in ("loses", "swallows", "delays") else 0.05)
        return await super().run(argv, timeout=timeout, cwd=cwd)


def manager_of(slurm: FakeSlurm, directory: Path, loop: asyncio.AbstractEventLoop) -> JobManager:
    async def retire(command: c.RetireWorkers) -> None:
        pass

    return JobManager(
        config(),
        BatchQueue(Slurm(), slurm),
        directory / "job.sh",
        directory,
        retire=retire,
        idle_jobs=list,
        on_failure=lambda error: None,
        clock=loop.time,
        limits=Limits(),
        rng=Random(1),
    )


async def scale(manager: JobManager, jobs: int) -> None:
    """Wish until the wish is taken, as a user would."""
    while True:
        try:
            return await manager.scale(jobs)
        except SubmitError:
            await asyncio.sleep(5.0)


def run(loop: LeapingLoop, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a story in made-up time, that of the queue's own patience included."""
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=lambda: loop) as runner:
        patch.setattr(queue, "time", SimpleNamespace(monotonic=loop.time))
        runner.run(story())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    faults=st.lists(st.sampled_from(FAULTS), max_size=25),
    wishes=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    waits=st.lists(st.sampled_from([0.0, 1.0, 30.0]), min_size=4, max_size=4),
)
def test_whatever_is_lost_there_are_as_many_jobs_as_wished_for(
    tmp_path: Path, faults: list[str], wishes: list[int], waits: list[float]
) -> None:
    slurm = Faulty(faults)
    loop = LeapingLoop()

    async def story() -> None:
        manager = manager_of(slurm, tmp_path, loop)
        runner = asyncio.create_task(manager.run())
        for wish, wait in zip(wishes, waits, strict=False):
            await scale(manager, wish)
            assert manager.failure is None
            assert manager.wish == wish
            await asyncio.sleep(wait)
        slurm.faults.clear()
        await asyncio.sleep(120.0)
        known = {row.id for row in manager.table() if row.state != "ended"}
        assert known <= set(slurm.jobs) or not known
        assert len(known) == wishes[-1]
        slurm.deliver()
        await manager.close()
        assert not slurm.jobs
        await runner

    run(loop, story)


def test_what_comes_after_all_is_found_by_close(tmp_path: Path) -> None:
    slurm = Faulty(["delays", *["none"] * 3])
    loop = LeapingLoop()

    async def story() -> None:
        manager = manager_of(slurm, tmp_path, loop)
        with pytest.raises(SubmitError, match="It may yet take them"):
            await manager.scale(3)
        slurm.deliver()
        assert len(slurm.jobs) == 3
        slurm.down_for = 1
        await manager.close()
        assert not slurm.jobs

    run(loop, story)


def test_close_says_so_if_it_cannot_know(tmp_path: Path) -> None:
    slurm = Faulty(["delays", *["none"] * 3, "down", "none"])
    loop = LeapingLoop()

    async def story() -> None:
        manager = manager_of(slurm, tmp_path, loop)
        with pytest.raises(SubmitError):
            await manager.scale(3)
        with pytest.raises(CancelError, match="does not say whether it took those jobs"):
            await manager.close()
        await manager.close()

    run(loop, story)
