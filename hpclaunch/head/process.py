"""The head: the process that holds the scheduler and the job manager of one cluster.

Owns: the run directory (all in it), the engine, the jobs. Its life:

1. It reads ``head.json``, makes credentials, listens, writes ``cluster.json`` and prints ``ready``.
2. It serves until one of: a ``close`` request, SIGTERM or SIGINT, or, if it is *attached*, the end of its owner.
   The owner's end is seen in two ways, for each alone can be fooled: end-of-file on standard input (a forked
   child of the owner may still hold the pipe) and the owner's process descriptor. First of all it cancels what
   heads have left that died together with their owners (``head/sweep.py``).
3. It tells workers to end, cancels its jobs and sees to it that they are gone, removes the run directory, ends.

It has a session of its own, so that Ctrl-C in the owner's terminal does not reach it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from hpclaunch import batch, clocks, file_errors, heartbeat, marks, process_limits, rundir
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.comm.loop_errors import on_loop_error
from hpclaunch.config.schema import MEMORY_KEYS, JobConfig
from hpclaunch.engines import base as engines
from hpclaunch.errors import HPCLaunchError, JobsFailedError, UserError
from hpclaunch.head import options as head_options
from hpclaunch.head.control import Control
from hpclaunch.head.groups import Groups
from hpclaunch.head.jobs import JobManager
from hpclaunch.head.launch import EXIT_JOBS_LEFT
from hpclaunch.head.options import HeadOptions
from hpclaunch.head.ranks import Ranks, is_rank
from hpclaunch.head.sweep import sweep_others
from hpclaunch.jobs.adaptive import LogRow, Policy
from hpclaunch.jobs.commands import RetireWorkers
from hpclaunch.transport.local import LocalTransport

log = logging.getLogger("hpclaunch.head")

_LOG_BYTES = 8 << 20


class Head:
    """One cluster's head; see the module's text."""

    def __init__(self, directory: Path, options: HeadOptions) -> None:
        self.directory = directory
        self.options = options
        self.engine: engines.RunningEngine
        self._control = Control(self)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing: asyncio.Task[None] | None = None
        self._close_error: HPCLaunchError | None = None
        config = options.config
        if options.ranks is None:
            self._codec = batch.by_name(config.batch_system, config, directory)
        self.jobs = self._make_jobs()

    def _make_jobs(self) -> Groups | Ranks:
        config = self.options.config
        if self.options.ranks is not None:
            return Ranks(self.options.ranks, config.processes, on_failure=self._on_failure)
        return Groups(config, self._make_manager, lambda: self.engine.demand())

    def _make_manager(self, group: str, config: JobConfig) -> JobManager:
        codec = batch.by_name(config.batch_system, config, self.directory)
        return JobManager(
            config,
            BatchQueue(codec, LocalTransport(umask=self.options.umask)),
            rundir.script_path(self.directory, group),
            self.directory,
            retire=self._retire,
            idle_jobs=self._idle_jobs,
            on_failure=self._on_failure,
        )

    # --- life

    async def run(self) -> int:
        """Serve until the end; return the exit code."""
        asyncio.get_running_loop().set_exception_handler(on_loop_error)
        await self._start()
        manager = asyncio.create_task(self.jobs.run())
        manager.add_done_callback(self._on_manager_ended)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        for number in (signal.SIGUSR1, signal.SIGUSR2):  # notices of batch systems to all processes of a job
            loop.add_signal_handler(number, lambda: None)
        with contextlib.suppress(BrokenPipeError):  # the owner has ended; that is seen in a moment
            print("ready", flush=True)
        self._watch_owner()
        sweeper = asyncio.create_task(self._sweep_others())
        await self._ended
        sweeper.cancel()
        manager.cancel()
        await self.engine.close("the cluster was closed")
        await asyncio.sleep(0.05)  # let the last answers out
        self._heart.stop()
        if self._close_error is None:
            if self.options.config.batch_system == "local":
                await asyncio.to_thread(_remove_scratch, self.options.config)
            rundir.remove(self.directory)
        return 0 if self._close_error is None else EXIT_JOBS_LEFT

    async def _start(self) -> None:
        options, config = self.options, self.options.config
        wanted = config.scheduler_options
        engine = engines.by_name(config.engine)
        hooks = engines.HeadHooks(
            self._on_worker_joined,
            self._on_worker_left,
            self._control.answer,
            self._on_client_left,
            self._on_job_ends,
            lambda: self.jobs.coming(),
            self._on_job_left,
            self._on_clock_told,
            self._is_job_id,
            self._start_of,
        )
        self.engine = await engine.start(
            self.directory,
            options.cluster_id,
            config,
            options.hosts,
            hooks,
            port=int(wanted.get("port") or 0),
            python_path=options.python_path,
            allowed_failures=3 if wanted.get("allowed_failures") is None else int(wanted["allowed_failures"]),
        )
        facts = {
            "id": options.cluster_id,
            "name": options.name,
            "section": config.section,
            "batch_system": config.batch_system,
            "addresses": self.engine.addresses,
            "security": config.security,
            "pid": os.getpid(),
            "process_start": rundir.process_start(os.getpid()),
            "host": socket.gethostname(),
            "started": time.time(),
            "owner_pid": options.owner_pid,
            "owner_start": options.owner_start,
            "beat_seconds": heartbeat.beat_seconds(config.death_timeout),
            "result_memory": config.result_memory,
            "memory": {level: getattr(config, f"memory_{level}") for level in MEMORY_KEYS},
        }
        rundir.write_file(self.directory / "cluster.json", json.dumps(facts, indent=1).encode())
        self._heart = heartbeat.Heart(
            self.directory / "cluster.json", heartbeat.beat_seconds(config.death_timeout)
        )
        log.info("cluster %s at %s", options.cluster_id, ", ".join(self.engine.addresses))

    def _watch_owner(self) -> None:
        """End when the owner does."""
        pid = self.options.owner_pid
        if not pid:
            return
        loop = asyncio.get_running_loop()
        os.set_blocking(0, False)
        loop.add_reader(0, self._on_stdin)
        try:
            self._owner_fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self.close("its owner has ended")
            return
        except OSError:  # a kernel without process descriptors: the pipe is all there is
            return
        if rundir.process_start(pid) != self.options.owner_start:  # a later process has its number
            self.close("its owner has ended")
            return
        loop.add_reader(self._owner_fd, self._on_owner_ended)

    def _on_stdin(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if os.read(0, 4096):
                return
            asyncio.get_running_loop().remove_reader(0)
            self.close("its owner has ended")

    def _on_owner_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._owner_fd)
        self.close("its owner has ended")

    async def _sweep_others(self) -> None:
        try:
            await sweep_others()
        except Exception:  # what others have left is no reason to end
            log.exception("what dead clusters have left could not be swept up")

    def _on_manager_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and self._closing is None:
            log.error("the job manager stopped", exc_info=task.exception())
            self.close("the job manager stopped")

    def _on_signal(self, number: signal.Signals) -> None:
        if self.options.ranks is not None and rundir.process_start(self.options.owner_pid):
            return  # the head's rank has heard it too, and the script ends the cluster in order
        self.close(f"the head was sent {number.name}")

    def close(self, reason: str) -> None:
        """Begin the end, once."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(reason))

    async def _close(self, reason: str) -> None:
        log.info("closing: %s", reason)
        try:
            await self.close_all(reason)
        finally:
            self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # --- Controlled

    @property
    def wanted_workers(self) -> int:
        """How many workers there are to be."""
        return self.jobs.wanted_workers

    @property
    def failure(self) -> JobsFailedError | None:
        """Why no more jobs are submitted; None while they are."""
        return self.jobs.failure

    async def scale(self, jobs: int, group: str = "") -> None:
        """Keep this many jobs of a group from now on; ends its adaptive scaling."""
        self.engine.notify(None)
        await self.jobs.scale(jobs, group)

    def adapt(self, policy: Policy, group: str = "") -> None:
        """Scale a group by the work there is from now on."""
        self._groups().adapt(policy, group)
        self.engine.notify(None)

    def adapt_log(self, group: str = "") -> list[LogRow]:
        """Return what adaptive scaling has decided, the oldest first."""
        return self._groups().adapt_log(group)

    def group_configs(self) -> dict[str, JobConfig]:
        """Return the configurations of the groups that were added, by name."""
        return {} if isinstance(self.jobs, Ranks) else self.jobs.configs()

    def add_group(self, name: str, config: JobConfig) -> None:
        """Add one more kind of job, whose script is there."""
        self._groups().add(name, config)

    def _groups(self) -> Groups:
        if isinstance(self.jobs, Ranks):
            raise UserError("the ranks of a parallel job neither grow nor shrink, and have no groups")
        return self.jobs

    def job_table(self) -> list[dict[str, Any]]:
        """Return the jobs and their stories, as plain values."""
        rows: list[dict[str, Any]] = msgspec.to_builtins(self.jobs.table())
        return rows

    def job_notes(self) -> list[str]:
        """Return what is to be said of the jobs as a whole, such as limits that are reached."""
        return self.jobs.notes()

    def job_logs(self, job_id: str | None) -> dict[str, str]:
        """Return the output of one job, or of all."""
        return self.jobs.logs(job_id)

    async def close_all(self, reason: str) -> None:
        """End the workers, cancel the jobs and see to it that they are gone; then let the head end.

        :raises CancelError: jobs are left; they are named, and the run directory is kept.
        """
        self.engine.stop_jobs(reason)
        try:
            await self.jobs.close()
        except HPCLaunchError as error:
            log.error("%s", error)
            self._close_error = error
            raise
        finally:
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, self._end)

    # --- hooks

    def _is_job_id(self, job_id: str) -> bool:
        """Say whether a worker may come with this id: as a rank, or as a job of the batch system's."""
        return is_rank(job_id) or (self.options.ranks is None and self._codec.is_job_id(job_id))

    def _start_of(self, job_id: str) -> object:
        """Return what tells a job's latest start from those before; a rank starts once."""
        return self.jobs.start_of(job_id) if isinstance(self.jobs, Groups) and not is_rank(job_id) else ""

    def _on_worker_joined(self, job_id: str, worker: str, host: str, head_address: str) -> None:
        if self.options.ranks is not None or not is_rank(job_id):  # ranks may come as guests: they are no jobs
            self.jobs.worker_joined(job_id, worker, host, head_address)

    def _on_worker_left(self, job_id: str, worker: str, reason: str) -> None:
        if self.options.ranks is not None or not is_rank(job_id):
            self.jobs.worker_left(job_id, worker, reason)

    async def _retire(self, command: RetireWorkers) -> None:
        await self.engine.retire_job(
            command.id, command.reason, seconds=command.seconds, patience=command.patience
        )

    def _on_job_ends(self, job_id: str, seconds_left: float, why: str) -> None:
        if isinstance(self.jobs, Groups):
            self.jobs.job_ends(job_id, seconds_left, why)

    def _on_job_left(self, job_id: str, reason: str) -> None:
        if isinstance(self.jobs, Ranks):
            self.jobs.rank_left(job_id, reason)

    def _on_clock_told(self, job_id: str, host: str, ahead: float) -> None:
        if text := clocks.note_of(host, ahead):
            log.warning("%s", text)
        if isinstance(self.jobs, Groups):
            self.jobs.clock_told(job_id, host, ahead)

    def _on_client_left(self, name: str) -> None:
        if name == self.options.script_client:
            self.close("the script has ended")

    def _idle_jobs(self) -> list[str]:
        """Return the ids of jobs with workers, the cheapest to lose first."""
        load = self.engine.job_load()
        return sorted(load, key=lambda job: (load[job][0] > 0, load[job][1], load[job][0]))

    def _on_failure(self, error: JobsFailedError) -> None:
        log.error("%s", error)
        self.engine.notify(error)


