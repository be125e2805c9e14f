"""Results that only workers hold which are about to end, and who is to take them. Pure.

What is moved is copied first: a result is its old holder's until another has said that it keeps a copy. So nothing
is lost when a move fails half-way, and nobody has to be told of a move.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import ToWorker
from hpclaunch.scheduler.state import DRAINING, SchedulerState, Task, Worker

#: Seconds after which a result that has not arrived is sent to somebody else.
RETRY_SECONDS = 10.0


def only_here(worker: Worker) -> list[Task]:
    """Return the tasks whose results would be lost with this worker and others that drain. Actors can't move."""
    return [
        task
        for task in worker.holds.values()
        if task.actor < 0 and all(holder.refuses & DRAINING for holder in task.holders or ())
    ]


def moves(state: SchedulerState, leaving: Iterable[Worker], asked: dict[str, float], now: float) -> list[ToWorker]:
    """Return the messages that have other workers fetch what only these hold.

    :param asked: when each result was asked for, by key; kept by the caller from call to call.
    """
    workers = [worker for worker in state.workers.values() if worker.accepts]
    takers = {worker: sum(task.size for task in worker.holds.values()) for worker in workers}
    if not takers:
        return []
    messages: dict[Worker, m.KeepCopies] = {}
    for task in {task.key: task for worker in leaving for task in only_here(worker)}.values():
        if now - asked.get(task.key, -RETRY_SECONDS) < RETRY_SECONDS:
            continue
        asked[task.key] = now
        taker = min(takers, key=takers.__getitem__)
        takers[taker] += task.size
        message = messages.setdefault(taker, m.KeepCopies([], []))
        message.keys.append(task.key)
        message.holders.append([holder.place for holder in task.holders or ()])
    return [ToWorker(worker.name, message) for worker, message in messages.items()]
