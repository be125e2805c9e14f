"""What the scheduler tells its head: how much there is to do, and who does it. Pure data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.state import SchedulerState, Worker


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


def load_of(state: SchedulerState) -> Load:
    """Say how much there is to do."""
    busy: dict[str, int] = {}
    held: dict[str, int] = {}
    for worker in state.workers.values():
        busy[worker.job_id] = busy.get(worker.job_id, 0) + len(worker.assigned)
        alone = sum(t.size for t in worker.holds.values() if t.holders and len(t.holders) == 1)
        held[worker.job_id] = held.get(worker.job_id, 0) + alone
    assigned = sum(busy.values())
    ready = state.ready_count
    return Load(
        tasks_waiting=state.waiting,
        tasks_ready=ready,
        tasks_assigned=assigned,
        workers=len(state.workers),
        threads=sum(w.threads for w in state.workers.values()),
        backlog_seconds=sum(w.backlog for w in state.workers.values()),
        busy_jobs=busy,
        held_bytes=held,
    )


def infos_of(
    peers: Iterable[Any], state: SchedulerState, vitals: Mapping[str, m.WorkerVitals], now: float
) -> list[WorkerInfo]:
    """Say what is known of each of some connected workers.

    :param peers: their connections, each with the Hello of its worker.
    """
    hellos = [peer.hello for peer in peers]
    return [_info_of(hello, state.workers.get(hello.name), vitals.get(hello.name), now) for hello in hellos]


def _info_of(hello: m.Hello, worker: Worker | None, vitals: m.WorkerVitals | None, now: float) -> WorkerInfo:
    """Say what is known of a connected worker: by itself, by the scheduler, by its supervisor."""
    return WorkerInfo(
        hello.name,
        hello.job_id,
        hello.host,
        hello.head_address,
        hello.threads,
        hello.memory_limit,
        vitals.rss if vitals is not None else 0,
        len(worker.assigned) if worker is not None else 0,
        hello.addresses[0] if hello.addresses else "",
        hello.resources,
        worker.deadline - now if worker is not None and worker.deadline != math.inf else None,
    )


def worker_of(hello: m.Hello, now: float) -> Worker:
    """Return a worker as it says of itself when it joins."""
    worker = Worker(
        hello.name,
        hello.job_id,
        max(1, hello.threads),
        host=hello.host,
        address=hello.addresses[0] if hello.addresses else "",
        memory_limit=hello.memory_limit,
        room=hello.room if hello.memory_limit else 0,
    )
    worker.set_resources(hello.resources)
    if hello.seconds_left > 0:
        worker.set_deadline(now + hello.seconds_left, hello.lifetime or hello.seconds_left)
    return worker
