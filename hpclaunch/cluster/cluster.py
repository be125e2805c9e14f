"""Clusters as users hold them: ``SGECluster``, ``SLURMCluster``, ``LocalCluster``, and any site's own section.

A cluster object is a handle. Making one reads the configuration, renders the job script (so that a bad value is
found now) and starts the head, to which everything else is a request. The head ends with the object: at
:meth:`~JobQueueCluster.close`, when Python collects it, or when this process ends in whatever way.

The arguments are those of dask-jobqueue's classes; they and the configuration's keys are the same names.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import weakref
from collections.abc import Coroutine, Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from hpclaunch import rundir
from hpclaunch.client.futures.outstanding import wait_for_calls
from hpclaunch.cluster.arguments import group_config, whole, with_scheduler_options
from hpclaunch.cluster.shutdown import end_head, end_unclosed
from hpclaunch.cluster.table import AdaptLog, JobTable, count_states
from hpclaunch.config.layers import load
from hpclaunch.config.schema import JobConfig
from hpclaunch.config.units import parse_bytes
from hpclaunch.current_cluster import enter, leave
from hpclaunch.errors import ConfigError, HeadError, HPCLaunchError, PeerError, PeerSilentError
from hpclaunch.head.launch import HeadProcess, log_tail, prepare, prepare_group
from hpclaunch.inherited import inherit
from hpclaunch.jobs.policy import read_policy
from hpclaunch.link.facade import allowing_to_block, blocking, in_thread
from hpclaunch.link.loop import LoopThread, loop_thread
from hpclaunch.link.session import HeadSession
from hpclaunch.notes import warn
from hpclaunch.safepath import user_python_path

#: What other cluster classes have and these don't, and what to use.
_NOT_HERE = {
    "get_logs": "it is logs() here",
    "scale_up": "it is scale() here",
    "scale_down": "it is scale() here",
    "scheduler_info": "see workers() and jobs()",
    "loop": "the event loop is hpclaunch's own",
}


class JobQueueCluster:
    """A cluster of workers that run as jobs of a batch system.

    :param config_name: the section below ``jobqueue:`` to use, such as a site's own.
    :param name: the cluster's name, by which it is found; the jobs' name in the batch system is ``job_name``.
    :param asynchronous: for programs with an event loop: calls that block, such as ``scale`` and ``close``, return
        awaitables. Making the cluster itself, which takes a fraction of a second, does block; the workers of a
        local one are there when it has been awaited.
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
        self.asynchronous = False  # until it is made
        self.config: JobConfig = inherit(load(section, with_scheduler_options(arguments)).job)
        if name is not None and not (isinstance(name, str) and name.isprintable()):
            raise ConfigError(f"name must be a text in one line, not {name!r}", key="name")
        self.name = name or self.config.name
        self._arguments = {**with_scheduler_options(dict(arguments)), "n_workers": 0, "groups": {}}
        self._awaited = self.config.n_workers if self.config.batch_system == "local" else 0
        self._groups: dict[str, JobConfig] = {}
        self._scripts: dict[str, str] = {}
        self._thread: LoopThread = loop_thread()
        self._session: HeadSession | None = None
        self._closing = threading.RLock()
        self._error: HPCLaunchError | None = None
        self._finalizer: weakref.finalize[..., Any]
        self.directory: Path
        self.facts: dict[str, Any]
        self._begin()
        try:
            for group, keys in self.config.groups.items():
                self.add_group(group, **keys)
            if self.config.n_workers:
                self.scale(self.config.n_workers)
            if not asynchronous:
                self._be_ready()
        except BaseException:
            self.close()
            raise
        self.asynchronous = asynchronous

    def _be_ready(self) -> None:
        """Wait once for the workers to start with, where no batch system's queue is between us and them.

        :raises JobsFailedError: they can't start.
        """
        if self._awaited:
            self.wait_for_workers(self._awaited)
        self._awaited = 0

    def _begin(self) -> None:
        """Prepare the run directory and start the head."""
        prepared = prepare(self.config, self.name, python_path=user_python_path(), owner_pid=os.getpid())
        self.directory, self._script = prepared.directory, prepared.script
        try:
            self._head = HeadProcess(prepared.command, self.directory, attached=True)
        except BaseException:
            rundir.remove(self.directory)
            raise
        self._finalizer = weakref.finalize(self, end_unclosed, self._head, self.directory)
        try:
            self.facts = rundir.read_facts(self.directory)
            on_lost = self._head.keep_last_words
            self._connect(self.open_session(name=f"cluster-{os.getpid()}", on_lost=on_lost))
        except BaseException:
            self._finalizer()
            raise
        self._status = "running"

    def _connect(self, opening: Coroutine[Any, Any, HeadSession]) -> None:
        self._session = self._thread.run(opening)
        on_notice = weakref.WeakMethod(self._on_notice)  # the connection must not keep us

        def hear(error: HPCLaunchError | None = None) -> None:
            method = on_notice()
            if method is not None:
                method(error)

        self._session.listen(hear)
        self._session.on_recovered = hear

    # --- size

    @blocking
    def scale(
        self,
        n: int | None = None,
        *,
        jobs: int | None = None,
        cores: int | None = None,
        memory: str | int | None = None,
        group: str | None = None,
    ) -> None:
        """Have this many workers (``n``), or jobs, cores or bytes of memory in all; rounded up to whole jobs.

        :param group: the kind of jobs, as named in :meth:`add_group`; None: the cluster's own.

        Ends :meth:`adapt`. The jobs have been submitted when this returns. The size is kept: a job that ends by
        its walltime is replaced, one that fails is too, after a pause, and repeated early deaths end in a
        JobsFailedError.

        :raises SubmitError: the batch system did not take the jobs; the text has its words.
        """
        wanted = self._jobs_for(self._config_of(group), n, jobs, cores, memory)
        self._error = None
        self._ask("scale", jobs=wanted, **_named(group))
        for note in self._ask("job_notes"):
            warn(note)

    @blocking
    def adapt(self, *, group: str | None = None, worker_key: None = None, **arguments: Any) -> None:
        """Have as many jobs as the work is worth, from now on: the queue is asked for more, and idle jobs go.

        Every argument may be left out. Calling it again replaces what was said; :meth:`scale` ends it.

        :param group: the kind of jobs, as named in :meth:`add_group`; None: the cluster's own.
        :param worker_key: accepted from Dask as None only: the workers of a job come and go together.
        :param arguments: ``minimum``, ``maximum``: workers; also ``minimum_jobs``, ``minimum_cores``,
            ``minimum_memory`` and the same with ``maximum``. ``interval``: between two looks ("1s").
            ``target_duration``: so much work is to be there for each thread ("5s"). ``wait_count``: looks in a
            row that must agree before a job goes (3). ``idle_timeout``: a job without tasks goes after so long
            ("10s"). ``pending_grace``: so long a job stays in the queue that is not needed any more ("60s").
            ``max_submit_rate``: submissions a minute (20). ``core_hours``: a budget; every job's walltime is set
            aside when it is submitted, and what it did not use comes back.
        :raises ConfigError: a value can't be used, or two contradict each other. Nothing has changed then.
        """
        if worker_key is not None:
            raise ConfigError("adapt: worker_key has no meaning here, a job goes as a whole", key="worker_key")
        policy = read_policy(arguments, self._config_of(group))
        self._error = None
        self._ask("adapt", policy=msgspec.to_builtins(policy), **_named(group))

    @blocking
    def adapt_log(self, *, group: str | None = None) -> AdaptLog:
        """Return what :meth:`adapt` has decided and why, the oldest first; prints as a table."""
        return AdaptLog(self._ask("adapt_log", **_named(group)))

    @blocking
    def add_group(self, name: str, **arguments: Any) -> None:
        """Add one more kind of job to this cluster, for tasks that ask for what the others do not have.

        :param name: for ``scale(group=name)`` and ``adapt(group=name)``.
        :param arguments: configuration keys that differ from the cluster's own, such as ``cores``, ``memory``,
            ``queue``, ``resources={"GPU": 1}``.
        :raises ConfigError: a value can't be used, or there is such a group.
        """
        config = group_config(self.config.section, name, {**self._arguments, **arguments})
        if name in self._groups:
            raise ConfigError(f"there is a group {name!r} already", key="groups")
        if self.directory == Path("/nonexistent"):
            raise ConfigError("a cluster with processes=False has no groups", key="groups")
        self._scripts[name] = prepare_group(config, self.directory)
        self._ask("add_group", name=name, config=msgspec.to_builtins(config))
        self._groups[name] = config

    def _config_of(self, group: str | None) -> JobConfig:
        if not group:
            return self.config
        if group not in self._groups:
            known = ", ".join(map(repr, self._groups)) or "none: add_group() adds one"
            raise ConfigError(f"there is no group {group!r}; there are {known}", key="group")
        return self._groups[group]

    def _jobs_for(
        self, config: JobConfig, n: int | None, jobs: int | None, cores: int | None, memory: str | int | None
    ) -> int:
        given = {"n": n, "jobs": jobs, "cores": cores, "memory": memory}
        wanted = {key: value for key, value in given.items() if value is not None}
        if len(wanted) != 1:
            said = " and ".join(wanted) or "none of them"
            raise ValueError(f"scale takes one of n, jobs=, cores= and memory=, not {said}")
        ((what, value),) = wanted.items()
        size = parse_bytes(value) if what == "memory" else whole(value)
        if size is None or size < 0:
            raise ValueError(f"scale({what}={value!r}): a whole number of 0 or more is needed")
        per_job = {
            "n": config.processes,
            "jobs": 1,
            "cores": config.cores,
            "memory": config.memory,
        }
        return math.ceil(size / per_job[what])

    @blocking
    def wait_for_workers(self, n_workers: int | None = None, timeout: float | None = None) -> None:
        """Wait until that many workers are connected.

        :param n_workers: None is all that :meth:`scale` has asked for.
        :param timeout: seconds; None is without limit.
        :raises JobsFailedError: no more jobs are submitted since they die early; the text says why.
        :raises TimeoutError: the workers were not there in time; the text says where each job stands.
        """
        if n_workers is not None and whole(n_workers) is None:
            raise ValueError(f"wait_for_workers({n_workers!r}): a whole number of workers is needed")
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float)):
            raise ValueError(f"wait_for_workers(timeout={timeout!r}): a number of seconds or None is needed")
        self._ask("wait_for_workers", n_workers=whole(n_workers), timeout=timeout)

    # --- looking

    def job_script(self, group: str | None = None) -> str:
        """Return the job script, of a group if one is named, byte for byte as it is submitted."""
        return self._scripts[group] if group and self._config_of(group) else self._script

    @property
    def job_header(self) -> str:
        """The directives of the job script."""
        return "\n".join(line for line in self._script.splitlines() if line.startswith(("#$", "#SBATCH")))

    @blocking
    def jobs(self) -> JobTable:
        """Return this cluster's jobs with the story of each; prints as a table."""
        return JobTable(self._ask("jobs"), self._ask("job_notes"))

    @blocking
    def logs(self, job_id: str | None = None) -> dict[str, str]:
        """Return the output of one job, or of all, by job id."""
        return dict(self._ask("logs", job_id=job_id))

    @blocking
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
            return self._thread.run(self._session.ask(method, **params))
        except PeerSilentError as error:
            raise HeadError(
                f"the head of cluster {self.name} (process {self._head.pid} here) does not answer: {error}. It is "
                "frozen, or this machine is very busy; close() ends it and cancels its jobs"
            ) from None
        except PeerError as error:
            raise self._head_gone(error) from None

    def _head_gone(self, error: PeerError) -> HeadError:
        self._head.wait(2.0)
        code = self._head.exit_code()
        log = self._head.last_words or log_tail(self.directory)
        what = f"ended with exit code {code}" if code is not None else f"does not answer ({error})"
        return HeadError(
            f"the head of cluster {self.name} {what}. Its workers end by themselves within "
            f"{self.config.death_timeout:g} s. The end of its log:\n{log}"
        )

    def _on_notice(self, error: HPCLaunchError | None) -> None:
        self._error = error

    # --- the end

    @blocking
    def close(self, timeout: str | float | None = None) -> None:
        """Cancel all jobs, see to it that they are gone, and end the head. Again is no error.

        :param timeout: accepted, and not needed: each step has a limit of its own.
        :raises CancelError: jobs are left, which are named; they end by themselves after death-timeout.
        """
        if self._thread.is_foreign:
            return  # in a forked child the cluster is its parent's
        with self._closing:  # who comes second waits for the end too
            if self._session is not None and self._status != "closed":
                self._close(self._session)

    def _close(self, session: HeadSession) -> None:
        self._session = None
        self._status = "closed"
        try:
            self._thread.run(session.ask("close"))
        except PeerSilentError as error:
            warn(f"the head of cluster {self.name} does not answer, {error}; it is killed, its jobs are cancelled")
            self._head.kill()
        except PeerError:
            pass  # the head is gone already; what it has left is swept up below
        finally:
            self._thread.run(_close_session(session))
            self._end()

    def _end(self) -> None:
        """Wait for the head's end, and see to what it has left if it did not end in order."""
        self._finalizer.detach()
        end_head(self._head, self.directory)

    def __enter__(self) -> Self:
        enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        leave(self)
        with allowing_to_block():
            self._leave(kind)

    def __await__(self) -> Generator[Any, None, Self]:
        return self._here().__await__()

    async def _here(self) -> Self:
        try:
            await in_thread(self._be_ready)
        except BaseException:
            await in_thread(self.close)
            raise
        return self

    async def __aenter__(self) -> Self:
        await self._here()
        enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        leave(self)
        await in_thread(functools.partial(self._leave, kind))

    def _leave(self, kind: type[BaseException] | None) -> None:
        """End a ``with`` block: what executors were given is not dropped, unless the block has failed."""
        try:
            if kind is None:
                wait_for_calls(self)
        finally:
            self.close()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            hint = f": {_NOT_HERE[name]}" if name in _NOT_HERE else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    def __repr__(self) -> str:
        if self._status == "created":
            return f"<{type(self).__name__} that did not start>"
        config = self.config
        try:
            with allowing_to_block():
                jobs = count_states(self.jobs()) if self._status == "running" else self._status
        except HPCLaunchError:
            jobs = "head gone"
        except RuntimeError:  # in a forked child, or where waiting is not possible
            jobs = "running"
        each = f"{config.processes} x {config.threads} threads, {config.memory / 1e9:.3g} GB per job"
        mode = "TLS" if self.facts.get("security") else "no TLS"
        return f"<{type(self).__name__} {self.name!r}: {jobs}; {each}; {self.facts['addresses'][0]}, {mode}>"

    def _repr_html_(self) -> str:
        from html import escape

        table = ""
        with contextlib.suppress(HPCLaunchError, RuntimeError), allowing_to_block():
            table = self.jobs()._repr_html_() if self._status == "running" else ""
        return f"<p>{escape(repr(self)[1:-1])}</p>{table}"


class SGECluster(JobQueueCluster):
    """A cluster of Grid Engine jobs; arguments as in :class:`JobQueueCluster`."""

    config_name = "sge"


class SLURMCluster(JobQueueCluster):
    """A cluster of Slurm jobs; arguments as in :class:`JobQueueCluster`."""

    config_name = "slurm"


def _named(group: str | None) -> dict[str, str]:
    """Return the part of a request that names a group; none for the cluster's own."""
    return {"group": group} if group else {}


async def _close_session(session: HeadSession) -> None:
    session.close()
