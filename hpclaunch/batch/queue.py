"""A batch system within reach: a codec's commands, run over a transport, and their failures told.

Rules:

* A submission whose answer was lost is looked for. Its jobs are taken as submitted if all are there; else what
  is there is cancelled. So after an error nothing of it is left, as far as the batch system can tell.
* What is not to be found may yet come. Nothing more of the same script is submitted before another look, for some
  minutes, and what has come by then counts; :meth:`BatchQueue.strays` finds it at the end.
* A cancellation is done when the jobs are gone, not when the batch system has said that it heard.

Does not: decide when to ask or how often, or know how jobs are. It keeps ids only to tell new jobs from old ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hpclaunch.batch.base import BatchSystem, Completed, JobState, JobStatus, JobUsage
from hpclaunch.errors import CancelError, CommandError, LimitReachedError, StatusError, SubmitError
from hpclaunch.transport.base import Transport

log = logging.getLogger("hpclaunch.batch")

#: Seconds that one command may take. A busy master can need most of it.
_COMMAND_SECONDS = 60.0
#: Jobs in one command: argument lists have a limit, and so do batch systems.
_IDS_PER_COMMAND = 500
#: Seconds between two looks whether cancelled jobs are gone: the first wait, and the longest.
_LOOK_SECONDS = (0.1, 1.0)
#: Seconds between two cancellations of the same job.
_AGAIN_SECONDS = 5.0
#: Jobs in these states need not be cancelled any more.
_GONE = (JobState.ENDED, JobState.UNKNOWN)
#: Exit codes of shells for commands that were killed: what these have done is not known.
_KILLED = frozenset({128 + number for number in (1, 2, 9, 13, 15)})
#: Seconds in which a master that was busy or down may yet take a submission whose answer was lost.
_UNSURE_SECONDS = 900.0
#: Seconds to wait before each search for jobs of a lost submission: a busy master may yet take them.
_SEARCH_SECONDS = (1.0, 3.0, 10.0)


class BatchQueue:
    """Submits, watches, explains and cancels jobs.

    :param batch: the codec.
    :param transport: where its commands run.
    :param search_seconds: waits before each search for the jobs of a submission whose answer was lost.
    """

    def __init__(
        self, batch: BatchSystem, transport: Transport, *, search_seconds: Sequence[float] = _SEARCH_SECONDS
    ) -> None:
        self.batch = batch
        self._transport = transport
        self._search_seconds = search_seconds
        self._known: set[str] = set()
        self._unsure: dict[Path, float] = {}  # scripts of lost submissions, and since when (monotonic)

    # --- submitting

    async def submit(self, script: Path, count: int) -> list[str]:
        """Submit ``count`` jobs of one script, as an array or, over the site's limit, several; return their ids.

        They are more than ``count`` if an earlier submission, which seemed lost, has come after all.

        :raises LimitReachedError: the user may not have more jobs; it has those that were taken, perhaps none.
        :raises SubmitError: they were not submitted, or not all: then the others have been cancelled again.
        """
        ids = await self._latecomers(script)
        most = self.batch.max_array
        while len(ids) < count:
            size = min(count - len(ids), most)
            try:
                ids += await self._submit_some(script, size)
            except SubmitError as error:
                most = size // 2
                limit = self.batch.limit(error.output)
                if most and (limit or self.batch.is_too_many(error.output)):
                    continue
                if not limit:
                    await self._take_back(ids, error)
                    raise
                self._known.update(ids)
                raise self._reached(limit, ids, count, error) from None
        self._known.update(ids)
        return ids

    def _reached(self, limit: str, ids: Sequence[str], count: int, error: SubmitError) -> LimitReachedError:
        return LimitReachedError(
            f"{self.batch.title} took {len(ids)} of {count} job{'s' if count > 1 else ''}: {limit} is reached",
            job_ids=ids,
            limit=limit,
            argv=error.argv,
            exit_code=error.exit_code,
            output=error.output,
            hint=error.hint,
        )

    async def _latecomers(self, script: Path) -> list[str]:
        """Return the jobs of an earlier submission that seemed lost; none in the usual case."""
        try:
            return await self.strays(script)
        except StatusError as error:
            raise SubmitError(
                f"{self.batch.title} has not said whether it took the jobs before, and does not say which there "
                "are; no more are submitted before it does",
                argv=error.argv,
                exit_code=error.exit_code,
                output=error.output,
            ) from None

    async def strays(self, script: Path) -> list[str]:
        """Return the unknown jobs of a script: its submission's answer was lost, and they came late.

        Asks only if there was such a submission.

        :raises StatusError: the batch system did not answer.
        """
        since = self._unsure.get(script)
        if since is None:
            return []
        found = [job_id for job_id in await self.find(script) if job_id not in self._known]
        if time.monotonic() - since > _UNSURE_SECONDS:
            self._unsure.pop(script, None)
        self._known.update(found)
        return found

    async def submit_one(self, script: Path) -> str:
        """Submit one job that is no element of an array; return its id.

        :raises SubmitError: it was not submitted.
        """
        (job_id,) = await self._submit_some(script, None)
        self._known.add(job_id)
        return job_id

    async def _submit_some(self, script: Path, array: int | None) -> list[str]:
        done = await self._run(self.batch.submit(script, array))
        try:
            return self.batch.parse_submit(done, array)
        except SubmitError as error:
            output = error.output
        count = array or 1
        jobs = f"{count} job{'s' if count > 1 else ''}"
        what, hint = f"{self.batch.title} did not take {jobs}", self.batch.hint(done)
        found: list[str] = []
        if self.batch.is_lost(done) or _was_killed(done):
            found = await self._search(script, count)
            if len(found) == count:
                return found
            self._unsure[script] = time.monotonic()
            what = f"{self.batch.title} did not say whether it took {jobs}, and they are not to be found"
            hint = f"It may yet take them: look for jobs of yours before you submit again. {hint}".strip()
        refusal = SubmitError(what, argv=done.argv, exit_code=done.exit_code, output=output, hint=hint)
        await self._take_back(found, refusal)
        raise refusal

    async def find(self, script: Path) -> list[str]:
        """Return the jobs of a script that the batch system has now.

        :raises StatusError: the batch system did not answer.
        """
        return self.batch.parse_find(await self._run(self.batch.find(script)), script)

    async def _search(self, script: Path, count: int) -> list[str]:
        """Return the jobs of a script that are new to us, when there are ``count`` or it has been long enough."""
        found: list[str] = []
        for wait in self._search_seconds:
            await asyncio.sleep(wait)
            try:
                found = [job_id for job_id in await self.find(script) if job_id not in self._known]
            except StatusError:
                continue
            if len(found) == count:
                break
        return found

    async def _take_back(self, ids: Sequence[str], refusal: SubmitError) -> None:
        """Cancel the part of a submission that was taken, when the rest was not."""
        if not ids:
            return
        self._known.update(ids)
        try:
            await self.cancel(ids)
        except CancelError as error:
            raise SubmitError(
                f"{refusal.what}; of some it took, which then could not be cancelled: {', '.join(ids[:20])}",
                argv=refusal.argv,
                exit_code=refusal.exit_code,
                output=f"{refusal.output}\n{error.output}",
                hint=error.hint,
            ) from None

    # --- asking

    async def poll(self, ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the state of each of these jobs; UNKNOWN if neither the listing has it nor a question by its id.

        :raises StatusError: the batch system did not answer.
        """
        wanted = list(ids)
        self._known.update(wanted)
        found: dict[str, JobStatus] = {}
        for some in _pieces(self._sound(wanted)):
            found.update(self.batch.parse_status(await self._run(self.batch.status(some)), some))
            await self._look_again([job_id for job_id in some if job_id not in found], found)
        return {job_id: found.get(job_id) or JobStatus(job_id, JobState.UNKNOWN) for job_id in wanted}

    async def _look_again(self, missing: list[str], found: dict[str, JobStatus]) -> None:
        """Ask by their ids for jobs that the listing lacks: it may be filtered."""
        for argv in self.batch.second_look(missing) if missing else ():
            found.update(self.batch.parse_second_look(await self._run(argv), missing, found))
            missing = [job_id for job_id in missing if job_id not in found]
            if not missing:
                return

    async def usage(self, ids: Iterable[str]) -> dict[str, JobUsage]:
        """Return what accounting knows of those of these jobs that it knows as ended.

        :raises StatusError: accounting did not answer at all.
        """
        found: dict[str, JobUsage] = {}
        silence: StatusError | None = None
        for some in _pieces(self._sound(ids)):
            for argv in self.batch.usage(some):
                try:
                    found.update(self.batch.parse_usage(await self._run(argv), some))
                except StatusError as error:
                    silence = error
        if silence is not None and not found:
            raise silence
        return found

    async def explain(self, job_id: str) -> str:
        """Return in words why a job waits or is stuck; empty if the batch system does not say.

        :raises StatusError: the batch system did not answer.
        """
        if not self._sound([job_id]):
            return ""
        return self.batch.parse_explain(await self._run(self.batch.explain(job_id)), job_id)

    async def why_put_back(self, job_id: str) -> str:
        """Return in words why a job's run before this one ended; empty if accounting does not know (yet).

        :raises StatusError: accounting did not answer.
        """
        argv = self.batch.put_back(job_id) if self._sound([job_id]) else ()
        return self.batch.parse_put_back(await self._run(argv), job_id) if argv else ""

    # --- cancelling

    async def cancel(self, ids: Iterable[str], *, timeout: float = 30.0) -> None:
        """Cancel jobs and see to it that they are gone, asking again where that takes long.

        :raises CancelError: some are still there after ``timeout`` seconds, or the batch system refuses; the
            text names them. The others are gone.
        """
        left = list(dict.fromkeys(self._sound(ids)))
        states: dict[str, JobStatus] = {}
        until = time.monotonic() + timeout
        pause, ask_at, words = _LOOK_SECONDS[0], time.monotonic(), ""
        while left:
            try:
                if time.monotonic() >= ask_at:
                    ask_at = time.monotonic() + _AGAIN_SECONDS
                    words = await self._cancel_once(left)
                states = await self.poll(left)
                left = [job_id for job_id in left if states[job_id].state not in _GONE]
            except CommandError as error:  # the batch system is down: keep trying
                words = str(error)
            if left and time.monotonic() >= until:
                raise self._leftovers(
                    left, words or _why_still_there([states[job_id] for job_id in left], timeout)
                )
            if left:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LOOK_SECONDS[1])

    def _leftovers(self, left: Sequence[str], words: str) -> CancelError:
        more = f" and {len(left) - 20} more" if len(left) > 20 else ""
        return CancelError(
            f"{len(left)} job{'s' if len(left) > 1 else ''} could not be cancelled: {', '.join(left[:20])}{more}",
            argv=self.batch.cancel(left[:20]),
            output=words,
            hint="Their workers end by themselves when they find no head; the command above cancels them.",
        )

    async def _cancel_once(self, ids: Sequence[str]) -> str:
        """Ask for the end of these jobs; return the words in which some were refused."""
        refused: dict[str, str] = {}
        for some in _pieces(ids):
            refused.update(self.batch.parse_cancel(await self._run(self.batch.cancel(some)), some))
        return "\n".join(dict.fromkeys(refused.values()))

    def _sound(self, ids: Iterable[str]) -> list[str]:
        """Return those that are job ids: no other text of a file or a peer may stand in a command."""
        sound = []
        for job_id in ids:
            if self.batch.is_job_id(job_id):
                sound.append(job_id)
            else:
                log.warning("%r is no job id of %s, and is left out of all commands", job_id, self.batch.title)
        return sound

    async def _run(self, argv: Sequence[str]) -> Completed:
        return await self._transport.run(argv, timeout=_COMMAND_SECONDS)


def _was_killed(done: Completed) -> bool:
    return done.exit_code is not None and (done.exit_code < 0 or done.exit_code in _KILLED)


def _why_still_there(left: Sequence[JobStatus], seconds: float) -> str:
    """Say what becomes of jobs that were cancelled and are still listed."""
    ending = [status for status in left if status.state is JobState.ENDING]
    if not ending:
        return f"they are still there {seconds:g} s later"
    hosts = ", ".join(sorted({status.host for status in ending if status.host}))
    where = f" on {hosts}, which may be down" if hosts else ""
    return (
        f"the cancellation was taken, and {seconds:g} s later {len(ending)} of them are still being ended{where}. "
        "They go when their node answers again, or when an administrator removes them by force"
    )


def _pieces(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _IDS_PER_COMMAND):
        yield ids[start : start + _IDS_PER_COMMAND]
