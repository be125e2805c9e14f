"""Tasks that no worker has room for: they fail, with sizes, or wait for a worker that may come. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.function import LARGE_BYTES
from hpclaunch.scheduler.lifecycle import Lifecycle
from hpclaunch.scheduler.sizes import (
    able_workers,
    bytes_of,
    bytes_of_function,
    describe_most,
    format_mb,
    least_bytes,
)
from hpclaunch.scheduler.state import FAILED, READY, SchedulerState, Task


def refuse(lifecycle: Lifecycle, coming: Iterable[int]) -> list[str]:
    """End tasks that the last pass has found to be oversized; return what users are to be told of the others.

    :param coming: memory limits, in bytes, of the workers that the cluster may start; 0 is none. Tasks that one of
        these would have room for wait.
    """
    state, limits = lifecycle.state, list(coming)
    tasks, state.oversized = state.oversized, []
    waiting: list[Task] = []
    for task in tasks:
        if task.state != READY:  # another group of workers has taken it, or it was refused with another one
            continue
        most = max(worker.memory_limit for worker in able_workers(state, task))
        if any(not limit or (limit > most and least_bytes(task) <= limit) for limit in limits):
            waiting += [] if task.function.is_awaited else [task]
            task.function.is_awaited = True
        else:
            lifecycle.end_task(task, FAILED, m.Failure("TooLargeError", _refusal(state, task)))
            state.changed = None  # there may be others behind it
    return [
        f"{_what(task)}. No worker that is connected has room for that; the task waits for one that has"
        for task in waiting
    ]


def _what(task: Task) -> str:
    """Say what is so large."""
    inputs = sum(map(bytes_of, task.inputs))
    parts = []
    function = bytes_of_function(task)
    if function:
        parts.append(f"a function that holds {format_mb(function)}, which a worker has twice while it receives it")
    if len(task.args) >= LARGE_BYTES or not (inputs or function):
        parts.append(f"{format_mb(len(task.args))} of arguments, which a worker has twice while it unpickles them")
    if inputs:
        largest = max(task.inputs, key=bytes_of)
        parts.append(
            f"{len(task.inputs)} inputs of {format_mb(inputs)} together (the largest is {largest.key}, "
            f"{format_mb(bytes_of(largest))})"
        )
    return f"task {task.key} ({task.function.name}) has {' and '.join(parts)}"


def _refusal(state: SchedulerState, task: Task) -> str:
    if bytes_of_function(task):
        advice = "Make or read the data in the task, scatter it in parts and pass the futures"
    elif task.inputs:
        advice = "Combine the inputs in steps, a few per task, have tasks return less"
    else:
        advice = "Make or read the data in the task, pass it in parts"
    most = describe_most(able_workers(state, task))
    return f"{_what(task)}. {most}. {advice}, or give workers more memory (memory=)"
