"""The ranks of a parallel job as a head's "jobs": they are there from the start; nothing submits or cancels them.

Has the same face towards the head as :class:`hpclaunch.head.jobs.JobManager`. What a job is elsewhere is here a
rank with workers; its id is ``rank3``.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence

from hpclaunch.cluster.job import JobRow, State
from hpclaunch.errors import JobsFailedError, UserError

_PREFIX = "rank"
_RANK = re.compile(rf"{_PREFIX}\d+(?:\.[0-9a-f]+)?", re.ASCII)


def job_id(rank: int, launch: str = "") -> str:
    """Return what stands for a job's id in a rank's workers; ``launch`` tells further launches apart."""
    return f"{_PREFIX}{rank}" + (f".{launch}" if launch else "")


def is_rank(job: str) -> bool:
    """Say whether a job id is a rank's, which no batch system knows."""
    return _RANK.fullmatch(job) is not None


class _Rank:
    def __init__(self, host: str, now: float) -> None:
        self.host = host
        self.workers: set[str] = set()
        self.since = now
        self.story: list[str] = []
        self.has_joined = False


class Ranks:
    """The ranks that have workers.

    :param hosts: for each of them its number and its host.
    :param processes: workers of each.
    """

    failure: JobsFailedError | None = None

    def __init__(
        self, hosts: Sequence[tuple[int, str]], processes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._begin = clock()
        self._processes = processes
        self._ranks = {job_id(rank): _Rank(host, self._begin) for rank, host in hosts}

    @property
    def wish(self) -> int:
        """How many ranks have workers."""
        return len(self._ranks)

    @property
    def wanted_workers(self) -> int:
        """How many workers there are to be."""
        return len(self._ranks) * self._processes

    async def run(self) -> None:
        """Do nothing until cancelled: ranks come by themselves."""
        await asyncio.get_running_loop().create_future()

    async def scale(self, jobs: int, group: str = "") -> None:
        """Refuse: their number is what they were started with.

        :raises UserError: always, unless nothing would change.
        """
        if jobs != len(self._ranks):
            raise UserError(
                f"the {len(self._ranks)} worker ranks of this job can't become {jobs}: their number is that of "
                "mpirun or srun. For clusters that grow and shrink, see SGECluster and SLURMCluster"
            )

    def worker_joined(self, job: str, worker: str, host: str, head_address: str) -> None:
        """A worker connected, and by which of the head's addresses."""
        now = self._clock()
        rank = self._ranks.setdefault(job, _Rank(host, now))
        rank.workers.add(worker)
        rank.host, rank.since, rank.has_joined = host, now, True
        rank.story.append(f"+{now - self._begin:.1f} s  worker {worker} connected to {head_address}")

    def worker_left(self, job: str, worker: str, reason: str) -> None:
        """The connection to a worker ended."""
        rank = self._ranks.get(job)
        if rank is None or worker not in rank.workers:
            return
        now = self._clock()
        rank.workers.discard(worker)
        rank.since = now
        rank.story.append(f"+{now - self._begin:.1f} s  worker {worker} left: {reason}")

    def table(self) -> list[JobRow]:
        """Return the ranks with their stories."""
        return [
            JobRow(
                id=name,
                state=State.UP if rank.workers else State.ENDED if rank.has_joined else State.STARTING,
                since=rank.since,
                host=rank.host,
                workers=len(rank.workers),
                reason="",
                story=rank.story or ["its workers have not connected yet"],
            )
            for name, rank in self._ranks.items()
        ]

    def logs(self, job: str | None = None) -> dict[str, str]:
        """Return where the output of a rank is: what it prints is the parallel job's own output.

        :raises UserError: there is no such rank.
        """
        if job is not None and job not in self._ranks:
            raise UserError(f"there is no {job!r}; there are {', '.join(self._ranks)}")
        asked = [job] if job is not None else list(self._ranks)
        return dict.fromkeys(asked, "(what a rank prints is in the output of mpirun or srun)")

    async def close(self) -> None:
        """There is nothing to cancel: ranks end when their workers are told to."""
