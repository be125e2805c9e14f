"""What clients and running tasks ask beyond submitting, cancelling and releasing.

Pure, as the reactor that this is a part of: each function applies one fact to a Reactor, whole, and leaves a state
for which ``check()`` holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.state import ASSIGNED, CANCELLED, Worker

if TYPE_CHECKING:
    from hpclaunch.scheduler.reactor import Reactor


def on_task_seceded(reactor: Reactor, name: str, message: m.TaskSeceded) -> None:
    """A task has stepped aside, or is back. One that is aside counts as work for nobody, and brings a thread."""
    worker = reactor.state.workers[name]
    task = worker.assigned.get(message.key)
    if task is not None and message.away and message.key not in worker.seceded:
        worker.seceded.add(message.key)
        worker.threads += 1
        worker.backlog -= task.cost
        task.cost = 0.0
    elif not message.away:
        settle(worker, [message.key])
    reactor.state.index(worker)


def settle(worker: Worker, keys: Sequence[str]) -> None:
    """These tasks are aside no more: they are back, or a worker has answered for them."""
    for key in worker.seceded.intersection(keys):
        worker.seceded.discard(key)
        worker.threads -= 1


def on_unstarted_cancelled(reactor: Reactor, keys: Sequence[str]) -> dict[str, list[str]]:
    """Somebody cancels these tasks if they have not begun.

    Returns those of which only a worker knows, by its name; when it gives one of them back, it is cancelled.
    :func:`on_recanting_ended` ends that.
    """
    asked: dict[str, list[str]] = {}
    for key in keys:
        task = reactor.state.tasks.get(key)
        if task is None:
            continue
        if task.state == ASSIGNED and task.worker is not None:
            asked.setdefault(task.worker.name, []).append(key)
            reactor.state.recanted.add(key)
        elif task.state < ASSIGNED:
            reactor.end_task(task, CANCELLED)
    return asked


def on_recanting_ended(reactor: Reactor, keys: Sequence[str]) -> list[str]:
    """The workers have answered what :func:`on_unstarted_cancelled` asked; return what is cancelled."""
    reactor.state.recanted.difference_update(keys)
    tasks = reactor.state.tasks
    return [key for key in keys if key not in tasks or tasks[key].state == CANCELLED]
