"""A batch system in memory, with the faults that real ones have, and a BatchQueue over it.

:class:`FakeBatch` is plain and keeps its own time (``now``), so a state machine can drive it; :class:`FakeQueue`
has the interface of :class:`hpclaunch.batch.queue.BatchQueue`. Nothing happens to a job unless a test says so, or
``autopilot`` is on: then queued jobs start at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpclaunch.batch.base import JobState, JobStatus, JobUsage
from hpclaunch.errors import CancelError, StatusError, SubmitError
from hpclaunch.jobs.job import JobFiles


@dataclass
class FakeJob:
    """One job: what the batch system shows of it, and what it left behind."""

    id: str
    state: JobState = JobState.QUEUED
    reason: str = ""
    host: str = ""
    is_listed: bool = True
    started: float | None = None
    exit_code: int | None = None  # its exit-code file
    gave_up: str = ""
    usage: JobUsage | None = None
    log: str = ""

    @property
    def is_alive(self) -> bool:
        return self.state is not JobState.ENDED

    def files(self) -> JobFiles:
        return JobFiles(self.started, self.host if self.started is not None else "", self.exit_code, self.gave_up)


class FakeBatch:
    """The batch system. Fault switches are plain attributes."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.jobs: dict[str, FakeJob] = {}
        self.submissions: list[list[str]] = []
        self.polls: list[tuple[str, ...]] = []
        self.cancels: list[tuple[str, ...]] = []
        self.autopilot = False
        self.submit_error = ""
        self.is_down = False  # status, usage and cancel fail
        self.put_backs: set[str] = set()  # jobs of which accounting knows that they were
        self.undying: set[str] = set()  # jobs that cancel does not end
        self.has_accounting = True
        self.lists_ended = False  # as Slurm does; Grid Engine forgets ended jobs
        self._array = 0

    # --- what happens to jobs

    def start(self, job_id: str, host: str = "node1") -> FakeJob:
        job = self.jobs[job_id]
        if job.started is not None:
            self.put_back(job_id)
        job.exit_code = None
        job.state, job.host, job.started = JobState.RUNNING, host, self.now
        return job

    def end(
        self, job_id: str, exit_code: int | None = None, *, reason: str = "", signal: int | None = None
    ) -> FakeJob:
        """The job is over. With ``exit_code`` its script wrote that down; with ``reason`` accounting knows."""
        job = self.jobs[job_id]
        job.state, job.exit_code, job.is_listed = JobState.ENDED, exit_code, self.lists_ended
        said = reason or (f"exit code {exit_code}" if exit_code is not None else "")
        job.reason = said
        if said and self.has_accounting:
            wall = self.now - job.started if job.started is not None else 0.0
            job.usage = JobUsage(job_id, said, exit_code, signal, job.host, wall)
        return job

    def vanish(self, job_id: str) -> FakeJob:
        """The job is gone without a trace."""
        job = self.end(job_id)
        job.is_listed = False
        return job

    def put_back(self, job_id: str, reason: str = "") -> FakeJob:
        """The job waits in the queue again."""
        self.put_backs.add(job_id)
        job = self.jobs[job_id]
        job.state, job.started, job.host, job.reason = JobState.QUEUED, None, "", reason
        return job

    def stick(self, job_id: str) -> FakeJob:
        job = self.jobs[job_id]
        job.state, job.reason = JobState.STUCK, "Eqw"
        return job

    def alive(self) -> list[str]:
        return [job.id for job in self.jobs.values() if job.is_alive]

    def queued(self) -> list[str]:
        return [job.id for job in self.jobs.values() if job.state is JobState.QUEUED]

    # --- what the commands do

    def submit(self, count: int) -> list[str]:
        if self.submit_error or self.is_down:
            words = self.submit_error or "cannot reach the batch system"
            raise SubmitError("submitting failed", argv=("qsub", "job.sh"), exit_code=1, output=words)
        self._array += 1
        ids = [f"{self._array}.{element + 1}" for element in range(count)]
        self.submissions.append(ids)
        for job_id in ids:
            self.jobs[job_id] = FakeJob(job_id)
            if self.autopilot:
                self.start(job_id)
        return ids

    def poll(self, ids: Iterable[str]) -> dict[str, JobStatus]:
        self._must_be_up("asking for the state of jobs")
        self.polls.append(tuple(ids))
        return {job_id: self._status(job_id) for job_id in self.polls[-1]}

    def usage(self, ids: Iterable[str]) -> dict[str, JobUsage]:
        self._must_be_up("asking accounting")
        known = ((job_id, self.jobs.get(job_id)) for job_id in ids)
        return {job_id: job.usage for job_id, job in known if job is not None and job.usage is not None}

    def explain(self, job_id: str) -> str:
        self._must_be_up("asking why a job waits")
        job = self.jobs.get(job_id)
        if job is None or not job.is_alive:
            return ""
        return "can't chdir to /scratch/x" if job.state is JobState.STUCK else "not enough free slots"

    def cancel(self, ids: Sequence[str]) -> None:
        self.cancels.append(tuple(ids))
        if self.is_down:
            raise CancelError(
                "cancelling jobs", argv=("qdel", *ids), exit_code=1, output="cannot reach the batch system"
            )
        for job_id in ids:
            job = self.jobs.get(job_id)
            if job is not None and job.is_alive and job_id not in self.undying:
                self.end(job_id, reason="cancelled by qdel")
        left = [job_id for job_id in ids if job_id in self.undying and self.jobs[job_id].is_alive]
        if left:
            raise CancelError(f"jobs are still there after they were cancelled: {' '.join(left)}")

    def _status(self, job_id: str) -> JobStatus:
        job = self.jobs.get(job_id)
        if job is None or not job.is_listed:
            return JobStatus(job_id, JobState.UNKNOWN)
        return JobStatus(job_id, job.state, job.reason, job.host)

    def _must_be_up(self, what: str) -> None:
        if self.is_down:
            raise StatusError(what, argv=("qstat",), exit_code=1, output="cannot reach the batch system")


class FakeQueue:
    """A FakeBatch behind the interface of BatchQueue.

    :param on_submit: called with the new ids after each submission, to let jobs live (files, workers).
    :param delay: seconds that every command takes.
    """

    def __init__(
        self, batch: FakeBatch, *, on_submit: Callable[[list[str]], None] | None = None, delay: float = 0.0
    ) -> None:
        self.batch = batch
        self.delay = delay
        self.scripts: list[Path] = []
        self._on_submit = on_submit

    async def submit(self, script: Path, count: int) -> list[str]:
        self.scripts.append(script)
        await asyncio.sleep(self.delay)
        ids = self.batch.submit(count)
        if self._on_submit is not None:
            self._on_submit(ids)
        return ids

    async def poll(self, ids: Iterable[str]) -> dict[str, JobStatus]:
        await asyncio.sleep(self.delay)
        return self.batch.poll(ids)

    async def usage(self, ids: Iterable[str]) -> dict[str, JobUsage]:
        await asyncio.sleep(self.delay)
        return self.batch.usage(ids)

    async def explain(self, job_id: str) -> str:
        await asyncio.sleep(self.delay)
        return self.batch.explain(job_id)

    async def cancel(self, ids: Iterable[str], *, timeout: float = 30.0) -> None:
        await asyncio.sleep(self.delay)
        self.batch.cancel(tuple(ids))

    async def why_put_back(self, job_id: str) -> str:
        return "its node failed (node1)"

    async def strays(self, script: Path) -> list[str]:
        return []
