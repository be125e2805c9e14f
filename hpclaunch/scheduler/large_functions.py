"""Functions that hold much data: when a worker is told to forget them, and what of its memory they take. Pure.

A small function stays on the workers that have it until its client is done with it. A large one takes a worker's
memory: the head has the worker forget it as soon as none of its tasks have used it for a moment, and before that
when another large one comes. The worker is sent it again if it is needed again.
"""

from __future__ import annotations

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import Command, ToWorker
from hpclaunch.scheduler.function import LARGE_BYTES, Function
from hpclaunch.scheduler.state import SchedulerState, Worker

#: Seconds for which a worker keeps one that no task of it uses.
IDLE_SECONDS = 1.0


def is_coming(worker: Worker, function: Function) -> bool:
    """Say whether a function is a large one that a worker would have to be sent."""
    return function.size >= LARGE_BYTES and function.id not in worker.functions


def make_room(worker: Worker, function: Function) -> list[m.Message]:
    """A worker is about to be sent a function: return what it is told before, if that is a large one."""
    if function.size < LARGE_BYTES:
        return []
    idle = _idle(worker)
    worker.large[function] = None
    return [_forget(worker, idle)] if idle else []


def bytes_in_use(worker: Worker) -> int:
    """Return the bytes of the large functions that tasks on a worker call."""
    if not worker.large:
        return 0
    return sum(one.size for one in worker.large) - sum(one.size for one in _idle(worker))


def forget_idle(state: SchedulerState, now: float) -> list[Command]:
    """Have workers forget large functions that no task has used for a moment. Called all the time."""
    commands: list[Command] = []
    for worker in list(state.with_large):
        idle = _idle(worker)
        for one in worker.large:
            if one not in idle:
                worker.large[one] = None
            elif worker.large[one] is None:
                worker.large[one] = now
        old = [one for one in idle if now - (worker.large[one] or now) >= IDLE_SECONDS]
        if old:
            commands.append(ToWorker(worker.name, _forget(worker, old)))
        if not worker.large or state.workers.get(worker.name) is not worker:
            del state.with_large[worker]
    return commands


def _idle(worker: Worker) -> list[Function]:
    """Return the large functions on a worker that no task there calls."""
    used = {task.function for task in worker.assigned.values()} if worker.large else set()
    return [one for one in worker.large if one not in used]


def _forget(worker: Worker, functions: list[Function]) -> m.ForgetFunctions:
    for one in functions:
        del worker.large[one]
    ids = [one.id for one in functions]
    worker.functions.difference_update(ids)
    return m.ForgetFunctions(ids)
