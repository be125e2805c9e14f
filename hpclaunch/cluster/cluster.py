"""Clusters as users hold them: ``SGECluster``, ``SLURMCluster``, ``LocalCluster``, and any site's own section.

A cluster object is a handle. Making one reads the configuration, renders the job script (so that a bad value is
found now) and starts the head, to which everything else is a request. The head ends with the object: at
:meth:`~JobQueueCluster.close`, when Python lets go of it, or when this process ends in whatever way.

The arguments are those of dask-jobqueue's classes; they and the configuration's keys are the same names.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hpclaunch import rundir
from hpclaunch.client.session import HeadSession
from hpclaunch.client.sync import LoopThread, loop_thread
from hpclaunch.cluster.table import JobTable, count_states
from hpclaunch.config.layers import load
from hpclaunch.config.schema import JobConfig
from hpclaunch.config.units import parse_bytes
from hpclaunch.errors import ConfigError, HeadError, HPCLaunchError, PeerError
from hpclaunch.head.launch import EXIT_JOBS_LEFT, HeadProcess, log_tail, prepare

_entered = threading.local()

#: Constructor arguments that go into scheduler_options.
_SCHEDULER_ARGUMENTS = ("host", "dashboard_address")


class JobQueueCluster:
    """A cluster of workers that run as jobs of a batch system.

    :param config_name: the section below ``jobqueue:`` to use, such as a site's own.
    :param name: the cluster's name, by which it is found; the jobs' name in the batch system is ``job_name``.
    :param asynchronous: not in this version; only False.
    :param arguments: any configuration key (``_`` for ``-``), in today's or dask-jobqueue's older spelling.
    :raises ConfigError: a value can't be used; the text says which, where it came from and what to write.
    :raises HeadError: the head could not be started.
    """

    config_name: str | None = None

    def __init__(
        self,
        *,
        config_name: str | None = None,
        name: str | None = None,
        asynchronous: bool = False,
        **arguments: Any,
    ) -> None:
        self._status = "created"
        section = config_name or self.config_name
        if section is None:
            raise ConfigError("say which section to use: JobQueueCluster(config_name=...)", key="config-name")
        if asynchronous:
            raise ConfigError("asynchronous=True is not in this version; leave it out", key="asynchronous")
        self.config: JobConfig = load(section, _with_scheduler_options(arguments)).job
        self.name = name or self.config.name
        self._thread: LoopThread = loop_thread()
        self._session: HeadSession | None = None
        self._error: HPCLaunchError | None = None
        self._finalizer: Callable[[], Any]
        self._begin()
        if self.config.n_workers:
            try:
                self.scale(self.config.n_workers)
            except BaseException:
                self.close()
                raise

    def _begin(self) -> None:
        """Prepare the run directory and start the head."""
        prepared = prepare(self.config, self.name, python_path=user_python_path(), owner_pid=os.getpid())
        self.directory, self._script = prepared.directory, prepared.script
        try:
            self._head = HeadProcess(prepared.command, self.directory, attached=True)
        except BaseException:
            rundir.remove(self.directory)
            raise
        self._finalizer = weakref.finalize(self, _let_go, self._head, self.directory)
        self.facts: dict[str, Any] = rundir.read_facts(self.directory)
        self._session = self._thread.run(self.open_session(name=f"cluster-{os.getpid()}"))
        self._session.listen(self._on_notice)
        self._status = "running"

    # --- size

    def scale(
        self,
        n: int | None = None,
        *,
        jobs: int | None = None,
        cores: int | None = None,
        memory: str | int | None = None,
    ) -> None:
        """Have this many workers (``n``), or jobs, cores or bytes of memory in all; rounded up to whole jobs.

        The jobs have been submitted when this returns. The size is kept: a job that ends by its walltime is
        replaced, one that fails is too, after a pause, and repeated early deaths end in a JobsFailedError.

        :raises SubmitError: the batch system did not take the jobs; the text has its words.
        """
        self._ask("scale", jobs=self._jobs_for(n, jobs, cores, memory))

    def _jobs_for(self, n: int | None, jobs: int | None, cores: int | None, memory: str | int | None) -> int:
        given = {"n": n, "jobs": jobs, "cores": cores, "memory": memory}
        wanted = {key: value for key, value in given.items() if value is not None}
        if len(wanted) != 1:
            said = " and ".join(wanted) or "none of them"
            raise ValueError(f"scale takes one of n, jobs=, cores= and memory=, not {said}")
        ((what, value),) = wanted.items()
        size = parse_bytes(value) if what == "memory" else value
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"scale({what}={value!r}): a whole number of 0 or more is needed")
        per_job = {
            "n": self.config.processes,
            "jobs": 1,
            "cores": self.config.cores,
            "memory": self.config.memory,
        }
        return math.ceil(size / per_job[what])

    def wait_for_workers(self, n_workers: int, timeout: float | None = None) -> None:
        """Wait until that many workers are connected.

        :param timeout: seconds; None is for ever.
        :raises JobsFailedError: no more jobs are submitted since they die early; the text says why.
        :raises TimeoutError: the workers were not there in time; the text says where each job stands.
        """
        self._ask("wait_for_workers", n_workers=n_workers, timeout=timeout)

    # --- looking

    def job_script(self) -> str:
        """Return the job script, byte for byte as it is submitted."""
        return self._script

    @property
    def job_header(self) -> str:
        """The directives of the job script."""
        return "\n".join(line for line in self._script.splitlines() if line.startswith(("#$", "#SBATCH")))

    def jobs(self) -> JobTable:
        """Return this cluster's jobs with the story of each; prints as a table."""
        return JobTable(self._ask("jobs"))

    def logs(self, job_id: str | None = None) -> dict[str, str]:
        """Return the output of one job, or of all, by job id."""
        return dict(self._ask("logs", job_id=job_id))

    def workers(self) -> list[dict[str, Any]]:
        """Return the connected workers: name, job, host, threads, memory, and the address that they reached."""
        return list(self._ask("info")["worker_list"])

    @property
    def scheduler_address(self) -> str:
        """The head's first address, ``tls://host:port``."""
        return f"{'tls' if self.config.security else 'tcp'}://{self.facts['addresses'][0]}"

    @property
    def status(self) -> str:
        """ "running", "failed" or "closed"."""
        return "failed" if self._status == "running" and self._error is not None else self._status

    @property
    def dashboard_link(self) -> None:
        """The dashboard's address; None: there is no dashboard in this version."""
        return

    # --- the head

    async def open_session(self, *, name: str, on_messages: Any = None, on_lost: Any = None) -> HeadSession:
        """Open one more connection to the head; what Client does."""
        return await HeadSession.open(self.directory, name=name, on_messages=on_messages, on_lost=on_lost)

    def _ask(self, method: str, **params: Any) -> Any:
        if self._session is None or self._status == "closed":
            raise HeadError(f"cluster {self.name} is closed")
        try:
            return self._thread.run(self._session.request(method, **params))
        except PeerError as error:
            raise self._head_gone(error) from None

    def _head_gone(self, error: PeerError) -> HeadError:
        self._head.wait(2.0)
        code = self._head.exit_code()
        what = f"ended with exit code {code}" if code is not None else f"does not answer ({error})"
        return HeadError(
            f"the head of cluster {self.name} {what}. Its workers end by themselves within "
            f"{self.config.death_timeout:g} s. The end of its log:\n{log_tail(self.directory)}"
        )

    def _on_notice(self, error: HPCLaunchError) -> None:
        self._error = error

    # --- the end

    def close(self) -> None:
        """Cancel all jobs, see to it that they are gone, and end the head. Again is no error.

        :raises CancelError: jobs are left, which are named; they end by themselves after death-timeout.
        """
        if self._status == "closed" or self._session is None:
            return
        session, self._session = self._session, None
        self._status = "closed"
        try:
            self._thread.run(session.request("close"))
        except PeerError:
            pass  # it is gone already, and its workers with it; what is left is swept up below
        finally:
            self._thread.run(_close_session(session))
            self._finalizer()

    def __enter__(self) -> Self:
        _stack().append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self in _stack():
            _stack().remove(self)
        self.close()

    def __repr__(self) -> str:
        config = self.config
        try:
            jobs = count_states(self.jobs()) if self._status == "running" else self._status
        except HPCLaunchError:
            jobs = "head gone"
        each = f"{config.processes} x {config.threads} threads, {config.memory / 1e9:.3g} GB per job"
        mode = "TLS" if self.facts.get("security") else "no TLS"
        return f"<{type(self).__name__} {self.name!r}: {jobs}; {each}; {self.facts['addresses'][0]}, {mode}>"

    def _repr_html_(self) -> str:
        from html import escape

        table = self.jobs()._repr_html_() if self._status == "running" else ""
        return f"<p>{escape(repr(self)[1:-1])}</p>{table}"


