"""What is sent to workers in one pass of placement. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.eligibility import take_resources
from hpclaunch.scheduler.function import LARGE_BYTES
from hpclaunch.scheduler.large_functions import is_coming, make_room
from hpclaunch.scheduler.state import ASSIGNED, SchedulerState, Task, Worker


def assign(
    state: SchedulerState, worker: Worker, batches: dict[Worker, Batch], task: Task, weight: float = 0.0
) -> None:
    """Give a ready task, which is in no queue, to a worker.

    :param weight: what it counts at least of the work that the worker has ahead.
    """
    requirements = task.requirements
    task.move(ASSIGNED)
    task.worker = worker
    load = requirements.seconds if requirements is not None and requirements.seconds else task.function.load
    task.cost = load if load > weight else weight
    worker.backlog += task.cost
    worker.assigned[task.key] = task
    if requirements is not None and requirements.resources:
        take_resources(worker, task)
    batch = batches.get(worker)
    if batch is None:
        batch = batches[worker] = Batch(worker)
    if requirements is not None and requirements.timeout:
        batch.time(task.key)
    if (
        requirements is not None
        and requirements.by_size
        and (len(task.args) >= LARGE_BYTES or is_coming(worker, task.function))
    ):
        batch.add_alone(task)
    else:
        batch.add(task)
    state.index(worker)


class Batch:
    """What one worker is sent in this pass: runs of tasks of one function share a message."""

    __slots__ = ("_args", "_function", "_keys", "_timed", "messages", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.messages: list[m.Message] = []
        self._function: bytes | None = None
        self._keys: list[str] = []
        self._args: list[bytes] = []
        self._timed: list[str] = []

    def time(self, key: str) -> None:
        """Have the worker say when it begins a task, which is added next."""
        if not self._timed:
            self.messages.insert(0, m.SayWhenBegun(self._timed))
        self._timed.append(key)

    def add_alone(self, task: Task) -> None:
        """Add a task with large arguments, or the first of a large function, in a message of its own.

        The worker is told before that it comes.
        """
        self.messages.append(m.ExpectTask(task.key))
        self._function = None
        self.add(task)
        self._function = None

    def add(self, task: Task) -> None:
        """Add a task that was just assigned."""
        function = task.function
        if function.id not in self.worker.functions:
            self.messages += make_room(self.worker, function)
            self.worker.functions.add(function.id)
            self.messages.append(function.definition)
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
        yield m.Input(
            source.key, source.result, [worker.fetch_address for worker in source.holders or ()], source.order
        )
