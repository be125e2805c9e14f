"""Which worker gets which ready task: one pass over what is ready and who has room, once per tick.

Rules: every worker is kept about 100 ms of work ahead (:func:`~hpclaunch.scheduler.state.has_room`), so that tiny
tasks never wait for the network and long ones never pile up; when there are fewer tasks than places, they are
spread; a task with large inputs goes where most of their bytes are, among those with room.

Pure. The cost of a pass depends on the tasks placed and the workers that get some, not on how many workers there
are: workers with room are kept in indexes.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import Command, ToWorker
from hpclaunch.scheduler.state import ASSIGNED, SchedulerState, Task, Worker, has_room

#: Workers that are compared for one task with large inputs, besides those that hold them.
_SAMPLE = 8


def place(state: SchedulerState) -> list[Command]:
    """Give ready tasks to workers with room; return the messages to send."""
    batches: dict[Worker, _Batch] = {}
    ready = state.ready
    while ready.count:
        worker = _next_worker(state)
        if worker is None:
            break
        free = len(state.idle) + len(state.open)
        share = max(worker.threads, -(-ready.count // max(free, 1)))
        _give(state, worker, share, batches)
    commands: list[Command] = []
    for worker, batch in batches.items():
        state.index(worker)
        commands += [ToWorker(worker.name, message) for message in batch.messages]
    return commands


def _next_worker(state: SchedulerState) -> Worker | None:
    for index in (state.idle, state.open):
        for worker in index:
            return worker
    return None


def _give(state: SchedulerState, worker: Worker, share: int, batches: dict[Worker, _Batch]) -> None:
    """Give ``worker`` up to ``share`` ready tasks while it has room."""
    pop, threads, limit = state.ready.pop, worker.threads, 0.1 * worker.threads
    batch = batches.get(worker)
    if batch is None:
        batch = batches[worker] = _Batch(worker)
    assigned = worker.assigned
    put_back: list[Task] = []
    while share > 0 and (len(assigned) <= threads or worker.backlog < limit):
        task = pop()
        if task is None:
            break
        if task.inputs:
            best = _nearest(state, task, worker)
            if best is not worker:
                _assign(best, batches.setdefault(best, _Batch(best)), task)
                state.index(best)
                continue
        if task.key in assigned:  # an older task of this key has not ended here
            put_back.append(task)
            break
        task.state = ASSIGNED  # the table has this step: pop() gives ready tasks only
        task.worker = worker
        task.cost = cost = task.function.cost
        worker.backlog += cost
        assigned[task.key] = task
        batch.add(task)
        share -= 1
    state.index(worker)
    for task in put_back:
        state.ready.push(task)
        _set_aside(state, worker)


def _assign(worker: Worker, batch: _Batch, task: Task) -> None:
    task.state = ASSIGNED
    task.worker = worker
    task.cost = task.function.cost
    worker.backlog += task.cost
    worker.assigned[task.key] = task
    batch.add(task)


def _set_aside(state: SchedulerState, worker: Worker) -> None:
    """Take a worker out of this pass; its next answer puts it back."""
    state.idle.pop(worker, None)
    state.open.pop(worker, None)


def _nearest(state: SchedulerState, task: Task, default: Worker) -> Worker:
    """Return the worker with room that has most bytes of a task's inputs; ``default`` if none has any."""
    bytes_at: dict[Worker, int] = {}
    for source in task.inputs:
        for holder in source.holders or ():
            bytes_at[holder] = bytes_at.get(holder, 0) + source.size
    best, most = default, bytes_at.get(default, 0)
    for worker, size in bytes_at.items():
        if size > most and worker.accepts and has_room(worker) and task.key not in worker.assigned:
            best, most = worker, size
    return best


class _Batch:
    """What one worker is sent in this pass: runs of tasks of one function share a message."""

    __slots__ = ("_args", "_function", "_keys", "messages", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.messages: list[m.Message] = []
        self._function: bytes | None = None
        self._keys: list[str] = []
        self._args: list[bytes] = []

    def add(self, task: Task) -> None:
        """Add a task that was just assigned."""
        function = task.function
        if function.id not in self.worker.functions:
            self.worker.functions.add(function.id)
            self.messages.append(m.DefineFunction(function.id, function.name, function.data))
        if task.inputs:
            self._function = None
            self.messages.append(m.RunTask(function.id, task.key, task.args, list(_inputs(task))))
            return
        if self._function is not function.id:
            self._function = function.id
            self._keys, self._args = [], []
            self.messages.append(m.RunTasks(function.id, self._keys, self._args))
        self._keys.append(task.key)
        self._args.append(task.args)


def _inputs(task: Task) -> Iterable[m.Input]:
    for source in task.inputs:
        holders = [w.address or f"worker:{w.name}" for w in source.holders or ()]
        yield m.Input(source.key, source.result, holders)
