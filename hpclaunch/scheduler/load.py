"""What the scheduler tells its head: how much there is to do, and who does it. Pure data."""

from __future__ import annotations

import msgspec


class Load(msgspec.Struct, frozen=True):
    """How much there is to do, for scaling."""

    tasks_waiting: int
    tasks_ready: int
    tasks_assigned: int
    workers: int
    threads: int
    backlog_seconds: float  # expected run time of all that is ready or assigned, one thread
    busy_jobs: dict[str, int]  # job id -> tasks assigned to its workers
    held_bytes: dict[str, int]  # job id -> bytes of results that only its workers hold


class WorkerInfo(msgspec.Struct, frozen=True):
    """One connected worker."""

    name: str
    job_id: str
    host: str
    head_address: str  # the address at which it reached the head
    threads: int
    memory_limit: int  # bytes; 0 is none
    rss: int  # bytes at the last heartbeat
    tasks: int
    address: str  # where others fetch its results
    resources: dict[str, float]
    seconds_left: float | None  # until its job ends, if that is known
