"""All jobs of a cluster: one job manager for each group, and what adaptive scaling does about each.

A *group* is one kind of job: its own script, walltime, memory, resources. Every cluster has the group that its
configuration describes (its name is empty); ``add_group`` adds others. Each has a ledger and a directory of
tickets of its own; log files and worker names are told apart by the batch system's job ids.

Has the same face towards the head as one :class:`~hpclaunch.head.jobs.JobManager`. Which work is whose: work that
asks for resources, or is given much data, belongs to the first group whose workers have these resources and that
much memory; all other work to the first group that adapts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from hpclaunch.config.schema import JobConfig
from hpclaunch.errors import CancelError, HPCLaunchError, JobsFailedError, UserError
from hpclaunch.head.jobs import JobManager
from hpclaunch.jobs.adaptive import Adaptive, Facts, LogRow, Policy, Shape
from hpclaunch.jobs.job import JobRow
from hpclaunch.scheduler.demand import Demand, JobLoad, ReadyWork

log = logging.getLogger("hpclaunch.groups")


class Group:
    """One kind of job."""

    def __init__(self, name: str, config: JobConfig, manager: JobManager) -> None:
        self.name = name
        self.config = config
        self.manager = manager
        self.adaptive: Adaptive | None = None
        self.past: Adaptive | None = None  # the last one, for its log and what it has learned

    def fits(self, work: ReadyWork) -> bool:
        """Say whether a worker of this group has what the work asks for, and memory for what it is given."""
        limit = self.config.memory_per_worker
        return (not limit or work.memory <= limit) and all(
            self.config.resources.get(name, 0) >= amount for name, amount in work.resources
        )


class Groups:
    """The groups of one cluster.

    :param make: makes the job manager of a group.
    :param demand: says what there is to do.
    """

    def __init__(
        self,
        config: JobConfig,
        make: Callable[[str, JobConfig], JobManager],
        demand: Callable[[], Demand],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._make = make
        self._demand = demand
        self._clock = clock
        self._groups = {"": Group("", config, make("", config))}
        self._runners: asyncio.TaskGroup | None = None
        self._adapted = asyncio.Event()

    # --- groups

    def add(self, name: str, config: JobConfig) -> None:
        """Add a group; its script is there.

        :raises UserError: there is one of that name.
        """
        if name in self._groups:
            raise UserError(f"there is a group {name!r} already")
        group = self._groups[name] = Group(name, config, self._make(name, config))
        if self._runners is not None:
            self._runners.create_task(group.manager.run())

    def configs(self) -> dict[str, JobConfig]:
        """Return the configurations of the groups that were added, by name."""
        return {name: group.config for name, group in self._groups.items() if name}

    def group(self, name: str) -> Group:
        """Return a group.

        :raises UserError: there is none of that name.
        """
        if name not in self._groups:
            known = ", ".join(repr(one) for one in self._groups if one) or "none: add_group() adds one"
            raise UserError(f"there is no group {name!r}; there are {known}")
        return self._groups[name]

    def _of_job(self, job_id: str) -> Group:
        """Return the group of a job; one that is not named yet has left a ticket."""
        for group in self._groups.values():
            if group.manager.has(job_id):
                return group
        tickets = (group for group in self._groups.values() if group.name and group.manager.has_ticket(job_id))
        return next(tickets, self._groups[""])

    def start_of(self, job_id: str) -> object:
        """Return what tells a job's latest start from those before; None if it has left no start ticket."""
        starts = (group.manager.start_of(job_id) for group in self._groups.values())
        return next((start for start in starts if start is not None), None)

    # --- size

    async def scale(self, jobs: int, group: str = "") -> None:
        """Keep this many jobs of a group from now on; ends its adaptive scaling. See :meth:`JobManager.scale`."""
        one = self.group(group)
        one.adaptive = None
        await one.manager.scale(jobs)

    def adapt(self, policy: Policy, group: str = "") -> None:
        """Scale a group by the work there is from now on. Replaces what was said before, but keeps its log."""
        one = self.group(group)
        before = one.past
        shape = Shape(one.config.threads * one.config.processes, one.config.cores, one.config.walltime)
        one.adaptive = one.past = Adaptive(policy, shape)
        if before is not None:
            one.adaptive.take_over(before)
        one.manager.adapted(0, (), "adapt")
        one.manager.forgive()
        self._adapted.set()

    def adapt_log(self, group: str = "") -> list[LogRow]:
        """Return what adaptive scaling has decided for a group, the oldest first."""
        past = self.group(group).past
        return list(past.log) if past is not None else []

    def step(self) -> None:
        """Look at the work once, for all groups that adapt."""
        adapting = [group for group in self._groups.values() if group.adaptive is not None]
        shares = share(adapting, self._demand())
        for group in adapting:
            assert group.adaptive is not None
            loads, facts = shares[group.name]
            facts = group.manager.facts(facts, loads)
            decision = group.adaptive.step(facts, self._clock())
            release = (*decision.cancel, *decision.retire)
            if decision.submit or release:
                log.info("adapt%s: %s", f" {group.name}" if group.name else "", decision.reason)
            group.manager.adapted(decision.submit, release, decision.reason, worth=decision.wish)

    async def _adapt(self) -> None:
        while True:
            policies = [group.adaptive.policy for group in self._groups.values() if group.adaptive is not None]
            if not policies:
                self._adapted.clear()
                await self._adapted.wait()
                continue
            self.step()
            await asyncio.sleep(min(policy.interval for policy in policies))

    @property
    def wish(self) -> int:
        """How many jobs there are to be."""
        return sum(group.manager.wish for group in self._groups.values())

    @property
    def wanted_workers(self) -> int:
        """How many workers there are to be."""
        return sum(group.manager.wish * group.config.processes for group in self._groups.values())

    def coming(self) -> list[int]:
        """Return the memory limits of the workers that may yet be started, in bytes; 0 is none.

        Those of a group that can start no more do not count.
        """
        groups = self._groups.values()
        return [group.config.memory_per_worker for group in groups if group.manager.failure is None]

    @property
    def failure(self) -> JobsFailedError | None:
        """Why no more jobs of some group are submitted; None while they are."""
        return next((one.manager.failure for one in self._groups.values() if one.manager.failure), None)

    # --- facts from the head

    def worker_joined(self, job_id: str, worker: str, host: str, head_address: str) -> None:
        """A worker connected, and by which of the head's addresses."""
        self._of_job(job_id).manager.worker_joined(job_id, worker, host, head_address)

    def job_ends(self, job_id: str, seconds_left: float, why: str) -> None:
        """A job's walltime ends in so many seconds, or the batch system has told it to end: ``why``."""
        self._of_job(job_id).manager.job_ends(job_id, seconds_left, why)

    def clock_told(self, job_id: str, host: str, ahead: float) -> None:
        """The clock of a job's host is so many seconds ahead of this one's."""
        self._of_job(job_id).manager.clock_told(job_id, host, ahead)

    def worker_left(self, job_id: str, worker: str, reason: str) -> None:
        """The connection to a worker ended."""
        self._of_job(job_id).manager.worker_left(job_id, worker, reason)

    # --- questions

    def table(self) -> list[JobRow]:
        """Return all jobs with their stories, by group and in order of submission."""
        return [row for group in self._groups.values() for row in group.manager.table()]

    def notes(self) -> list[str]:
        """Return what is to be said of the cluster as a whole, each group's by its name."""
        return [
            f"group {name}: {note}" if name else note
            for name, group in self._groups.items()
            for note in group.manager.notes()
        ]

    def logs(self, job_id: str | None = None) -> dict[str, str]:
        """Return the output of one job, or of all; see :meth:`JobManager.logs`."""
        if job_id is not None:
            return self._of_job(job_id).manager.logs(job_id)
        return {key: text for group in self._groups.values() for key, text in group.manager.logs().items()}

    # --- life

    async def run(self) -> None:
        """Follow the jobs of all groups until :meth:`close`."""
        try:
            async with asyncio.TaskGroup() as runners:
                self._runners = runners
                adapting = runners.create_task(self._adapt())
                managers = [runners.create_task(group.manager.run()) for group in self._groups.values()]
                await asyncio.wait(managers)
                adapting.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._runners = None

    async def close(self) -> None:
        """Cancel every job of every group, and see to it that all are gone.

        :raises CancelError: some are still there; the text names them.
        """
        for group in self._groups.values():
            group.adaptive = None
        done = await asyncio.gather(
            *(group.manager.close() for group in self._groups.values()), return_exceptions=True
        )
        errors = [one for one in done if isinstance(one, BaseException)]
        ours = [one for one in errors if isinstance(one, HPCLaunchError)]
        if len(ours) != len(errors):
            raise next(one for one in errors if one not in ours)
        if len(ours) > 1:
            raise CancelError("\n".join(str(one) for one in ours))
        if ours:
            raise ours[0]


def share(groups: Iterable[Group], demand: Demand) -> dict[str, tuple[Mapping[str, JobLoad], Facts]]:
    """Give each group that adapts its part of the work: what its jobs have, and what is ready for them.

    ``Facts`` come without jobs.
    """
    parts = list(groups)
    tasks, seconds, waiting = ({group.name: 0.0 for group in parts} for _ in range(3))
    for work in demand.ready:
        for group in parts:
            if group.fits(work):
                tasks[group.name] += work.tasks
                seconds[group.name] += work.seconds
                break
    if parts:
        waiting[parts[0].name] = demand.waiting
    shares: dict[str, tuple[Mapping[str, JobLoad], Facts]] = {}
    for group in parts:
        loads = {job_id: load for job_id, load in demand.jobs.items() if group.manager.has(job_id)}
        facts = Facts(
            jobs=(),
            seconds=seconds[group.name] + sum(load.seconds for load in loads.values()),
            tasks=int(tasks[group.name]) + sum(load.tasks for load in loads.values()),
            waiting=int(waiting[group.name]),
        )
        shares[group.name] = loads, facts
    return shares
