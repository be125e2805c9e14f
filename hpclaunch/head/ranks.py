"""The ranks of a parallel job as a head's "jobs": they are there from the start; nothing submits or cancels them.

Has the same face towards the head as :class:`hpclaunch.head.jobs.JobManager`. What a job is elsewhere is here a
rank with workers; its id is ``rank3``.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence

from hpclaunch.errors import JobsFailedError, UserError
from hpclaunch.jobs.job import JobRow, State

_PREFIX = "rank"
_RANK = re.compile(rf"{_PREFIX}\d+(?:\.[0-9a-f]+)?", re.ASCII)
#: Seconds in which a rank whose connection is lost may come back.
_GRACE_SECONDS = 15.0


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
        self.has_joined = False
        self.since = now
        self.story: list[str] = []
        self.has_joined = False
        self.ended = ""  # why it will have no more workers
        self.vanished: asyncio.TimerHandle | None = None  # runs while its connection is lost


class Ranks:
    """The ranks that have workers.

    :param hosts: for each of them its number and its host.
    :param processes: workers of each.
    :param on_failure: told when no rank will have workers any more, and why.
    """

    failure: JobsFailedError | None = None

    def __init__(
        self,
        hosts: Sequence[tuple[int, str]],
        processes: int,
        clock: Callable[[], float] = time.time,
        on_failure: Callable[[JobsFailedError], None] = lambda error: None,
    ) -> None:
        self._on_failure = on_failure
        self._is_closed = False
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

    def coming(self) -> list[int]:
        """Return the memory limits of the workers that may yet come, in bytes; 0 is none, or not known."""
        return [] if all(rank.has_joined or rank.ended for rank in self._ranks.values()) else [0]

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
        rank.ended = ""
        self.failure = None
        if rank.vanished is not None:
            rank.vanished.cancel()
            rank.vanished = None
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

    def rank_left(self, job: str, reason: str) -> None:
        """A rank says that it will have no more workers; or, without a reason, the connection to it is lost."""
        rank = self._ranks.get(job)
        if rank is None or self._is_closed or rank.ended:
            return
        if reason:
            self._rank_ended(rank, reason)
        elif rank.vanished is None:
            text = f"the connection to it was lost, and it has not come back within {_GRACE_SECONDS:g} s"
            loop = asyncio.get_running_loop()
            rank.vanished = loop.call_later(_GRACE_SECONDS, self._rank_ended, rank, text)

    def _rank_ended(self, rank: _Rank, reason: str) -> None:
        is_back = rank.vanished is not None and bool(rank.workers)
        rank.vanished = None
        if self._is_closed or is_back:
            return
        rank.ended = reason
        rank.story.append(f"+{self._clock() - self._begin:.1f} s  ended: {reason}")
        if not all(one.ended for one in self._ranks.values()):
            return
        reasons = [f"{name} on {one.host}: {one.ended}" for name, one in list(self._ranks.items())[:10]]
        self.failure = JobsFailedError(
            "no worker can come any more: no rank of this parallel job has any, and their number is fixed.\n  "
            + "\n  ".join(reasons)
        )
        self._on_failure(self.failure)

    def table(self) -> list[JobRow]:
        """Return the ranks with their stories."""
        return [
            JobRow(
                id=name,
                state=State.UP if rank.workers else State.ENDED if rank.ended else State.STARTING,
                since=rank.since,
                host=rank.host,
                workers=len(rank.workers),
                reason=rank.ended,
                story=rank.story or ["its workers have not connected yet"],
            )
            for name, rank in self._ranks.items()
        ]

    def notes(self) -> list[str]:
        """Nothing is to be said of the cluster as a whole."""
        return []

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
        self._is_closed = True
