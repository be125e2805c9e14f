"""What a task asks for beside a function and its arguments. Pure data."""

from __future__ import annotations

import math
from typing import NamedTuple

from hpclaunch.comm import messages as m


class Requirements(NamedTuple):
    """What a task asks for, beside a function and its arguments."""

    resources: tuple[tuple[str, float], ...] = ()  # name, amount: taken while the task is on its worker
    workers: frozenset[str] = frozenset()  # whatever is_named() knows them by; empty: any worker
    allow_others: bool = False  # these workers first, but others too
    seconds: float = 0.0  # how long it runs, as the user says; 0: it is learned
    timeout: float = 0.0  # seconds that it may run; 0: as long as it likes
    by_size: bool = False  # it is placed by the bytes that it is given: see hpclaunch.scheduler.sizes


def read(message: m.Terms | None) -> Requirements | None:
    """Return what a client's message asks for; None if that is nothing.

    :raises ValueError: it is not something that can be asked.
    """
    if message is None:
        return None
    for amount in (*message.resources.values(), message.seconds, message.timeout):
        if not 0 <= amount < math.inf:
            raise ValueError(f"terms with an amount of {amount}")
    requirements = Requirements(
        tuple(sorted((name, amount) for name, amount in message.resources.items() if amount)),
        frozenset(message.workers),
        message.allow_others and bool(message.workers),
        message.seconds,
        message.timeout,
    )
    return requirements if requirements != Requirements() else None
