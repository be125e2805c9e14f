"""What a head can be asked by its clients: one table of methods, each a plain question with a plain answer.

Used by the head process and by the head inside the user's process alike; both give what is in :class:`Controlled`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from hpclaunch.config.schema import JobConfig
from hpclaunch.engines.base import RunningEngine
from hpclaunch.errors import HPCLaunchError, UserError, WaitTimeoutError
from hpclaunch.jobs.adaptive import LogRow, Policy

#: Lines of an error about jobs, and ids in one of them.
_LINES, _SOME = 20, 3


class Controlled(Protocol):
    """What a head must be able to do to be controlled."""

    engine: RunningEngine

    @property
    def wanted_workers(self) -> int:
        """How many workers there are to be."""

    @property
    def failure(self) -> HPCLaunchError | None:
        """Why no more jobs are submitted; None while they are."""

    async def scale(self, jobs: int, group: str = "") -> None:
        """Keep this many jobs of a group from now on; ends its adaptive scaling."""

    def adapt(self, policy: Policy, group: str = "") -> None:
        """Scale a group by the work there is from now on."""

    def adapt_log(self, group: str = "") -> list[LogRow]:
        """Return what adaptive scaling has decided, the oldest first."""

    def group_configs(self) -> dict[str, JobConfig]:
        """Return the configurations of the groups that were added, by name."""

    def add_group(self, name: str, config: JobConfig) -> None:
        """Add one more kind of job."""

    def job_table(self) -> list[dict[str, Any]]:
        """Return the jobs and their stories, as plain values."""

    def job_notes(self) -> list[str]:
        """Return what is to be said of the jobs as a whole, such as limits that are reached."""

    def job_logs(self, job_id: str | None) -> dict[str, str]:
        """Return the output of one job, or of all."""

    async def close_all(self, reason: str) -> None:
        """End everything but the connection on which this was asked."""


class Control:
    """Answers control requests for a head."""

    def __init__(self, head: Controlled) -> None:
        self._head = head
        self._methods: dict[str, Callable[..., Awaitable[Any]]] = {
            "adapt": self._adapt,
            "adapt_log": self._adapt_log,
            "add_group": self._add_group,
            "close": self._close,
            "groups": self._groups,
            "info": self._info,
            "jobs": self._jobs,
            "job_notes": self._job_notes,
            "logs": self._logs,
            "ping": self._ping,
            "scale": self._scale,
            "wait_for_workers": self._wait_for_workers,
        }

    async def answer(self, method: str, params: dict[str, Any]) -> Any:
        """Answer one request.

        :raises UserError: there is no such method, or it takes other parameters.
        :raises HPCLaunchError: what the method itself raises.
        """
        call = self._methods.get(method)
        if call is None:
            known = ", ".join(self._methods)
            raise UserError(f"the head knows no request {method!r}; it knows {known}. Are both sides one version?")
        try:
            bound = inspect.signature(call).bind(**params)
        except TypeError as error:
            raise UserError(f"request {method!r}: {error}") from None
        return await call(*bound.args, **bound.kwargs)

    async def _scale(self, jobs: int, group: str = "") -> None:
        await self._head.scale(jobs, group)

    async def _adapt(self, policy: dict[str, Any], group: str = "") -> None:
        self._head.adapt(msgspec.convert(policy, Policy), group)

    async def _adapt_log(self, group: str = "") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = msgspec.to_builtins(self._head.adapt_log(group))
        return rows

    async def _groups(self) -> dict[str, Any]:
        configs: dict[str, Any] = msgspec.to_builtins(self._head.group_configs())
        return configs

    async def _add_group(self, name: str, config: dict[str, Any]) -> None:
        self._head.add_group(name, msgspec.convert(config, JobConfig))

    async def _jobs(self) -> list[dict[str, Any]]:
        return self._head.job_table()

    async def _job_notes(self) -> list[str]:
        return self._head.job_notes()

    async def _logs(self, job_id: str | None = None) -> dict[str, str]:
        return await asyncio.to_thread(self._head.job_logs, job_id)

    async def _info(self) -> dict[str, Any]:
        return self._head.engine.summary()

    async def _ping(self) -> None:
        """Show that the head lives."""

    async def _close(self) -> None:
        await self._head.close_all("the cluster was closed")

    async def _wait_for_workers(self, n_workers: int | None = None, timeout: float | None = None) -> int:
        """Answer when that many workers are connected; with the reason if they never will be."""
        engine = self._head.engine
        if n_workers is None:
            n_workers = self._head.wanted_workers
            if not n_workers:
                raise UserError("there are no workers to wait for: call scale() first")
        try:
            async with asyncio.timeout(timeout):
                while engine.worker_count() < n_workers:
                    if self._head.failure is not None:
                        raise self._head.failure
                    changed = asyncio.ensure_future(engine.wait_for_change())
                    await asyncio.wait([changed], timeout=0.1)
                    changed.cancel()
        except TimeoutError:
            have = engine.worker_count()
            raise WaitTimeoutError(
                f"{have} of {n_workers} workers are there after {timeout:g} s\n{self._stories()}"
            ) from None
        return engine.worker_count()

    def _stories(self) -> str:
        """Say where each job stands, for an error about jobs that are not there."""
        lines = [where_they_stand(self._head.job_table()), *(f"  {note}" for note in self._head.job_notes())]
        return "\n".join(line for line in lines if line) or "  no job has been asked for: call scale() first"


def where_they_stand(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Say where jobs stand, those of the same state and reason in one line; those that have ended come last."""
    alike: dict[tuple[str, str], list[str]] = {}
    for job in sorted(jobs, key=lambda job: job["state"] == "ended"):
        alike.setdefault((job["state"], job["reason"]), []).append(job["id"] or "(no id yet)")
    lines = []
    for (state, reason), ids in alike.items():
        some = f"job {ids[0]}" if len(ids) == 1 else f"{len(ids)} jobs ({', '.join(ids[:_SOME])}{_more(ids)})"
        lines.append(f"  {some}: {state}  {reason}".rstrip())
    left_out = [f"  and {len(lines) - _LINES} more such lines"] if len(lines) > _LINES else []
    return "\n".join(lines[:_LINES] + left_out)


def _more(ids: Sequence[str]) -> str:
    return ", ..." if len(ids) > _SOME else ""
