"""What a task asks of its worker, and whether a worker can give it. Pure.

Tasks that ask for nothing do not come here: their way is the short one, in :mod:`hpclaunch.scheduler.placement`.
A worker that can't take a task *now* may be able to later (its resources are used, it is full); one that is ruled
out by its name, its resources or its time never will be.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from hpclaunch.comm import messages as m

if TYPE_CHECKING:
    from hpclaunch.scheduler.state import Task, Worker


class Terms(NamedTuple):
    """What a task asks for, beside a function and its arguments."""

    resources: tuple[tuple[str, float], ...] = ()  # name, amount: taken while the task is on its worker
    workers: frozenset[str] = frozenset()  # whatever is_named() knows them by; empty: any worker
    allow_others: bool = False  # these workers first, but others too
    seconds: float = 0.0  # how long it runs, as the user says; 0: it is learned
    timeout: float = 0.0  # seconds that it may run; 0: as long as it likes
    by_size: bool = False  # it is placed by the bytes that it is given: see hpclaunch.scheduler.sizes


def read(message: m.Terms | None) -> Terms | None:
    """Return what a client's message asks for; None if that is nothing.

    :raises ValueError: it is not something that can be asked.
    """
    if message is None:
        return None
    for amount in (*message.resources.values(), message.seconds, message.timeout):
        if not 0 <= amount < math.inf:
            raise ValueError(f"terms with an amount of {amount}")
    terms = Terms(
        tuple(sorted((name, amount) for name, amount in message.resources.items() if amount)),
        frozenset(message.workers),
        message.allow_others and bool(message.workers),
        message.seconds,
        message.timeout,
    )
    return terms if terms != Terms() else None


def is_named(worker: Worker, names: frozenset[str]) -> bool:
    """Say whether a worker goes by one of these names: its name, address, host, that host's IP address, or job."""
    ip = worker.address.rpartition(":")[0].strip("[]")
    return not names.isdisjoint((worker.name, worker.address, worker.host, ip, worker.job_id))


def has_resources(worker: Worker, terms: Terms, *, free: bool = True) -> bool:
    """Say whether a worker has what a task asks for: free now, or at all."""
    have = worker.free if free else worker.resources
    return all(have.get(name, 0.0) >= amount for name, amount in terms.resources)


def take_resources(worker: Worker, task: Task) -> None:
    """A task was given to a worker: what it asks for is in use."""
    assert task.terms is not None
    for name, amount in task.terms.resources:
        worker.free[name] -= amount


def give_back(worker: Worker, task: Task) -> None:
    """A worker has answered for a task: what it used is free."""
    assert task.terms is not None
    for name, amount in task.terms.resources:
        worker.free[name] += amount
    if not worker.assigned:
        worker.free = dict(worker.resources)  # and with it the rounding errors so far


def can_end(worker: Worker, seconds: float, now: float) -> bool:
    """Say whether one more task of so many seconds would end before the worker's job does."""
    if worker.deadline == math.inf:
        return True
    wait = worker.backlog / worker.threads if len(worker.assigned) >= worker.threads else 0.0
    return now + wait + seconds <= worker.deadline
