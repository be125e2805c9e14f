"""Which worker gets which restricted task: those that ask for resources or for certain workers, or that some
worker had no time for.

Rules: a restricted task is never lost, and does not block others: workers that it can't use go on with other
tasks. It is given before others are, so that work without requirements, of which there may be no end, does not
take all room. A task that outlasts every worker (:attr:`~hpclaunch.scheduler.state.Worker.lifetime`) goes to one
with the most time left, and users are told.

Pure. The cost of a pass depends on the tasks placed, the kinds of restricted tasks and the workers on which
something has changed: a kind that fits on none of the others still does not.
"""

from __future__ import annotations

import math
from operator import attrgetter

from hpclaunch.config.units import format_duration
from hpclaunch.scheduler import eligibility, sizes
from hpclaunch.scheduler.batches import Batch, assign
from hpclaunch.scheduler.state import RestrictedQueue, SchedulerState, Task, Worker, has_room

#: Tasks of one kind that are looked at in one pass and find no worker with room for what they are given.
_MOST_MISSES = 100


def place_restricted(state: SchedulerState, batches: dict[Worker, Batch], now: float) -> None:
    """Give restricted tasks to workers that can take them."""
    changed, state.changed = state.changed, {}
    looked_at_all = changed is None
    if changed is None:
        candidates = [*state.idle, *state.open]
    else:
        candidates = [worker for worker in changed if worker in state.idle or worker in state.open]
    life = (
        max((worker.lifetime for worker in state.workers.values()), default=math.inf)
        if looked_at_all
        else math.inf
    )
    reserved: set[Worker] = set()  # an older task waits until they have room for what it is given
    for queue in _in_order(state):
        is_overlong = queue.seconds > life
        if is_overlong and not queue.function.is_overlong and candidates:
            queue.function.is_overlong = True
            state.overlong.append(queue)
        fit = [worker for worker in candidates if can_take(worker, queue, now, any_time=is_overlong)]
        if is_overlong:
            fit.sort(key=attrgetter("deadline"), reverse=True)
        for group in _groups(queue, fit):
            if queue.requirements.by_size:
                _spread_by_size(state, queue, group, batches, reserved, now, any_time=is_overlong)
                continue
            _spread(state, queue, group, batches, now, any_time=is_overlong)
    state.changed = {}  # what was placed just now leaves no more room than before


def can_take(worker: Worker, queue: RestrictedQueue, now: float, *, any_time: bool = False) -> bool:
    """Say whether a worker can be given a task of this kind now."""
    requirements = queue.requirements
    return (
        worker.accepts
        and has_room(worker)
        and (
            not requirements.workers
            or requirements.allow_others
            or eligibility.is_named(worker, requirements.workers)
        )
        and eligibility.has_resources(worker, requirements)
        and (any_time or eligibility.can_end(worker, queue.seconds, now))
    )


def complaints(state: SchedulerState) -> list[str]:
    """Return what users are to be told, once, of tasks that no job has time for."""
    life = max(worker.lifetime for worker in state.workers.values())
    texts = [
        f"tasks of {queue.function.name} take about {format_duration(queue.seconds)}, longer than any job of this "
        f"cluster lives ({format_duration(life)}). They are run all the same, and will probably be cut off: ask "
        "for a longer walltime, or split them"
        for queue in state.overlong
    ]
    state.overlong.clear()
    return texts


def _in_order(state: SchedulerState) -> list[RestrictedQueue]:
    """Return the kinds that have tasks, that with the first task first; forget the others."""
    kinds: list[tuple[int, int, RestrictedQueue]] = []
    for key, queue in list(state.restricted.items()):
        order = queue.first_order
        if queue.count:
            kinds.append((order, len(kinds), queue))
        else:
            del state.restricted[key]
    return [queue for _, _, queue in sorted(kinds)]


def _groups(queue: RestrictedQueue, fit: list[Worker]) -> list[list[Worker]]:
    """Return workers in the order in which they are asked: those that the task named, then others."""
    if not queue.requirements.allow_others:
        return [fit]
    named = [worker for worker in fit if eligibility.is_named(worker, queue.requirements.workers)]
    return [named, [worker for worker in fit if worker not in named]]


def _spread(
    state: SchedulerState,
    queue: RestrictedQueue,
    workers: list[Worker],
    batches: dict[Worker, Batch],
    now: float,
    *,
    any_time: bool,
) -> None:
    """Give tasks of one kind to these workers, evenly, until there are no tasks or no room."""
    aside: list[Task] = []
    while queue.count and workers:
        share = -(-queue.count // len(workers))
        for worker in workers:
            for _ in range(share):
                if not can_take(worker, queue, now, any_time=any_time):
                    break
                task = queue.pop()
                if task is None:
                    break
                best = _best(queue, task, worker, now)
                if task.key in best.assigned:
                    aside.append(task)
                else:
                    assign(state, best, batches, task)
        workers = [worker for worker in workers if can_take(worker, queue, now, any_time=any_time)]
    for task in aside:
        queue.push(task)


def _spread_by_size(
    state: SchedulerState,
    queue: RestrictedQueue,
    workers: list[Worker],
    batches: dict[Worker, Batch],
    reserved: set[Worker],
    now: float,
    *,
    any_time: bool,
) -> None:
    """Give tasks of one kind to these workers, in turn, as far as they have room for what the tasks are given.

    Workers for which a task waits are reserved: none that is younger is placed there by its size in this pass.
    """
    turn = {worker: None for worker in workers if worker not in reserved}
    aside: list[Task] = []
    while turn and len(aside) < _MOST_MISSES and (task := queue.pop()) is not None:
        best = _next_by_size(turn, task)
        if best is None:
            aside.append(task)
            if sizes.is_oversized(state, task):
                state.oversized.append(task)
            reserved.update(worker for worker in turn if sizes.has_room_at_all(worker, task))
            turn = {worker: None for worker in turn if worker not in reserved}
            continue
        assign(state, best, batches, task, sizes.weight(best, sizes.most_bytes(task) // 2))
        sizes.note(best, task)
        del turn[best]  # to the end, if it stays
        if can_take(best, queue, now, any_time=any_time):
            turn[best] = None
    for task in aside:
        queue.push(task)


def _next_by_size(turn: dict[Worker, None], task: Task) -> Worker | None:
    """Return the worker that has most of a task's inputs and room for the rest, else the first one with room."""
    held: dict[Worker, int] = {}
    for source in task.inputs:
        for holder in source.holders or ():
            held[holder] = held.get(holder, 0) + source.size
    nearest = sorted((worker for worker in held if worker in turn), key=lambda worker: -held[worker])
    for worker in (*nearest, *turn):
        if task.key not in worker.assigned and sizes.has_room_now(worker, task):
            return worker
    return None


def _best(queue: RestrictedQueue, task: Task, default: Worker, now: float) -> Worker:
    """Return the worker that has most of a task's inputs, if it can take it; else ``default``."""
    sizes: dict[Worker, int] = {}
    for source in task.inputs:
        for holder in source.holders or ():
            sizes[holder] = sizes.get(holder, 0) + source.size
    best, most = default, sizes.get(default, 0)
    for worker, size in sizes.items():
        if size > most and task.key not in worker.assigned and can_take(worker, queue, now):
            best, most = worker, size
    return best
