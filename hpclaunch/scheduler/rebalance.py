"""Which results go to whom so that all workers hold about the same share of their memory. Pure.

A result is moved as a copy first: its old holder frees it only after the new one has said that it has it
(:func:`free_moved`). So a move that fails half-way, or whose taker dies, loses nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import ToWorker
from hpclaunch.scheduler.state import SchedulerState, Task, Worker

#: Workers whose share differs from the mean by less than this part of it are left as they are.
TOLERANCE = 0.1


class Move(NamedTuple):
    """Take a result from one worker to another, by their names."""

    key: str
    giver: str
    taker: str


def plan(state: SchedulerState, workers: Sequence[str], keys: Collection[str] | None = None) -> list[Move]:
    """Return moves after which these workers hold about the same share of their memory.

    Results go from those that hold most to those that hold least, the largest first, as long as the taker has less
    afterwards than the giver had. Actors stay, and no worker is given what it has.

    :param keys: move only these results; None: any.
    """
    some = [state.workers[name] for name in workers if name in state.workers and state.workers[name].accepts]
    weights = _weights(some)
    held = {worker: sum(task.size for task in worker.holds.values()) for worker in some}
    mean = sum(held.values()) / sum(weights.values()) if some else 0.0
    at: dict[str, set[Worker]] = {}  # who has a result, or had it before
    moves: list[Move] = []
    for giver in sorted(some, key=lambda one: (-held[one] / weights[one], one.name)):
        for task in _movable(giver, keys):
            if held[giver] / weights[giver] <= mean * (1 + TOLERANCE):
                break
            has = at.setdefault(task.key, set(task.holders or ()))
            takers = [worker for worker in some if worker not in has]
            taker = min(takers, key=lambda one: (held[one] / weights[one], one.name), default=None)
            if taker is None or (held[taker] + task.size) / weights[taker] >= held[giver] / weights[giver]:
                continue
            has.add(taker)
            held[giver] -= task.size
            held[taker] += task.size
            moves.append(Move(task.key, giver.name, taker.name))
    return moves


def _weights(workers: Sequence[Worker]) -> dict[Worker, float]:
    """Return what share of all results each worker should have: by its memory, if that of all is known."""
    is_known = all(worker.memory_limit for worker in workers)
    return {worker: float(worker.memory_limit) if is_known else 1.0 for worker in workers}


def _movable(worker: Worker, keys: Collection[str] | None) -> list[Task]:
    """Return the results of a worker that can go to others, the largest first."""
    some = [t for t in worker.holds.values() if t.actor < 0 and t.size and (keys is None or t.key in keys)]
    return sorted(some, key=lambda task: (-task.size, task.key))


def free_moved(state: SchedulerState, moves: Sequence[Move]) -> list[ToWorker]:
    """Have the old holders drop what the new ones have by now; return what is to be sent."""
    commands = []
    for key, giver, taker in moves:
        task, old, new = state.tasks.get(key), state.workers.get(giver), state.workers.get(taker)
        if task is None or not task.holders or old is None or new is None:
            continue
        if old in task.holders and new in task.holders:
            del task.holders[old]
            del old.holds[key]
            commands.append(ToWorker(giver, m.FreeResults([key])))
    return commands
