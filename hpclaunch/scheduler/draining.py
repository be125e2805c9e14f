"""Draining workers that are to end: they finish what they run, and others take what only they hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from hpclaunch.scheduler import evacuation
from hpclaunch.scheduler.commands import Command
from hpclaunch.scheduler.state import SchedulerState, Worker

#: Seconds between two looks.
_LOOK_SECONDS = 0.05


async def wait_until_drained(
    state: SchedulerState,
    workers: Callable[[], Sequence[Worker]],
    send: Callable[[list[Command]], None],
    *,
    until: float,
    patient_until: float,
) -> None:
    """Wait until these workers run nothing and hold nothing that would be lost with them.

    :param until: monotonic time at which to give up.
    :param patient_until: the same, while no worker is there to take what they hold.
    """
    asked: evacuation.Requested = {}
    while (now := time.monotonic()) < until:
        some = workers()
        holding = [worker for worker in some if evacuation.sole_copies(worker)]
        send(list(evacuation.moves(state, holding, asked, now)))
        has_taker = now < patient_until or any(worker.accepts for worker in state.workers.values())
        if not any(worker.assigned for worker in some) and not (holding and has_taker):
            return
        await asyncio.sleep(_LOOK_SECONDS)
