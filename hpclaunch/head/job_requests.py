"""What the ledger asks of the batch system, the jobs' files and the engine, and what it is answered.

Every command is answered by one fact, whatever goes wrong: an error becomes the fact that nothing is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Protocol

from hpclaunch.batch.base import JobStatus, JobUsage
from hpclaunch.errors import CommandError
from hpclaunch.head.jobfiles import RunFiles
from hpclaunch.jobs import commands as c
from hpclaunch.jobs.job import JobFiles
from hpclaunch.jobs.ledger import Ledger

log = logging.getLogger("hpclaunch.jobs")

#: Seconds to wait before each try to read an ended job's log, which comes over a shared file system.
_LOG_WAITS = (0.0, 0.1, 0.2, 0.4, 0.8)
#: Seconds to wait before each question to accounting why a job was put back.
_ACCOUNTING_WAITS = (0.0, 2.0, 10.0)


class Queue(Protocol):
    """What we need of :class:`~hpclaunch.batch.queue.BatchQueue`."""

    async def submit(self, script: Path, count: int) -> list[str]:
        """Submit, and return the job ids. Raise SubmitError."""

    async def poll(self, ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the state of every job. Raise StatusError."""

    async def usage(self, ids: Iterable[str]) -> dict[str, JobUsage]:
        """Return what accounting knows."""

    async def explain(self, job_id: str) -> str:
        """Return why a job waits or is stuck."""

    async def why_put_back(self, job_id: str) -> str:
        """Return why a job's run before this one ended; empty if that is not known. Raise StatusError."""

    async def cancel(self, ids: Iterable[str], *, timeout: float = 30.0) -> None:
        """Cancel jobs and see that they are gone. Raise CancelError."""

    async def strays(self, script: Path) -> list[str]:
        """Return jobs that are not known here, since their submission's answer was lost. Raise StatusError."""


class JobRequests:
    """Carries out the commands of a ledger that are questions, cancellations and goodbyes.

    :param clock: returns the unix time.
    :param retire: asks the engine to drain and close the workers of a job.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: Queue,
        files: RunFiles,
        clock: Callable[[], float],
        retire: Callable[[c.RetireWorkers], Awaitable[None]],
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._files = files
        self._clock = clock
        self._retire = retire

    async def answer(self, command: c.Command) -> list[c.Command]:
        """Carry a command out, and return what the ledger says to its answer."""
        match command:
            case c.Poll(ids):
                return await self._poll(ids)
            case c.LookAtFiles():
                return await self._look()
            case c.AskUsage(ids):
                return await self._ask_usage(ids)
            case c.AskReason(job_id):
                return await self._ask_reason(job_id)
            case c.AskPutBack(job_id):
                return await self._ask_put_back(job_id)
            case c.Cancel(ids):
                return await self._cancel(ids)
            case c.ReadLog(job_id):
                return await self._read_log(job_id)
            case c.RetireWorkers():
                return await self._retire_workers(command)
            case _:
                raise AssertionError(command)

    async def _poll(self, ids: tuple[str, ...]) -> list[c.Command]:
        asked_at = self._clock()
        try:
            statuses = await self._queue.poll(ids)
        except CommandError as error:
            log.warning("%s", error)
            return self._ledger.on_status_failed(str(error), self._clock())
        return self._ledger.on_status(statuses, asked_at, self._clock())

    async def _look(self) -> list[c.Command]:
        files: dict[str, JobFiles] = {}
        try:
            files = await asyncio.to_thread(self._files.look)
        except OSError as error:
            log.warning("the jobs' files cannot be read: %s", error)
        return self._ledger.on_files(files, self._clock())

    async def _ask_usage(self, ids: tuple[str, ...]) -> list[c.Command]:
        usages: dict[str, JobUsage] = {}
        try:
            usages = await self._queue.usage(ids)
        except CommandError as error:
            log.warning("%s", error)
        return self._ledger.on_usage(ids, usages, self._clock())

    async def _ask_reason(self, job_id: str) -> list[c.Command]:
        text = ""
        try:
            text = await self._queue.explain(job_id)
        except CommandError as error:
            log.warning("%s", error)
        return self._ledger.on_reason(job_id, text, self._clock())

    async def _ask_put_back(self, job_id: str) -> list[c.Command]:
        """Ask why a job was put back, which accounting learns a moment later than the queue."""
        text = ""
        for wait in _ACCOUNTING_WAITS:
            await asyncio.sleep(wait)
            with contextlib.suppress(CommandError):  # it is only a sentence
                text = await self._queue.why_put_back(job_id)
            if text:
                break
        return self._ledger.on_put_back(job_id, text, self._clock())

    async def _cancel(self, ids: tuple[str, ...]) -> list[c.Command]:
        try:
            await self._queue.cancel(ids)
        except CommandError as error:
            log.warning("%s", error)
            return self._ledger.on_cancel_failed(ids, str(error), self._clock())
        return self._ledger.on_cancelled(ids, self._clock())

    async def _retire_workers(self, command: c.RetireWorkers) -> list[c.Command]:
        try:
            await self._retire(command)
        except Exception:  # an engine is a plug-in; its job ends all the same
            log.exception("the workers of job %s could not be retired", command.id)
        return self._ledger.on_retired(command.id, self._clock())

    async def _read_log(self, job_id: str) -> list[c.Command]:
        """Read the end of a log, which may reach us a moment after its job's end."""
        text = ""
        for wait in _LOG_WAITS:
            await asyncio.sleep(wait)
            if text := await asyncio.to_thread(self._log_tail, job_id):
                break
        return self._ledger.on_log(job_id, str(self._files.log_path(job_id)), text, self._clock())

    def _log_tail(self, job_id: str) -> str:
        try:
            return self._files.log_tail(job_id).strip()
        except OSError as error:
            return f"(the log cannot be read: {error.strerror})"
