"""Tasks that take much of a worker's memory for what they are given: who can take them, and when. Pure.

What a task is given is its arguments, which its message carries, and the results that are its inputs. A worker has
arguments twice for a moment (as bytes and as values), and an input, too: one copy is kept for other tasks. Rules:

* A task whose arguments, or whose function, are large (:data:`LARGE_BYTES`), or whose inputs are large for the
  worker that would get it, is placed *by size*: to a worker goes as much at a time as it has room for, and what
  has all of the room goes alone.
* The oldest goes first: workers that it waits for take no younger one by size meanwhile.
* A task that no worker has room for at all is *oversized*. It fails, with sizes; but it waits while workers may
  come that have more.
* A worker without a memory limit has room for everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import msgspec

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.eligibility import has_resources, is_named
from hpclaunch.scheduler.function import AHEAD_SECONDS, LARGE_BYTES, Function
from hpclaunch.scheduler.large_functions import bytes_in_use, is_coming
from hpclaunch.scheduler.requirements import Requirements, read
from hpclaunch.scheduler.state import SchedulerState, Task, Worker

#: Bytes that are not worth to be counted.
SMALL_BYTES = 1 << 16


def parts_of(
    message: m.SubmitTasks, function: Function, size: int
) -> Iterator[tuple[m.SubmitTasks, Requirements | None]]:
    """Cut a message into runs of tasks, in order, that have large arguments or not; with their requirements.

    :param size: bytes of all its arguments together.
    :raises ValueError: the message asks for something that can't be asked.
    """
    requirements = read(message.terms)
    if function.size >= LARGE_BYTES:
        yield message, by_size(requirements)
        return
    if size < LARGE_BYTES or max(map(len, message.args)) < LARGE_BYTES:
        yield message, requirements
        return
    for is_large, run in groupby(range(len(message.keys)), lambda i: len(message.args[i]) >= LARGE_BYTES):
        rows = list(run)
        part = slice(rows[0], rows[-1] + 1)
        columns = {"keys": message.keys[part], "args": message.args[part], "inputs": message.inputs[part]}
        yield msgspec.structs.replace(message, **columns), by_size(requirements) if is_large else requirements


def least_bytes(task: Task) -> int:
    """Return the bytes that a worker has at least at one time for what a task is given."""
    return 2 * (len(task.args) + bytes_of_function(task)) + sum(map(bytes_of, task.inputs))


def most_bytes(task: Task) -> int:
    """Return the bytes that a worker may have at one time for what a task is given."""
    return 2 * (len(task.args) + sum(map(bytes_of, task.inputs)))


def bytes_of_function(task: Task) -> int:
    """Return the bytes of a task's function if that is a large one, else 0."""
    return task.function.size if task.function.size >= LARGE_BYTES else 0


def bytes_of(source: Task) -> int:
    """Return the bytes of a result."""
    return source.size or len(source.result or b"")


def much_of(state: SchedulerState, name: str, keys: Iterable[str]) -> list[str]:
    """Return those of some tasks on a worker that are given so much that its process may have ended for it."""
    worker = state.workers.get(name)
    here = worker.assigned if worker is not None else {}
    most = {key: most_bytes(here[key]) + bytes_of_function(here[key]) for key in keys if key in here}
    return [key for key, size in most.items() if size >= LARGE_BYTES]


def has_room_now(worker: Worker, task: Task) -> bool:
    """Say whether a worker has room for what a task is given, beside what others by size are given there."""
    if not worker.room:
        return True
    if least_bytes(task) > worker.room:
        return False
    taken = _taken(worker) + bytes_in_use(worker)
    coming = 2 * task.function.size if is_coming(worker, task.function) else 0
    return not taken or taken + coming + most_bytes(task) <= worker.room


def _taken(worker: Worker) -> int:
    """Return the bytes that the tasks by size on a worker were given; not those of tasks that wait for others."""
    here, aside = worker.assigned, worker.seceded
    worker.by_size = {key: size for key, size in worker.by_size.items() if key in here and key not in aside}
    return sum(worker.by_size.values())


def note(worker: Worker, task: Task) -> None:
    """A task by size was given to a worker."""
    if worker.room and (size := most_bytes(task)) >= SMALL_BYTES:
        worker.by_size[task.key] = size


def weight(worker: Worker, size: int) -> float:
    """Return what a task that is given so many bytes counts of the work that a worker has ahead.

    What fills half of the room is enough, however quickly it is worked off.
    """
    return 4 * AHEAD_SECONDS * worker.threads * size / worker.room if worker.room else 0.0


def by_size(requirements: Requirements | None) -> Requirements:
    """Return the requirements of a task that is placed by size."""
    return (requirements or Requirements())._replace(by_size=True)


def is_large_for(worker: Worker, size: int) -> bool:
    """Say whether a worker would not have room for such inputs on all its threads, and for one task that waits."""
    return bool(worker.room) and 2 * size * (worker.threads + 1) > worker.room


def has_room_at_all(worker: Worker, task: Task) -> bool:
    """Say whether a worker could take a task if it had nothing else by size."""
    return not worker.room or least_bytes(task) <= worker.room


# --- values that clients put on workers


def has_room_for(worker: Worker, size: int) -> bool:
    """Say whether tasks on a worker could use a value of so many bytes."""
    return not worker.room or size <= worker.room


def why_no_room(workers: Sequence[Worker], size: int, what: str) -> str:
    """Say why none of some workers can keep a value; empty if one can, or there is none.

    :param what: the value, in words.
    """
    if not workers or any(has_room_for(worker, size) for worker in workers):
        return ""
    return (
        f"{what} of {format_mb(size)} is to be put on a worker. {describe_most(workers)}. Scatter it in parts, "
        "read it in a task, or give workers more memory (memory=)"
    )


# --- tasks that are too large for every worker


def is_oversized(state: SchedulerState, task: Task) -> bool:
    """Say whether there are workers that may take a task, and none of them has room for it at all."""
    able = able_workers(state, task)
    return bool(able) and not any(has_room_at_all(worker, task) for worker in able)


def able_workers(state: SchedulerState, task: Task) -> list[Worker]:
    """Return the workers that may take a task, as far as it is not about memory."""
    requirements = task.requirements or Requirements()
    return [
        worker
        for worker in state.workers.values()
        if (not requirements.workers or requirements.allow_others or is_named(worker, requirements.workers))
        and has_resources(worker, requirements, free=False)
    ]


def describe_most(workers: Sequence[Worker]) -> str:
    """Say what the worker with the most memory for tasks has."""
    most = max(workers, key=lambda worker: worker.room)
    return (
        f"No worker has room for that: {most.name} has a limit of {format_mb(most.memory_limit)}, of which "
        f"{format_mb(most.room)} are free for what tasks are given, and none has more"
    )


def format_mb(size: int) -> str:
    """Return a size as text."""
    return f"{size / 1e6:.0f} MB"