class SGECluster(JobQueueCluster):
    """A cluster of Grid Engine jobs; arguments as in :class:`JobQueueCluster`."""

    config_name = "sge"


class SLURMCluster(JobQueueCluster):
    """A cluster of Slurm jobs; arguments as in :class:`JobQueueCluster`."""

    config_name = "slurm"


class LocalCluster(JobQueueCluster):
    """Workers on this machine: each is a job of the local batch system, run from the same kind of script.

    :param n_workers: workers to start with; None is one per core.
    :param threads_per_worker: threads of each worker.
    :param processes: False has the workers as threads of this very process, for debugging.
    :param memory_limit: memory of each worker, as ``memory``; "auto" or None is the machine's share.
    """

    config_name = "local"

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        processes: bool | int = True,
        memory_limit: str | int | None = None,
        **arguments: Any,
    ) -> None:
        if isinstance(processes, int) and not isinstance(processes, bool):
            raise ConfigError("processes: LocalCluster has one process per job; say n_workers", key="processes")
        threads = threads_per_worker or arguments.pop("cores", None) or 1
        if n_workers is None:
            n_workers = max(1, len(os.sched_getaffinity(0)) // threads)
        memory = arguments.pop("memory", None) or (None if memory_limit == "auto" else memory_limit)
        self._in_process = not processes
        super().__init__(cores=threads, processes=1, memory=memory, n_workers=n_workers, **arguments)

    def _begin(self) -> None:
        if not self._in_process:
            super()._begin()
            return
        from hpclaunch.head.inprocess import InProcessHead

        async def begin() -> HeadSession:
            self._inner = InProcessHead(self.name, threads=self.config.threads)
            return await self.open_session(name=f"cluster-{os.getpid()}")

        self.directory = Path("/nonexistent")
        self._script = "# processes=False: the workers are threads of this process, there is no job\n"
        self.facts = {"id": self.name, "name": self.name, "addresses": ["memory"], "security": False}
        self._session = self._thread.run(begin())
        self._finalizer = weakref.finalize(self, _nothing)
        self._status = "running"

    async def open_session(self, *, name: str, on_messages: Any = None, on_lost: Any = None) -> HeadSession:
        """Open one more connection to the head; what Client does."""
        if self._in_process:
            return self._inner.open_session(name, on_messages, on_lost)
        return await super().open_session(name=name, on_messages=on_messages, on_lost=on_lost)


# --- finding the cluster to use -----------------------------------------------------------------------------


def current_or_new_cluster(**arguments: Any) -> tuple[Any, bool]:
    """Return the cluster that ``Client()`` means, and whether it was made for it.

    That is the innermost ``with`` block's, or the one named by ``$HPCLAUNCH_CLUSTER``, or a new LocalCluster;
    with arguments, always the last.
    """
    if not arguments:
        if _stack():
            return _stack()[-1], False
        named = os.environ.get("HPCLAUNCH_CLUSTER")
        if named:
            return named, False
    return LocalCluster(**arguments), True


def user_python_path() -> list[str]:
    """Return where a user's own modules may lie: the script's directory and the current one."""
    first = sys.path[0] if sys.path else ""
    paths = [os.path.abspath(first), os.getcwd()]
    return [path for path in dict.fromkeys(paths) if os.path.isdir(path)]


def _stack() -> list[JobQueueCluster]:
    if not hasattr(_entered, "stack"):
        _entered.stack = []
    stack: list[JobQueueCluster] = _entered.stack
    return stack


# --- the end -------------------------------------------------------------------------------------


def _with_scheduler_options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Move arguments of the head itself to where they belong."""
    moved = {key: arguments.pop(key) for key in _SCHEDULER_ARGUMENTS if arguments.get(key) is not None}
    if moved:
        arguments["scheduler_options"] = {**(arguments.get("scheduler_options") or {}), **moved}
    return arguments


async def _close_session(session: HeadSession) -> None:
    session.close()


def _let_go(head: HeadProcess, directory: Path) -> None:
    """End a head that may still be there, and remove what a head that died has left."""
    if head.owner_pid != os.getpid():
        return  # a forked child: the head is its parent's
    head.let_go()
    if head.exit_code() not in (0, EXIT_JOBS_LEFT):
        _sweep(directory)


def _sweep(directory: Path) -> None:
    """Clean up after a head that did not end in order."""
    from hpclaunch.head.sweep import sweep

    sweep(directory)


def _nothing() -> None:
    """What is done at the end of a cluster that has no head process."""


def _forget_after_fork() -> None:
    _entered.__dict__.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
