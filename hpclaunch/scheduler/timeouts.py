"""Limits on how long a task may run, as its user gave them. Pure.

The time is kept here and not on the worker, whose loop stands still while a task holds the interpreter: a worker
only says when such a task begins, before it begins. Once a task is over its time it has failed, whatever its
worker does: it is told that it is not wanted any more, and after a grace its process is replaced, by
:mod:`hpclaunch.scheduler.restarts`. An entry leaves when the worker has answered for the task, or is lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import ToWorker
from hpclaunch.scheduler.lifecycle import Lifecycle
from hpclaunch.scheduler.state import ASSIGNED, FAILED, SchedulerState, Task, TimedRun, Worker, leave

#: Seconds that a task has to end by itself when it is over its time.
GRACE_SECONDS = 3.0


def on_task_begun(lifecycle: Lifecycle, name: str, key: str, now: float) -> None:
    """A worker is about to run a task that has a time limit."""
    task = lifecycle.state.workers[name].assigned.get(key)
    if task is not None and task.requirements is not None and task.requirements.timeout:
        lifecycle.state.timed.setdefault(name, {})[key] = TimedRun(task, now + task.requirements.timeout)


def on_answered(state: SchedulerState, name: str, keys: Iterable[str]) -> None:
    """A worker has answered for these tasks."""
    runs = state.timed.get(name)
    if runs is not None:
        for key in keys:
            runs.pop(key, None)
        if not runs:
            del state.timed[name]


def on_timer(lifecycle: Lifecycle, now: float) -> None:
    """Fail the tasks that are over their time, or run them again if they have retries left."""
    for name, runs in list(lifecycle.state.timed.items()):
        worker = lifecycle.state.workers[name]
        for run in list(runs.values()):
            if run.until <= now and not run.is_over:
                run.is_over = True
                if run.task.state == ASSIGNED and run.task.worker is worker:
                    _end(lifecycle, run.task, worker)


def overdue(state: SchedulerState, now: float) -> dict[str, list[str]]:
    """Return, by worker, the tasks that have not ended within the grace."""
    found = {
        name: [key for key, run in runs.items() if run.is_over and run.until + GRACE_SECONDS <= now]
        for name, runs in state.timed.items()
    }
    return {name: keys for name, keys in found.items() if keys}


def _end(lifecycle: Lifecycle, task: Task, worker: Worker) -> None:
    if task.retries > 0:
        task.retries -= 1
        leave(task)
        lifecycle.commands.append(ToWorker(worker.name, m.DropTasks([task.key])))
        lifecycle.requeue(task)
        return
    assert task.requirements is not None
    text = (
        f"task {task.key} ran for longer than its timeout of {task.requirements.timeout:g} s on worker "
        f"{worker.name} (job {worker.job_id}, host {worker.host or 'unknown'}) and was ended"
    )
    lifecycle.end_task(task, FAILED, m.Failure("TaskTimeoutError", text))
