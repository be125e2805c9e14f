"""Results that only workers hold which are about to end, and who is to take them. Pure.

What is moved is copied first: a result is its old holder's until another has said that it keeps a copy. So nothing
is lost when a move fails half-way, and no client has to be told of a move.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import ToWorker
from hpclaunch.scheduler.state import DRAINING, SchedulerState, Task, Worker

#: Seconds after which a result that has not arrived is sent to another worker.
RETRY_SECONDS = 10.0
#: The part of its memory that a worker may have filled with results for it to be sent more.
_ROOM_SHARE = 0.5

#: Whom each result was sent to, and when, by key.
Requested = dict[str, tuple[str, float]]


def sole_copies(worker: Worker) -> list[Task]:
    """Return the tasks whose results would be lost with this worker and others that drain. Actors can't move."""
    return [
        task
        for task in worker.holds.values()
        if task.actor < 0 and all(holder.refuses & DRAINING for holder in task.holders or ())
    ]


def moves(state: SchedulerState, leaving: Iterable[Worker], asked: Requested, now: float) -> list[ToWorker]:
    """Return the messages that have other workers fetch what only these hold.

    :param asked: kept by the caller from call to call. A result is sent to another worker if it has not arrived
        after a while, and at once if its taker is gone.
    """
    workers = [worker for worker in state.workers.values() if worker.accepts]
    takers = {worker: sum(task.size for task in worker.holds.values()) for worker in workers}
    if not takers:
        return []
    names = {worker.name for worker in takers}
    messages: dict[Worker, m.KeepCopies] = {}
    for task in {task.key: task for worker in leaving for task in sole_copies(worker)}.values():
        before, since = asked.get(task.key, ("", -math.inf))
        if before in names and now - since < RETRY_SECONDS:
            continue
        taker = min(takers, key=takers.__getitem__)
        asked[task.key] = taker.name, now
        takers[taker] += task.size
        message = messages.setdefault(taker, m.KeepCopies([], [], []))
        message.keys.append(task.key)
        message.orders.append(task.order)
        message.holders.append([holder.fetch_address for holder in task.holders or ()])
    return [ToWorker(worker.name, message) for worker, message in messages.items()]


@dataclass(slots=True)
class _JobHoldings:
    """What one job keeps."""

    movable: int = 0  # bytes of results that no other job has
    fixed: int = 0  # the same of actors
    room: float = 0.0  # bytes that it could take
    is_busy: bool = False
    stays: bool = False  # some worker of it takes tasks

    @property
    def can_leave(self) -> bool:
        return self.stays and self.movable > 0 and not self.is_busy and not self.fixed


def pinned_bytes(state: SchedulerState) -> dict[str, int]:
    """Return how many bytes of results keep each job from being released; 0 if it could move all that it has.

    Some job must stay to take what others have: one that has work, or else the one that has most. As much can be
    moved as has room there. Of a job with tasks nothing is said, for it stays in any case.
    """
    jobs: dict[str, _JobHoldings] = {}
    for worker in state.workers.values():
        _add(jobs.setdefault(worker.job_id, _JobHoldings()), worker)
    bound = {job_id: 0 if keep.is_busy else keep.movable + keep.fixed for job_id, keep in jobs.items()}
    idle = [job_id for job_id, keep in jobs.items() if keep.can_leave]
    idle.sort(key=bound.__getitem__)
    room = sum(keep.room for keep in jobs.values() if keep.is_busy or keep.fixed)
    if not room and idle:
        room = jobs[idle.pop()].room
    for job_id in idle:
        if bound[job_id] <= room:
            room -= bound[job_id]
            bound[job_id] = 0
    return bound


def _add(keep: _JobHoldings, worker: Worker) -> None:
    keep.is_busy = keep.is_busy or bool(worker.assigned)
    held = 0
    for task in worker.holds.values():
        held += task.size
        if any(one.job_id != worker.job_id and not one.refuses & DRAINING for one in task.holders or ()):
            continue
        if task.actor < 0:
            keep.movable += task.size
        else:
            keep.fixed += max(1, task.size)
    if worker.accepts:
        most = _ROOM_SHARE * worker.memory_limit if worker.memory_limit else math.inf
        keep.room += max(0.0, most - held)
        keep.stays = True