def main(argv: list[str] | None = None) -> int:
    """Be a head; return the exit code. What goes wrong before ``ready`` is printed on standard output."""
    parser = argparse.ArgumentParser(prog="python -m hpclaunch.head")
    parser.add_argument("--directory", type=Path, help="the cluster's run directory")
    parser.add_argument("--ordered", action="store_true", help="read the directory from standard input")
    given = parser.parse_args(argv)
    if given.ordered == bool(given.directory):
        parser.error("one of --directory and --ordered is needed")
    directory = _ordered_directory() if given.ordered else given.directory
    if directory is None:
        return 0
    with contextlib.suppress(PermissionError):
        os.setsid()  # already a leader if we were started as one
    os.umask(0o077)
    process_limits.raise_open_files()
    process_limits.no_core_dumps()
    _log_to(directory / "head.log")
    gc.set_threshold(50_000, 20, 50)  # a million tasks are not garbage
    try:
        options = head_options.read(directory)
        os.chdir(options.work_directory)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(directory, options))
    except (HPCLaunchError, OSError) as error:
        why = file_errors.told(error) if isinstance(error, OSError) else str(error)
        log.error("%s", why)
        try:
            print(f"failed: {why}", flush=True)
        except BrokenPipeError:  # no process is left that would remove the directory, and keys are in it
            rundir.remove(directory)
        return 1


def _ordered_directory() -> Path | None:
    """Import what a head needs, then wait to be told the directory on standard input; None if that ends."""
    import hpclaunch.comm.tls
    import hpclaunch.engines.embedded

    hpclaunch.comm.tls.warm_up()
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)  # nothing behind the line may be taken: it is the owner's pipe
        if not piece:
            return None
        line += piece
    directory = Path(os.fsdecode(line[:-1]))
    log = os.open(directory / "head.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    os.close(log)
    return directory


def _remove_scratch(config: JobConfig) -> None:
    """Remove what workers of this host have left whose supervisor was killed."""
    chosen = config.local_directory
    own = Path(os.path.expandvars(os.path.expanduser(chosen))) if chosen else marks.scratch_directory()
    marks.remove_dead(own)


async def _run(directory: Path, options: HeadOptions) -> int:
    return await Head(directory, options).run()


def _log_to(path: Path) -> None:
    """Log to a file of bounded size; Python's own words go there too."""
    from logging.handlers import RotatingFileHandler

    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
