"""A batch system within reach: a codec's commands, run over a transport, and their failures told.

Does not: decide when to ask or how often, or remember jobs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpclaunch.batch.base import BatchSystem, JobState, JobStatus, JobUsage
from hpclaunch.errors import CancelError, CommandError, StatusError, SubmitError
from hpclaunch.transport.base import Transport

#: Seconds that one command may take. A busy qmaster can need most of it.
_COMMAND_SECONDS = 60.0
#: Jobs in one command: argument lists have a limit, and so do batch systems.
_IDS_PER_COMMAND = 500
#: Seconds between two looks whether cancelled jobs are gone, and between two cancellations of the same job.
_LOOK_SECONDS = (0.1, 1.0)
_AGAIN_SECONDS = 5.0


class BatchQueue:
    """Submits, watches, explains and cancels jobs.

    :param batch: the codec.
    :param transport: where its commands run.
    """

    def __init__(self, batch: BatchSystem, transport: Transport) -> None:
        self.batch = batch
        self._transport = transport

    async def submit(self, script: Path, count: int) -> list[str]:
        """Submit ``count`` jobs of one script, as an array; return their ids.

        :raises SubmitError: nothing was submitted. Of a count over the array limit, part may have been: then
            that part is cancelled again.
        """
        ids: list[str] = []
        try:
            while len(ids) < count:
                ids += await self._submit_some(script, min(count - len(ids), self.batch.max_array))
        except SubmitError as error:
            if ids:
                await self._take_back(ids, error)
            raise
        return ids

    async def _take_back(self, ids: list[str], refusal: SubmitError) -> None:
        """Cancel the part of a submission that was taken, before the rest was refused."""
        try:
            await self.cancel(ids)
        except CancelError as error:
            raise SubmitError(
                f"{refusal.what}; before, it took jobs that then could not be cancelled: {', '.join(ids[:20])}",
                argv=refusal.argv,
                exit_code=refusal.exit_code,
                output=f"{refusal.output}\n{error.output}",
                hint=error.hint,
            ) from None

    async def _submit_some(self, script: Path, count: int) -> list[str]:
        argv = self.batch.submit(script, count)
        done = await self._transport.run(argv, timeout=_COMMAND_SECONDS)
        try:
            return self.batch.parse_submit(done, count)
        except SubmitError as error:
            hint = self.batch.hint(done)
            if done.exit_code is None and "no end within" in done.stderr:
                hint = (
                    f"A job may have been submitted all the same: look for jobs of yours with {self.batch.title}."
                )
            what = f"{self.batch.title} did not take {count} job{'s' if count > 1 else ''}"
            raise SubmitError(
                what, argv=done.argv, exit_code=done.exit_code, output=error.output, hint=hint
            ) from None

    async def poll(self, ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the state of each of these jobs; UNKNOWN if the listing lacks it.

        :raises StatusError: the batch system did not answer.
        """
        wanted = list(ids)
        found: dict[str, JobStatus] = {}
        for some in _pieces(wanted):
            done = await self._transport.run(self.batch.status(some), timeout=_COMMAND_SECONDS)
            found.update(self.batch.parse_status(done, some))
        return {job_id: found.get(job_id) or JobStatus(job_id, JobState.UNKNOWN) for job_id in wanted}

    async def usage(self, ids: Iterable[str]) -> dict[str, JobUsage]:
        """Return what accounting knows of those of these jobs that it knows as ended.

        :raises StatusError: accounting did not answer at all.
        """
        found: dict[str, JobUsage] = {}
        silence: StatusError | None = None
        for some in _pieces(list(ids)):
            for argv in self.batch.usage(some):
                done = await self._transport.run(argv, timeout=_COMMAND_SECONDS)
                try:
                    found.update(self.batch.parse_usage(done, some))
                except StatusError as error:
                    silence = error
        if silence is not None and not found:
            raise silence
        return found

    async def explain(self, job_id: str) -> str:
        """Return in words why a job waits or is stuck; empty if the batch system does not say.

        :raises StatusError: the batch system did not answer.
        """
        done = await self._transport.run(self.batch.explain(job_id), timeout=_COMMAND_SECONDS)
        return self.batch.parse_explain(done, job_id)

    async def cancel(self, ids: Iterable[str], *, timeout: float = 30.0) -> None:
        """Cancel jobs and see to it that they are gone, asking again where that takes long.

        :raises CancelError: some are still there after ``timeout`` seconds, or the batch system refuses; the
            text names them. The others are gone.
        """
        left = list(ids)
        until = time.monotonic() + timeout
        pause, asked, words = _LOOK_SECONDS[0], 0.0, ""
        while left:
            try:
                if time.monotonic() - asked >= _AGAIN_SECONDS:
                    asked = time.monotonic()
                    words = await self._cancel_once(left)
                left = await self._still_there(left)
            except CommandError as error:  # the batch system is down: keep trying
                words = str(error)
            if not left:
                return
            if time.monotonic() >= until:
                raise CancelError(
                    f"{len(left)} job(s) could not be cancelled: {', '.join(left[:20])}",
                    argv=self.batch.cancel(left[:20]),
                    output=words or f"they are still there {timeout:g} s later",
                    hint="Their workers end by themselves when they find no head; the command above cancels them.",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LOOK_SECONDS[1])

    async def _cancel_once(self, ids: Sequence[str]) -> str:
        """Ask for the end of these jobs; return the words in which some were refused."""
        refused: dict[str, str] = {}
        for some in _pieces(ids):
            done = await self._transport.run(self.batch.cancel(some), timeout=_COMMAND_SECONDS)
            refused.update(self.batch.parse_cancel(done, some))
        return "\n".join(dict.fromkeys(refused.values()))

    async def _still_there(self, ids: Sequence[str]) -> list[str]:
        states = await self.poll(ids)
        return [job_id for job_id in ids if states[job_id].state not in (JobState.ENDED, JobState.UNKNOWN)]


def _pieces(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(ids), _IDS_PER_COMMAND):
        yield ids[start : start + _IDS_PER_COMMAND]
