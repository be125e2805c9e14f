"""Values that clients bring to workers themselves: which worker shall have one, and that it has it.

Pure, as the reactor that this is a part of.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import ToWorker
from hpclaunch.scheduler.state import DONE, SchedulerState, Task
from hpclaunch.scheduler.wishes import SCATTERED

if TYPE_CHECKING:
    from hpclaunch.scheduler.reactor import Reactor


def places(state: SchedulerState, count: int, names: Sequence[str]) -> list[tuple[str, int]]:
    """Return where so many values shall go, workers that have least first; nowhere if no worker takes any.

    :param names: the workers that may keep them.
    :returns: for each value a worker's address, and the order by which it is known.
    """
    workers = [worker for name in names if (worker := state.workers[name]).accepts and worker.address]
    heap = [(len(worker.holds) + len(worker.assigned), worker.name, worker.address) for worker in workers]
    heapq.heapify(heap)
    chosen: list[tuple[str, int]] = []
    while heap and len(chosen) < count:
        load, name, address = heap[0]
        state.last_order += 1
        chosen.append((address, state.last_order))
        heapq.heapreplace(heap, (load + 1, name, address))
    return chosen


def on_data_brought(reactor: Reactor, name: str, message: m.Brought) -> None:
    """A worker keeps a value that a client has brought. If nobody needs it there, the worker is to let it go."""
    state, worker = reactor.state, reactor.state.workers[name]
    client, task = state.clients.get(message.client), state.tasks.get(message.key)
    if client is not None and task is None:
        task = Task(message.key, SCATTERED, b"", message.order, client.alone, 0)
        task.state, task.size, task.holders = DONE, message.size, {worker: None}
        state.tasks[message.key] = client.wants[message.key] = worker.holds[message.key] = task
        reactor.tell(task)
        state.index(worker)
        return
    if task is None or task.order != message.order:
        reactor.commands.append(ToWorker(name, m.FreeResults([message.key], [message.order])))
    if client is not None and task is not None:
        reactor.want_again(client, task)
