"""Whether a worker can take a task that asks for something, and the resources that tasks use there. Pure.

Tasks that ask for nothing do not come here: :mod:`hpclaunch.scheduler.placement` has a shorter way for them. A
worker that cannot take a task *now* may be able to later (its resources are in use, its queue is full). One that
is ruled out by its name, its resources or its time never will be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpclaunch.scheduler.requirements import Requirements
from hpclaunch.scheduler.state import SchedulerState, Task, Worker


def is_named(worker: Worker, names: frozenset[str]) -> bool:
    """Say whether a worker goes by one of these names: its name, address, host, that host's IP address, or job."""
    ip = worker.address.rpartition(":")[0].strip("[]")
    return not names.isdisjoint((worker.name, worker.address, worker.host, ip, worker.job_id))


def has_resources(worker: Worker, requirements: Requirements, *, free: bool = True) -> bool:
    """Say whether a worker has what a task asks for: free now, or at all."""
    have = worker.free if free else worker.resources
    return all(have.get(name, 0.0) >= amount for name, amount in requirements.resources)


def take_resources(worker: Worker, task: Task) -> None:
    """A task was given to a worker: what it asks for is in use."""
    assert task.requirements is not None
    for name, amount in task.requirements.resources:
        worker.free[name] -= amount


def give_back(worker: Worker, task: Task) -> None:
    """A worker has answered for a task: what it used is free."""
    assert task.requirements is not None
    for name, amount in task.requirements.resources:
        worker.free[name] += amount
    if not worker.assigned:
        worker.free = dict(worker.resources)  # and with it the rounding errors so far


def can_end(worker: Worker, seconds: float, now: float) -> bool:
    """Say whether one more task of so many seconds would end before the worker's job does."""
    if worker.deadline == math.inf:
        return True
    wait = worker.backlog / worker.threads if len(worker.assigned) >= worker.threads else 0.0
    return now + wait + seconds <= worker.deadline


def workers_named(state: SchedulerState, names: Sequence[str] | str | None) -> list[str]:
    """Return the workers that go by one of these names (see :func:`is_named`), by name; None: all workers."""
    if names is None:
        return list(state.workers)
    texts = [names] if isinstance(names, str) else names
    meant = frozenset(text.rpartition("://")[2] for text in texts)
    return [name for name, worker in state.workers.items() if is_named(worker, meant)]
