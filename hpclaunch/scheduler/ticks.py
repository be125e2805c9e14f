"""When the scheduler has a tick, and how it stays awake for a lone task.

Whatever happens in one turn of the event loop, there is one tick at its end.

A user who waits for one task before the next is submitted sends the head to sleep twice for each. Waking it is
dear, on a virtual machine as dear as all that it does for the task. So after a tick about a lone task it looks
for messages again and again for a moment, instead of sleeping. That takes a processor which has nothing else to do
in such a cluster; where there is only one, or where there are more tasks, the head sleeps.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from hpclaunch.scheduler.state import SchedulerState

#: Seconds that the head stays awake: about what a client or worker takes to answer.
AWAKE_SECONDS = 300e-6


class Ticks:
    """Has ticks on a loop.

    :param tick: what is done at the end of a turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: Callable[[], None]) -> None:
        self._loop = loop
        self._tick = tick
        self._is_due = False
        self._awake_until = 0.0
        self._is_awake = False
        self._may_stay_awake = False

    def allow_staying_awake(self) -> None:
        """The loop has a process of its own: let it stay awake if there is more than one processor."""
        self._may_stay_awake = len(os.sched_getaffinity(0)) > 1

    def schedule(self) -> None:
        """Have a tick at the end of this turn of the loop."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._go)

    def _go(self) -> None:
        self._is_due = False
        self._tick()

    def stay_awake(self, state: SchedulerState) -> None:
        """After a tick that had something to say: do not sleep for a moment if it was about a lone task."""
        if self._may_stay_awake and has_lone_task(state):
            self._awake_until = time.monotonic() + AWAKE_SECONDS
            if not self._is_awake:
                self._is_awake = True
                self._loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        if time.monotonic() < self._awake_until:
            self._loop.call_soon(self._look_again)
        else:
            self._is_awake = False


def has_lone_task(state: SchedulerState) -> bool:
    """Say whether no more than one task is on all workers together, and none is ready."""
    if state.ready.count or len(state.workers) - len(state.idle) > 1:
        return False
    return not state.saturated and all(len(worker.assigned) == 1 for worker in state.open)
