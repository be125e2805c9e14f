"""The job manager: keeps as many jobs alive as were wished for, and knows the story of each.

It is the shell around :class:`~hpclaunch.jobs.ledger.Ledger`, which decides everything: this module runs the
ledger's commands (submit, ask, cancel, read files) as asyncio tasks and feeds what comes of them back as facts.
Rules:

* Every command is answered by one fact, whatever goes wrong.
* A submission that has begun is always waited for: its job ids must not be lost.
* ``close`` leaves no job behind, or raises and says which.

It does not decide, and knows nothing of tasks, connections or what the batch system's output looks like.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from hpclaunch import file_errors, homes, rundir
from hpclaunch.config.schema import JobConfig
from hpclaunch.errors import (
    CancelError,
    CommandError,
    ConfigError,
    HPCLaunchError,
    JobsFailedError,
    LimitReachedError,
    UserError,
)
from hpclaunch.head.job_requests import JobRequests, Queue
from hpclaunch.head.jobfiles import ALL_LOGS_BYTES, TAIL_BYTES, RunFiles
from hpclaunch.jobs import commands as c
from hpclaunch.jobs.adaptive import Facts, JobFact
from hpclaunch.jobs.following import FollowingLedger
from hpclaunch.jobs.job import Job, JobRow, Limits
from hpclaunch.jobs.reasons import Terms
from hpclaunch.scheduler.demand import JobLoad

log = logging.getLogger("hpclaunch.jobs")

_TITLES = {"sge": "Grid Engine", "slurm": "Slurm", "local": "the local batch system"}
#: Shortest wait between two looks at the clock, seconds.
_LEAST_WAIT = 0.01


class JobManager:
    """The jobs of one cluster.

    :param script: the job script, already written.
    :param directory: the cluster's run directory.
    :param retire: asks the engine to drain and close the workers of a job.
    :param idle_jobs: returns ids of jobs with workers, from cheapest to lose.
    :param on_failure: told when no more jobs are submitted, and why.
    :param limits: all the patience; by default from ``config``.
    """

    def __init__(
        self,
        config: JobConfig,
        queue: Queue,
        script: Path,
        directory: Path,
        *,
        retire: Callable[[c.RetireWorkers], Awaitable[None]],
        idle_jobs: Callable[[], list[str]],
        on_failure: Callable[[JobsFailedError], None],
        clock: Callable[[], float] = time.time,
        limits: Limits | None = None,
        rng: Random | None = None,
    ) -> None:
        self._queue = queue
        self._script = script
        self._directory = directory
        self._idle_jobs = idle_jobs
        self._on_failure = on_failure
        self._clock = clock
        log_directory = directory / "logs"
        if config.log_directory:
            log_directory = homes.expanded(config.log_directory, "log-directory")
        self._group = config.group
        self._files = RunFiles(rundir.tickets_path(directory, config.group), log_directory)
        self._files.skip()
        self._ledger = FollowingLedger(_terms(config), rng or Random(), limits or _limits(config))
        self._requests = JobRequests(self._ledger, queue, self._files, clock, retire)
        self._walltime = config.walltime
        self._failure: JobsFailedError | None = None
        self._scaling = asyncio.Lock()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._submissions: set[asyncio.Task[HPCLaunchError | None]] = set()
        self._bug: BaseException | None = None

    # --- the wish

    async def scale(self, jobs: int) -> None:
        """Keep this many jobs alive from now on. When it returns, what was missing has been submitted.

        A failure that stands is cleared, and jobs are tried again.

        :raises SubmitError: the batch system did not take them; the wish falls back to what there is.
        :raises ConfigError: not a number of jobs.
        """
        if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 0:
            raise ConfigError(f"{jobs!r} is not a number of jobs; write 0 or more", key="jobs")
        async with self._scaling:
            if self._ledger.is_closing:
                raise UserError("This cluster is being closed; make a new one to run more jobs.")
            before = self._ledger.wish
            commands = self._ledger.on_scale(jobs, self._clock(), self._idle_jobs())
            submits = [command for command in commands if isinstance(command, c.Submit)]
            self._do(command for command in commands if not isinstance(command, c.Submit))
            started = [self._begin_submission(command, before) for command in submits]
            await asyncio.shield(asyncio.gather(*self._submissions))
            for error in (task.result() for task in started):
                if error is not None:
                    raise error

    def adapted(self, submit: int, release: Iterable[str], reason: str, *, worth: int = 0) -> None:
        """Adaptive scaling wants so many jobs more, and these released. Ends what :meth:`scale` has promised.

        :param worth: so many jobs the work is worth.
        """
        if not self._ledger.is_closing:
            self._feed(self._ledger.on_adapted(submit, release, reason, self._clock(), worth=worth))

    def forgive(self) -> None:
        """Forget failures: a client asked to try again."""
        self._ledger.verdict.reset()

    @property
    def wish(self) -> int:
        """How many jobs there are to be."""
        return self._ledger.wish

    @property
    def failure(self) -> JobsFailedError | None:
        """Why no more jobs are submitted; None while they are."""
        return self._failure if self._ledger.failure else None

    @property
    def trouble(self) -> str:
        """What the batch system refuses or does not answer at the moment, in its words; empty if all is well."""
        silence = self._ledger.silence_text if self._ledger.silent_since is not None else ""
        return self._ledger.refusal_text or silence

    # --- facts from the head

    def worker_joined(self, job_id: str, worker_name: str, host: str, head_address: str) -> None:
        """A worker connected, and by which of the head's addresses."""
        self._feed(self._ledger.on_worker_joined(job_id, worker_name, host, head_address, self._clock()))

    def job_ends(self, job_id: str, seconds_left: float, why: str) -> None:
        """A job's walltime ends in so many seconds, or the batch system has told it to end: ``why``."""
        self._feed(self._ledger.on_job_ends(job_id, seconds_left, why, self._clock()))

    def clock_told(self, job_id: str, host: str, ahead: float) -> None:
        """The clock of a job's host is so many seconds ahead of this one's."""
        self._feed(self._ledger.on_clock_told(job_id, host, ahead, self._clock()))

    def worker_left(self, job_id: str, worker_name: str, reason: str) -> None:
        """The connection to a worker ended."""
        self._feed(self._ledger.on_worker_left(job_id, worker_name, reason, self._clock()))

    # --- questions

    def table(self) -> list[JobRow]:
        """Return all jobs with their stories, in order of submission."""
        rows = self._ledger.rows(self._clock())
        return [msgspec.structs.replace(row, group=self._group) for row in rows] if self._group else rows

    def notes(self) -> list[str]:
        """Return what is to be said of the cluster as a whole, such as that it may have no more jobs."""
        return self._ledger.notes()

    def has(self, job_id: str) -> bool:
        """Say whether this is one of these jobs; it may have ended."""
        return job_id in self._ledger.jobs

    def has_ticket(self, job_id: str) -> bool:
        """Say whether a job that is not named yet has left its start ticket among these jobs'."""
        return self._files.has_ticket(job_id)

    def start_of(self, job_id: str) -> object:
        """Return what tells a job's latest start from those before; None if it has left no ticket here."""
        return self._files.start_of(job_id)

    def facts(self, facts: Facts, loads: Mapping[str, JobLoad]) -> Facts:
        """Complete what adaptive scaling looks at by what is known of the jobs.

        :param loads: by job id, what their workers have to do.
        """
        now = self._clock()
        jobs = []
        for job in self._ledger.book.alive():
            load = loads.get(job.id)
            jobs.append(
                JobFact(
                    job.id,
                    job.state,
                    now - job.born,
                    tasks=load.tasks if load is not None else 0,
                    held_bytes=load.held_bytes if load is not None else 0,
                    ends_in=self._ends_in(job, now),
                    used_seconds=job.used_seconds(now),
                )
            )
        return facts._replace(
            jobs=jobs,
            trouble=self._why_no_more(now),
            ended_seconds=self._ledger.lifecycle.ended_seconds,
            is_retry=self._is_at_ceiling,
        )

    @property
    def _is_at_ceiling(self) -> bool:
        return self._ledger.ceiling.is_reached(self._ledger.book.count())

    def _ends_in(self, job: Job, now: float) -> float:
        if job.ends_at is not None:
            return job.ends_at - now
        if job.running_since is None or self._walltime is None:
            return math.inf
        return job.running_since + self._walltime - now

    def _why_no_more(self, now: float) -> str:
        if self._ledger.verdict.is_stopped:
            return "jobs failed again and again"
        if self._ledger.silent_since is not None:
            return "the batch system does not answer"
        if self._is_at_ceiling and now < self._ledger.ceiling.try_at:
            return self._ledger.ceiling.text(self._ledger.terms.title)
        wait = self._ledger.verdict.not_before - now
        return f"jobs failed, and the next are tried in {wait:.0f} s" if wait > 0 else ""

    def logs(self, job_id: str | None = None) -> dict[str, str]:
        """Return the output of one job or of all, by job id; where there is none, a sentence that says so.

        :raises UserError: there is no such job.
        """
        known = list(self._ledger.jobs)
        if job_id is not None and job_id not in self._ledger.jobs:
            raise UserError(f"This cluster has no job {job_id!r}; it has {', '.join(known) or 'none'}.")
        asked = [job_id] if job_id else known
        most = max(TAIL_BYTES, ALL_LOGS_BYTES // max(1, len(asked)))
        return {asked_id: self._files.log_text(asked_id, most) for asked_id in asked}

    # --- life

    async def run(self) -> None:
        """Follow the jobs until :meth:`close`."""
        self._ledger.lifecycle.head_addresses = await asyncio.to_thread(self._head_addresses)
        while not self._ledger.is_closing:
            self._wake.clear()
            self._do(self._ledger.on_clock(self._clock()))
            self._finish_journal()
            if self._bug is not None:
                raise self._bug
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait_seconds()):
                    await self._wake.wait()

    async def close(self) -> None:
        """Cancel every job that may still be there, and see to it that all are gone. May be called again.

        :raises CancelError: some are still there; the text names them.
        """
        self._feed(self._ledger.on_close(self._clock()))
        if self._submissions:
            await asyncio.shield(asyncio.gather(*self._submissions))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        ids = self._ledger.book.to_cancel()
        strays, silence = await self._strays()
        try:
            if ids or strays:
                await self._cancel_all([*ids, *strays])
        except HPCLaunchError as error:
            self._feed(self._ledger.on_cancel_failed(ids, str(error), self._clock()))
            raise
        self._feed(self._ledger.on_cancelled(ids, self._clock()))
        if silence is not None:
            raise CancelError(
                "a submission was never answered, and the batch system does not say whether it took those jobs",
                argv=silence.argv,
                exit_code=silence.exit_code,
                output=silence.output,
                hint="If it did, they end by themselves when they find no head.",
            )

    async def _strays(self) -> tuple[list[str], CommandError | None]:
        """Return the jobs of submissions that were never answered; or the error if that can't be found out."""
        try:
            return await self._queue.strays(self._script), None
        except CommandError as error:
            return [], error

    def leftovers(self) -> list[str]:
        """Return the jobs of an earlier head in this directory whose end it did not see."""
        return [job_id for job_id in self._files.leftovers() if job_id not in self._ledger.jobs]

    def adopt(self, job_ids: Iterable[str]) -> None:
        """Take over jobs of an earlier head; the wish grows to keep them."""
        self._feed(self._ledger.on_adopted(job_ids, self._clock()))

    async def sweep(self) -> list[str]:
        """Cancel all :meth:`leftovers`, and return them. Raise CancelError if some are still there."""
        ids = self.leftovers()
        if ids:
            await self._cancel_all(ids)
            self._files.write_journal("ended", ids)
        return ids

    async def _cancel_all(self, ids: list[str]) -> None:
        try:
            await self._queue.cancel(ids)
        except CancelError:
            raise
        except CommandError as error:
            raise CancelError(
                f"could not make sure that these jobs are cancelled: {' '.join(ids)}",
                argv=error.argv,
                exit_code=error.exit_code,
                output=error.output or error.what,
                hint="Cancel them by hand when the batch system answers again.",
            ) from error

    # --- running commands

    def _feed(self, commands: Iterable[c.Command]) -> None:
        """A fact was applied: run what follows, and look at the clock again."""
        self._do(commands)
        self._wake.set()

    def _do(self, commands: Iterable[c.Command]) -> None:
        for command in commands:
            match command:
                case c.Journal(word, ids):
                    self._write_journal(word, ids)
                case c.ReportFailure(text):
                    log.error("%s", text)
                    self._failure = JobsFailedError(text)
                    self._on_failure(self._failure)
                case c.Submit():
                    self._begin_submission(command, None)
                case _:
                    self._begin(self._carry_out(command))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._bug = task.exception()
            self._wake.set()

    async def _carry_out(self, command: c.Command) -> None:
        self._feed(await self._requests.answer(command))

    # --- submitting

    def _begin_submission(self, command: c.Submit, wish: int | None) -> asyncio.Task[HPCLaunchError | None]:
        task = asyncio.create_task(self._submit(command, wish))
        self._submissions.add(task)
        task.add_done_callback(self._submissions.discard)
        task.add_done_callback(self._on_done)
        return task

    async def _submit(self, command: c.Submit, wish: int | None) -> HPCLaunchError | None:
        """Submit, and return the error if it was refused. ``wish`` is given if a client waits for that."""
        try:
            ids = await self._queue.submit(self._script, command.jobs)
        except LimitReachedError as error:
            return self._on_limit_reached(command, error, wish)
        except HPCLaunchError as error:
            log.warning("%s", error)
            self._feed(self._ledger.on_submit_failed(command.ticket, str(error), self._clock(), wish=wish))
            return error
        self._feed(self._ledger.on_submitted(command.ticket, ids, self._clock()))
        return None

    def _on_limit_reached(
        self, command: c.Submit, error: LimitReachedError, wish: int | None
    ) -> LimitReachedError | None:
        ledger, before = self._ledger, self._ledger.notes()
        self._feed(
            ledger.on_limit_reached(
                command.ticket, error.job_ids, error.limit, str(error), self._clock(), wish=wish
            )
        )
        if ledger.ceiling.jobs is None:
            log.warning("%s", error)
            return error
        if ledger.notes() != before:
            log.warning("%s", "; ".join(ledger.notes()) or error)
        return None

    # --- small things

    def _write_journal(self, word: str, ids: tuple[str, ...]) -> None:
        """Write job ids down. A full disk is no reason to lose the jobs that run."""
        try:
            if ids:
                self._files.write_journal(word, ids)
        except OSError as error:
            log.warning("the journal of jobs can't be written now: %s", file_errors.told(error))

    def _finish_journal(self) -> None:
        """Try again to write what there was no room for; that it still fails was told."""
        with contextlib.suppress(OSError):
            self._files.finish_journal()

    def _wait_seconds(self) -> float | None:
        wake_at = self._ledger.wake_at()
        return None if wake_at is None else max(_LEAST_WAIT, wake_at - self._clock())

    def _head_addresses(self) -> str:
        try:
            facts = json.loads((self._directory / "cluster.json").read_text())
            return ", ".join(facts["addresses"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""  # only a sentence needs them


def _terms(config: JobConfig) -> Terms:
    title = _TITLES.get(config.batch_system, config.batch_system)
    walltime = None if config.batch_system == "local" else config.walltime  # it is not enforced there
    return Terms(title=title, walltime=walltime, memory=config.memory, python=config.python)


def _limits(config: JobConfig) -> Limits:
    return Limits(
        startup=config.death_timeout + 60.0,
        alone=config.death_timeout + 10.0,
        drain_margin=config.drain_margin,
        submit_rate=config.max_submit_rate,
    )
