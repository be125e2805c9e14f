"""Values that clients bring to workers themselves: which worker shall have one, and that it has it.

Pure.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from hpclaunch.comm import messages as m
from hpclaunch.errors import TooLargeError
from hpclaunch.scheduler.commands import ToWorker
from hpclaunch.scheduler.lifecycle import SCATTERED, Lifecycle
from hpclaunch.scheduler.sizes import has_room_for, why_no_room
from hpclaunch.scheduler.state import DONE, SchedulerState, Task, Worker


def assign_values(state: SchedulerState, sizes: Sequence[int], names: Sequence[str]) -> list[tuple[str, int]]:
    """Return where values of these sizes shall go, workers that have least first; nowhere if no worker takes any.

    :param names: the workers that may keep them.
    :returns: for each value a worker's address, and the order by which it is known.
    :raises TooLargeError: none of these workers has room for one of them.
    """
    known = [state.workers[name] for name in names]
    for size in sizes:
        if text := why_no_room(known, size, "a value"):
            raise TooLargeError(text)
    heap = [(len(one.holds) + len(one.assigned), one.name, one) for one in known if one.accepts and one.address]
    heapq.heapify(heap)
    chosen: list[tuple[str, int]] = []
    for size in sizes:
        aside: list[tuple[int, str, Worker]] = []
        while heap and not has_room_for(heap[0][2], size):
            aside.append(heapq.heappop(heap))
        if not heap:  # those that have room for it take nothing now: this and the rest find their own way
            return []
        load, name, worker = heap[0]
        state.last_order += 1
        chosen.append((worker.address, state.last_order))
        heapq.heapreplace(heap, (load + 1, name, worker))
        for one in aside:
            heapq.heappush(heap, one)
    return chosen


def on_data_brought(lifecycle: Lifecycle, name: str, message: m.Brought) -> None:
    """A worker keeps a value that a client has brought. If it is not needed there, the worker is to free it."""
    state, worker = lifecycle.state, lifecycle.state.workers[name]
    client, task = state.clients.get(message.client), state.tasks.get(message.key)
    if client is not None and task is None:
        task = Task(message.key, SCATTERED, b"", message.order, client.alone, 0)
        task.state, task.size, task.holders = DONE, message.size, {worker: None}
        state.tasks[message.key] = client.wants[message.key] = worker.holds[message.key] = task
        lifecycle.report(task)
        state.index(worker)
        return
    if task is None or task.order != message.order:
        lifecycle.commands.append(ToWorker(name, m.FreeResults([message.key], [message.order])))
    if client is not None and task is not None:
        lifecycle.want(client, task)
