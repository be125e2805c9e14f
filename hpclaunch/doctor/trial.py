"""One small job, followed to its end: the part of `hpclaunch doctor` that submits something, and takes it back.

Whatever ends it (an answer, the time limit, Ctrl-C), the job is cancelled and its files are removed. A submission
that is under way is waited for first, since a job whose number is not known can't be cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from hpclaunch import __version__, batch, rundir, scripts
from hpclaunch.batch.base import JobState, JobStatus
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.config.schema import JobConfig
from hpclaunch.doctor import probe
from hpclaunch.doctor.findings import Finding, Grade, Reached, Report, of_report, of_way_to_node
from hpclaunch.doctor.login import has_answer
from hpclaunch.errors import CommandError, StatusError, SubmitError
from hpclaunch.head.jobfiles import RunFiles
from hpclaunch.jobs import reasons
from hpclaunch.jobs.reasons import Evidence, Terms
from hpclaunch.transport.base import Transport

#: What the trial's job asks for, as far as the user's own directives let it.
_MEMORY, _SECONDS = 1_000_000_000, 600
#: Seconds between two looks at files, and at the queue.
_LOOK_SECONDS, _POLL_SECONDS = 0.2, 1.0
#: Seconds in the queue before the batch system is asked why; asking again takes as long.
_EXPLAIN_SECONDS = 3.0
#: Seconds that a started job may take over its report, beyond the wait for addresses that do not answer.
_REPORT_SECONDS = 120.0
#: Seconds for accounting to know how a job ended.
_ACCOUNTING_SECONDS = 10.0
_CONNECT_SECONDS = 5.0


def small(config: JobConfig) -> JobConfig:
    """Return the configuration of a small job in the same queue, with the same directives and Python."""
    return msgspec.structs.replace(
        config,
        name="hpclaunch-doctor",
        cores=1,
        processes=1,
        worker_threads=None,
        memory=min(config.memory, _MEMORY),
        walltime=min(config.walltime or _SECONDS, _SECONDS),
        drain_margin=None,
        log_directory=None,
        job_cpu=None,
        job_mem=None,
        groups={},
        worker_extra_args=(),
    )


class _Seen(NamedTuple):
    """How far the job has come."""

    status: JobStatus
    why: str = ""  # it waits


class Trial:
    """Runs the job. ``say`` gets a line for the person who waits.

    :param config: as the user has it; the trial's own is made from it.
    :param seconds: how long the job may take to start.
    :param addresses: of this host, as the head would offer them.
    """

    def __init__(
        self,
        config: JobConfig,
        directory: Path,
        transport: Transport,
        *,
        seconds: float,
        addresses: Sequence[str],
        interfaces: dict[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._config = small(config)
        self._wanted = config
        self._directory = directory
        self._seconds = seconds
        self._addresses = addresses
        self._interfaces = interfaces
        self._say = say
        self._queue = BatchQueue(batch.by_name(config.batch_system, self._config, directory), transport)
        self._files = RunFiles(directory / "jobs", directory / "logs")
        self._token = secrets.token_hex(16)
        self._submitted = 0.0

    async def run(self) -> AsyncGenerator[Finding, None]:
        """Give what is found; nothing of the job is left when this ends, however it does."""
        servers = await self._listen()
        submission = asyncio.ensure_future(self._submit())
        try:
            try:
                job_id = await asyncio.shield(submission)
            except SubmitError as error:
                yield _refused(error)
                return
            async for finding in self._follow(job_id):
                yield finding
        finally:
            for server in servers:
                server.close()
            await asyncio.shield(self._take_back(submission))

    # --- submitting and cancelling

    async def _submit(self) -> str:
        script = self._directory / "job.sh"
        shutil.copyfile(probe.__file__, self._directory / "probe.py")
        ports = [f"[{one}]:{self._port}" if ":" in one else f"{one}:{self._port}" for one in self._addresses]
        ask = {"addresses": ports, "token": self._token}
        rundir.write_file(self._directory / "ask.json", json.dumps(ask).encode())
        text = scripts.render(
            self._config,
            cluster_id=self._directory.name,
            directory=self._directory,
            work_directory=Path.cwd(),
            worker_command=self._command(),
        )
        rundir.write_file(script, text.encode(), mode=0o700)
        self._submitted = time.monotonic()
        (job_id,) = await self._queue.submit(script, 1)
        self._say(f"job {job_id} is submitted")
        return job_id

    def _command(self) -> list[str]:
        command: list[str] = [*scripts.python_words(self._config), str(self._directory / "probe.py")]
        command += [str(self._directory)]
        if self._config.local_directory is not None:
            command += ["--local-directory", scripts.on_node(self._config.local_directory)]
        if self._wanted.log_directory is not None:
            command += ["--log-directory", str(scripts.log_directory(self._wanted, self._directory))]
        return command

    async def _take_back(self, submission: asyncio.Future[str]) -> None:
        try:
            job_id = await submission
        except CommandError:
            return
        states = await self._poll(job_id)
        if states.state not in (JobState.ENDED, JobState.UNKNOWN) or not self._ticket(job_id, "exit"):
            with contextlib.suppress(StatusError):
                await self._queue.cancel([job_id])
        await self._wait_for_end(job_id)

    async def _wait_for_end(self, job_id: str) -> None:
        """Wait until the batch system has done with a job that has ended: its files are about to go."""
        for _ in range(50):
            if (await self._poll(job_id)).state in (JobState.ENDED, JobState.UNKNOWN):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _poll(self, job_id: str) -> JobStatus:
        try:
            return (await self._queue.poll([job_id]))[job_id]
        except StatusError:
            return JobStatus(job_id, JobState.QUEUED)

    # --- following

    async def _follow(self, job_id: str) -> AsyncIterator[Finding]:
        seen = await self._wait(job_id)
        host = self._host(job_id) or seen.status.host
        if has_answer(self._directory / "report.json"):
            waited = time.monotonic() - self._submitted
            yield Finding("job", Grade.OK, f"{job_id} ran on {host}; its report was here after {waited:.1f} s")
            yield Finding("shared directory", Grade.OK, f"{host} writes to {self._directory.parent}")
            async for finding in self._examine():
                yield finding
        elif seen.status.state is JobState.STUCK:
            yield await self._stuck(job_id, seen)
        elif self._ticket(job_id, "start") or seen.status.state in (JobState.ENDED, JobState.UNKNOWN):
            yield await self._died(job_id, host)
        elif seen.status.state is JobState.RUNNING:
            text = f"job {job_id} runs on {host}, and nothing of it is seen in {self._directory.parent}"
            yield _unshared(text)
        else:
            yield self._never_started(job_id, seen)

    async def _wait(self, job_id: str) -> _Seen:
        """Wait for the report, for an end, or for the time to be up."""
        seen = _Seen(JobStatus(job_id, JobState.QUEUED))
        until, said = self._submitted + self._seconds, ""
        next_poll, next_why, has_started = 0.0, self._submitted + _EXPLAIN_SECONDS, False
        while time.monotonic() < until and not has_answer(self._directory / "report.json"):
            await asyncio.sleep(_LOOK_SECONDS)
            if not has_started and self._ticket(job_id, "start"):
                has_started, until = True, time.monotonic() + _REPORT_SECONDS + 5 * len(self._addresses)
            if time.monotonic() < next_poll:
                continue
            next_poll = time.monotonic() + _POLL_SECONDS
            seen = _Seen(await self._poll(job_id), seen.why)
            if time.monotonic() > next_why and seen.status.state is JobState.QUEUED:
                next_why = time.monotonic() + _EXPLAIN_SECONDS
                with contextlib.suppress(StatusError):
                    seen = _Seen(seen.status, await self._queue.explain(job_id) or seen.status.reason)
            words = f"job {job_id} is {seen.status.state}" + (f": {seen.why}" if seen.why else "")
            if words != said and not has_started:
                self._say(words)
                said = words
            is_over = seen.status.state in (JobState.ENDED, JobState.STUCK) or self._ticket(job_id, "exit")
            if is_over or "never run" in seen.why:
                await asyncio.sleep(_LOOK_SECONDS)
                break
        return seen

    def _ticket(self, job_id: str, kind: str) -> bool:
        return has_answer(self._directory / "jobs" / f"{job_id}.{kind}")

    def _host(self, job_id: str) -> str:
        found = self._files.look().get(job_id)
        return found.host if found is not None else ""

    # --- what became of it

    async def _examine(self) -> AsyncIterator[Finding]:
        report = msgspec.json.decode((self._directory / "report.json").read_bytes(), type=Report)
        memory = self._config.memory
        asks = self._wanted.batch_system != "sge" or self._wanted.memory_resource is not None
        if not asks or self._wanted.resource_spec is not None:
            memory = self._wanted.memory // max(1, self._wanted.cores)  # of the one slot that it has
        for finding in of_report(
            report, self._config, memory=memory, own_version=__version__, heads=self._interfaces
        ):
            yield finding
        tried = await asyncio.gather(
            *(self._reach(f"{address}:{report.port}") for address in report.addresses.values())
        )
        remote = [one for one in tried if not one.address.startswith("127.")] or list(tried)
        yield of_way_to_node(remote, report.host)
        (self._directory / "seen").touch()

    async def _died(self, job_id: str, host: str) -> Finding:
        """Say why a job ended without a report."""
        usage = None
        until = time.monotonic() + _ACCOUNTING_SECONDS
        while usage is None and time.monotonic() < until:
            with contextlib.suppress(StatusError):
                usage = (await self._queue.usage([job_id])).get(job_id)
            await asyncio.sleep(_LOOK_SECONDS)
        files = self._files.look().get(job_id)
        log = self._files.log_tail(job_id)
        status = await self._poll(job_id)
        has_started = self._ticket(job_id, "start")
        evidence = Evidence(
            exit_code=files.exit_code if files else None,
            listed=status.reason if status.state is JobState.ENDED else None,
            usage=usage,
            has_started=True,
        )
        config = self._config
        title = self._queue.batch.title
        terms = Terms(title=title, walltime=config.walltime, memory=config.memory, python=config.python)
        ending = reasons.why_ended(evidence, terms)
        where = f" on {host or (usage.host if usage else '')}".rstrip(" on") if not host else f" on {host}"
        if not has_started:
            return _unshared(f"job {job_id} ended{where} and left nothing there: {ending.text}", self._directory)
        return self._died_in(job_id, where, ending.text, log, reasons.hint(log, terms))

    def _died_in(self, job_id: str, where: str, reason: str, log: str, hint: str) -> Finding:
        lines = reasons.tail(log, 3)
        quoted = " | ".join(line.strip() for line in lines) or "its log is empty"
        text = f"job {job_id} ended{where}: {reason}. {quoted}"
        if "job-script-prologue:" in log:
            told = next(line for line in reversed(log.splitlines()) if "job-script-prologue:" in line)
            return Finding("prologue", Grade.BAD, told.partition("hpclaunch: ")[2], "Mend that line.")
        if hint or "127" in reason or "126" in reason:
            advice = hint or f"The key python names {self._config.python}: is it there on the nodes?"
            return Finding("Python in the job", Grade.BAD, text, advice, {"python": "/path/to/env/bin/python"})
        return Finding("job", Grade.BAD, text)

    async def _stuck(self, job_id: str, seen: _Seen) -> Finding:
        why = seen.status.reason
        with contextlib.suppress(StatusError):
            why = await self._queue.explain(job_id) or why
        if str(self._directory) in why or "can't open output file" in why:
            return _unshared(f"{self._queue.batch.title} can't start job {job_id}: {why}", self._directory)
        return Finding("job", Grade.BAD, f"{job_id} is stuck: {why}")

    def _never_started(self, job_id: str, seen: _Seen) -> Finding:
        waited = time.monotonic() - self._submitted
        why = seen.why or seen.status.reason or "the batch system gives no reason"
        text = f"{job_id} had not started after {waited:.0f} s: {why}"
        advice = (
            "Its directives or the queue may be wrong, or the cluster is full: try again with a longer --timeout."
        )
        if "never run" in why:
            advice = "Change what your configuration asks for."
        return Finding("job", Grade.BAD, text, advice)

    # --- the network

    async def _listen(self) -> list[asyncio.Server]:
        """Listen as a head would, on one port of all its addresses."""
        servers: list[asyncio.Server] = []
        self._port = 0
        for address in self._addresses:
            server = await asyncio.start_server(self._answer, address, self._port)
            self._port = self._port or server.sockets[0].getsockname()[1]
            servers.append(server)
        return servers

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Tell the time to who shows the token."""
        with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_CONNECT_SECONDS):
                said = await reader.readexactly(len(self._token) + 1)
                if said.strip() == self._token.encode():
                    writer.write(f"{time.time():.6f}\n".encode())
                    await writer.drain()
        writer.close()

    async def _reach(self, address: str) -> Reached:
        host, _, port = address.rpartition(":")
        began, error = time.monotonic(), ""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(self._token.encode() + b"\n")
                float(await reader.readline())
                writer.close()
        except TimeoutError:
            error = "no answer"
        except (OSError, ValueError) as failure:
            error = getattr(failure, "strerror", None) or "another program answers there"
        return Reached(address, error, (time.monotonic() - began) * 1000)


def _unshared(text: str, directory: Path | None = None) -> Finding:
    where = f" {directory.parent}" if directory else ""
    return Finding(
        "shared directory",
        Grade.BAD,
        text,
        f"The nodes do not share{where or ' it'}, or may not write there. Name a directory that they do.",
        {"shared-temp-directory": "/path/that/nodes/share"},
    )


def _refused(error: SubmitError) -> Finding:
    words = " ".join(error.output.split()) or error.what
    is_queue = any(word in words.lower() for word in ("queue", "partition"))
    return Finding("queue" if is_queue else "job", Grade.BAD, f"it was not taken: {words}", error.hint)
