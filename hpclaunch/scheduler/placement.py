"""Which worker gets which ready task: one pass over what is ready and who has room, once per tick.

Rules: every worker is kept about 100 ms of work ahead (:func:`~hpclaunch.scheduler.state.has_room`), so that tiny
tasks never wait for the network and long ones never pile up; when there are fewer tasks than places, they are
spread; a task with large inputs goes where it would begin first, given the work that is queued there and the
bytes that would have to be fetched; a single small task goes to the worker that is warm from the last one; no
task goes where it could not end before the worker's job does. One that meets such a worker is restricted, as are
those that ask something of their worker: :mod:`hpclaunch.scheduler.restricted` places these, first.

Pure. The cost of a pass depends on the tasks placed and the workers that get some, not on how many workers there
are: workers with room are kept in indexes.
"""

from __future__ import annotations

import math

from hpclaunch.scheduler import sizes
from hpclaunch.scheduler.batches import Batch, assign
from hpclaunch.scheduler.commands import Command, ToWorker
from hpclaunch.scheduler.eligibility import can_end
from hpclaunch.scheduler.function import AHEAD_SECONDS, Function
from hpclaunch.scheduler.restricted import place_restricted
from hpclaunch.scheduler.state import ASSIGNED, SchedulerState, Task, Worker, has_room

#: Bytes per second at which a worker is taken to fetch an input.
BYTES_PER_SECOND = 500e6


def place(state: SchedulerState, now: float = 0.0) -> list[Command]:
    """Give ready tasks to workers with room; return the messages to send."""
    batches: dict[Worker, Batch] = {}
    if state.restricted:
        place_restricted(state, batches, now)
    aside: list[Task] = []  # no worker can take them now
    ready = state.ready
    while ready.count and (index := state.idle or state.open):
        worker = _next(state)
        share = max(worker.threads, -(-ready.count // len(index)))
        _give(state, worker, share, batches, aside, now)
    for task in aside:
        ready.push(task)
    if state.restricted and state.changed is None:  # some had no time for a task: who has?
        place_restricted(state, batches, now)
    for worker in batches:
        if worker.large:
            state.with_large[worker] = None
    return [ToWorker(w.name, message) for w, batch in batches.items() for message in batch.messages]


def _next(state: SchedulerState) -> Worker:
    """Return the worker that gets tasks next.

    Of those with nothing to do, the one that worked last: it is the warmest. But one that keeps large results is
    passed over for the one that has rested longest, so that they do not pile up.
    """
    if not state.idle:
        return next(iter(state.open))
    last = next(reversed(state.idle))
    return next(iter(state.idle)) if last.holds else last


def _give(
    state: SchedulerState,
    worker: Worker,
    share: int,
    batches: dict[Worker, Batch],
    aside: list[Task],
    now: float,
) -> None:
    """Give ``worker`` up to ``share`` ready tasks while it has room."""
    pop, threads, limit = state.ready.pop, worker.threads, AHEAD_SECONDS * worker.threads
    batch = batches.get(worker)
    if batch is None:
        batch = batches[worker] = Batch(worker)
    assigned = worker.assigned
    # What takes less than this ends in time, also as the last of what fits here.
    enough = math.inf
    if worker.deadline != math.inf:
        enough = (worker.deadline - now - worker.backlog / threads - AHEAD_SECONDS) / 2
    function: Function | None = None
    cost = load = 0.0
    while share > 0 and (len(assigned) <= threads or worker.backlog < limit):
        task = pop()
        if task is None:
            break
        if task.function is not function:
            function = task.function
            cost, load = function.cost, function.load
        if cost > enough and not can_end(worker, cost, now):
            state.restricted_queue(task).push(task)
            continue
        if task.inputs or task.key in assigned:
            best, size = _best(state, task, worker, now)
            if best is None:
                aside.append(task)
                continue
            if sizes.is_large_for(best, size):
                task.requirements = sizes.by_size(task.requirements)
                state.restricted_queue(task).push(task)
                continue
            if best is not worker or size > sizes.SMALL_BYTES:
                assign(state, best, batches, task, sizes.weight(best, size))
                share -= best is worker
                continue
        task.state = ASSIGNED  # the table has this step: pop() gives ready tasks only
        task.worker = worker
        task.cost = load
        worker.backlog += load
        assigned[task.key] = task
        batch.add(task)
        share -= 1
    state.open.pop(worker, None)  # if it has still room, it is the last to get more
    state.index(worker)


def _best(state: SchedulerState, task: Task, default: Worker, now: float) -> tuple[Worker | None, int]:
    """Return the worker with room on which a task would begin first, and the bytes of the task's inputs.

    None if no worker can take it. Else that is ``default``, or one of those that hold its inputs. A worker that
    still has an older task of the same key can't take it.
    """
    if task.key in default.assigned:
        default_or_other = _another(state, task, now)
        if default_or_other is None:
            return None, 0
        default = default_or_other
    bytes_at: dict[Worker, int] = {}
    total = small = 0
    for source in task.inputs:
        if source.result is not None:
            small += len(source.result)
            continue
        total += source.size
        for holder in source.holders or ():
            bytes_at[holder] = bytes_at.get(holder, 0) + source.size
    if not bytes_at:
        return default, small
    best = default
    least = _wait(default) + (total - bytes_at.get(default, 0)) / BYTES_PER_SECOND
    for worker, size in bytes_at.items():
        delay = _wait(worker) + (total - size) / BYTES_PER_SECOND
        can_take = worker.accepts and has_room(worker) and task.key not in worker.assigned
        if delay < least and can_take and can_end(worker, task.function.cost, now):
            best, least = worker, delay
    return best, total + small


def _wait(worker: Worker) -> float:
    """Expected seconds until a worker would begin one more task."""
    return worker.backlog / worker.threads if len(worker.assigned) >= worker.threads else 0.0


def _another(state: SchedulerState, task: Task, now: float) -> Worker | None:
    """Return a worker with room that has no older task of this key. It is rare that anyone needs this."""
    for index in (state.idle, state.open):
        for worker in index:
            if task.key not in worker.assigned and can_end(worker, task.function.cost, now):
                return worker
    return None
