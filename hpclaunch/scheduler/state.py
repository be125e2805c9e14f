"""What the scheduler knows: tasks, functions, workers, clients. Data and its rules, no decisions.

A task is in exactly one state:

=========  =====================================================================================
waiting    some input has no result yet
ready      can run; stands in the ready queue, or is *restricted*: waits for a worker with what it asks for
assigned   a worker has it, running or about to
done       its result is here (small) or on workers (large, ``holders``)
released   it is not needed and has no result, but a known task has it as an input and may have to be run again
failed     it has a Failure
cancelled  a client said so
=========  =====================================================================================

Waiting, ready and assigned tasks are *active*. A task is *needed* while a client wants it or an active task has it
as an input (``users`` counts those); it stays *known* while a client wants it or any known task has it as an
input. A small result cannot be lost: a task that has one is cut off from its inputs, and keeps it as long as
it is known. A large one can: its task stays linked with its inputs, so that it can be made again, and it is
freed as soon as it is not needed. A failed task too stays linked with its inputs, so that it can be run once more.
One table says which steps are legal; any other raises with the task's story.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from hpclaunch.comm.messages import Failure
from hpclaunch.errors import IllegalTransitionError
from hpclaunch.scheduler.function import AHEAD_SECONDS, Function
from hpclaunch.scheduler.requirements import Requirements

WAITING, READY, ASSIGNED, DONE, RELEASED, FAILED, CANCELLED = range(7)
NAMES = ("waiting", "ready", "assigned", "done", "released", "failed", "cancelled")

#: Legal steps: _NEXT[old] has new.
_NEXT: tuple[frozenset[int], ...] = (
    frozenset({READY, FAILED, CANCELLED, RELEASED}),  # waiting
    frozenset({ASSIGNED, WAITING, FAILED, CANCELLED, RELEASED}),  # ready (an input's result was lost)
    frozenset({READY, WAITING, DONE, FAILED, CANCELLED, RELEASED}),  # assigned
    frozenset({RELEASED}),  # done (result lost; freed)
    frozenset({READY, WAITING, FAILED, CANCELLED}),  # released (needed again)
    frozenset({WAITING}),  # failed (a client says: once more)
    frozenset(),  # cancelled
)


class Client:
    """Someone who wants results. ``alone`` is the shared set of just this client."""

    __slots__ = ("alone", "functions", "name", "wants")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alone: frozenset[Client] = frozenset((self,))
        self.wants: dict[str, Task] = {}
        self.functions: set[bytes] = set()  # ids of those that it has sent


#: Why a worker gets no tasks: it ends after those that it has; its memory is full; its connection is gone;
#: what it is to be set up with has not been carried out.
DRAINING, PAUSED, LOST, UNREADY = 1, 2, 4, 8


class Worker:
    """A process that runs tasks."""

    __slots__ = (
        "address", "assigned", "backlog", "by_size", "deadline", "free", "functions", "holds", "host", "job_id",
        "large", "last_progress", "lifetime", "memory_limit", "name", "overrun", "recalling", "refuses",
        "resources", "room", "seceded", "threads", "unready",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        job_id: str,
        threads: int,
        *,
        host: str = "",
        address: str = "",
        memory_limit: int = 0,
        room: int = 0,
    ) -> None:
        self.name = name
        self.job_id = job_id
        self.threads = threads
        self.host = host
        self.address = address  # where others can fetch results
        self.memory_limit = memory_limit  # bytes; 0 is none
        self.room = room or memory_limit  # bytes of it for what tasks are given; 0 is no limit
        self.by_size: dict[str, int] = {}  # tasks placed by size, and the bytes that they were given
        self.resources: dict[str, float] = {}  # what tasks can ask for
        self.free: dict[str, float] = {}  # those of them that no task uses
        self.deadline = math.inf  # when its job ends, in the time of ``now``
        self.lifetime = math.inf  # seconds that it had when it was new
        self.assigned: dict[str, Task] = {}  # in the order in which they were sent
        self.backlog = 0.0  # expected seconds of all that is assigned
        self.functions: set[bytes] = set()  # ids of functions that it has
        self.large: dict[Function, float | None] = {}  # of them, the large ones, and since when no task calls them
        self.holds: dict[str, Task] = {}  # results that it keeps
        self.seceded: set[str] = set()  # assigned tasks that wait for others; each adds one to ``threads``
        self.refuses = 0  # DRAINING, PAUSED, LOST, UNREADY: why it gets no tasks
        self.unready = ""  # what UNREADY waits for, in words
        self.recalling = False
        self.overrun = 0.0  # seconds by which its last tasks were more than twice what they had counted
        self.last_progress = 0.0

    def set_resources(self, resources: dict[str, float]) -> None:
        """Have these resources, all of them free. For a worker without tasks."""
        self.resources = resources
        self.free = dict(resources)

    def set_deadline(self, deadline: float, lifetime: float) -> None:
        """End at this time, with its job; ``lifetime`` is how many seconds it had when it was new."""
        self.deadline = deadline
        self.lifetime = lifetime

    def rejoin(self, keys: Iterable[str]) -> None:
        """Count these tasks, if they have seceded, as running again or answered for."""
        for key in self.seceded.intersection(keys):
            self.seceded.discard(key)
            self.threads -= 1

    @property
    def accepts(self) -> bool:
        """True if it may be sent tasks."""
        return not self.refuses

    @property
    def fetch_address(self) -> str:
        """Where others ask for its results: its address, or through the head if it has none."""
        return self.address or f"worker:{self.name}"


class Task:
    """One function call and its fate."""

    __slots__ = (
        "actor", "again", "args", "cost", "deaths", "dependents", "failure", "function", "holders", "inputs",
        "key", "missing", "order", "queued", "requirements", "result", "retries", "size", "state", "users",
        "wanted_by", "worker",
    )  # fmt: skip

    def __init__(
        self, key: str, function: Function, args: bytes, order: int, wanted_by: frozenset[Client], retries: int
    ) -> None:
        self.key = key
        self.function = function
        self.args = args
        self.order = order  # lower runs first
        self.wanted_by = wanted_by
        self.retries = retries
        self.state = WAITING
        self.inputs: tuple[Task, ...] = ()
        self.missing = 0  # inputs that are not done, while it is waiting
        self.dependents: dict[Task, None] | None = None  # known tasks with this one as an input
        self.users = 0  # those of them that are active
        self.requirements: Requirements | None = None  # what it asks of its worker; None: nothing
        self.queued: ReadyQueue | None = None  # the queue that has an entry of it, ready or not
        self.worker: Worker | None = None
        self.cost = 0.0
        self.result: bytes | None = None
        self.size = 0
        self.holders: dict[Worker, None] | None = None
        self.failure: Failure | None = None
        self.again: tuple[str, ...] | None = None  # keys of its inputs, if it has failed because one is not known
        self.actor = -1  # how often its result, an actor, is re-created when it is lost; -1: it is none
        self.deaths: list[tuple[str, str]] | None = None  # blame, and how it ended, of workers that ran it

    def __repr__(self) -> str:
        return f"<Task {self.key} {NAMES[self.state]}>"

    def story(self) -> str:
        """What is known of this task, for an error's text."""
        where = f" on {self.worker.name}" if self.worker is not None else ""
        return (
            f"task {self.key} ({self.function.name}) is {NAMES[self.state]}{where}; {self.missing} of "
            f"{len(self.inputs)} inputs missing; {len(self.dependents or ())} dependents; wanted by "
            f"{len(self.wanted_by)} clients; {len(self.deaths or ())} workers died running it"
        )

    def move(self, state: int) -> None:
        """Go to another state.

        :raises IllegalTransitionError: the table has no such step.
        """
        if state not in _NEXT[self.state]:
            raise IllegalTransitionError(f"no way from {NAMES[self.state]} to {NAMES[state]}: {self.story()}")
        self.state = state

    @property
    def is_needed(self) -> bool:
        """True if one waits for the result: a client, or a task that has not run."""
        return self.users > 0 or bool(self.wanted_by)


class TimedRun:
    """A task with a time limit that a worker has begun: until when it may run, and whether that is over."""

    __slots__ = ("is_over", "task", "until")

    def __init__(self, task: Task, until: float) -> None:
        self.task = task
        self.until = until
        self.is_over = False


class ReadyQueue:
    """Tasks that can run, by order. Those that come in order wait in a deque; the others in a heap.

    A task that leaves the ready state in another way than by :meth:`pop` keeps its entry, which is skipped when
    its turn comes, or used again if the task is ready again by then. So no task has two entries.
    """

    __slots__ = ("_fresh", "_late", "count")

    def __init__(self) -> None:
        self._fresh: deque[Task] = deque()
        self._late: list[tuple[int, int, Task]] = []
        self.count = 0  # ready tasks in it

    def push(self, task: Task) -> None:
        """Add a task that has just become ready."""
        self.count += 1
        if task.queued is not None:
            return
        task.queued = self
        fresh = self._fresh
        if not fresh or fresh[-1].order < task.order:
            fresh.append(task)
        else:
            heapq.heappush(self._late, (task.order, id(task), task))

    def pop(self) -> Task | None:
        """Take the first ready task; None if there is none. Its state is still READY."""
        fresh, late = self._fresh, self._late
        while True:
            if late and not (fresh and fresh[0].order < late[0][0]):
                task = heapq.heappop(late)[2]
            elif fresh:
                task = fresh.popleft()
            else:
                return None
            task.queued = None
            if task.state == READY:
                self.count -= 1
                return task

    def forget(self) -> None:
        """Note that a ready task has left its state in another way than by :meth:`pop`."""
        self.count -= 1
        if len(self._fresh) + len(self._late) > 2 * self.count + 1000:
            self._compact()

    def _compact(self) -> None:
        """Drop entries of tasks that are not ready, which may be most of what is in memory."""
        everything = [*self._fresh, *(task for _, _, task in self._late)]
        for task in everything:
            task.queued = self if task.state == READY else None
        self._fresh = deque(sorted((task for task in everything if task.queued is not None), key=_order_of))
        self._late = []

    @property
    def entries(self) -> int:
        """How many entries there are, of tasks that are ready or were."""
        return len(self._fresh) + len(self._late)

    def all(self) -> Iterator[Task]:
        """Return the tasks of all entries, ready or not: cheap to skip through, for samples."""
        return chain(self._fresh, map(_task_of, self._late))

    def __iter__(self) -> Iterator[Task]:
        yield from (t for t in self._fresh if t.state == READY)
        yield from (t for _, _, t in self._late if t.state == READY)


class RestrictedQueue(ReadyQueue):
    """Ready tasks of one function that ask for the same, or that some worker had no time for."""

    __slots__ = ("function", "requirements")

    def __init__(self, function: Function, requirements: Requirements | None) -> None:
        super().__init__()
        self.function = function
        self.requirements = requirements or Requirements()

    @property
    def seconds(self) -> float:
        """Expected run time of each."""
        return self.requirements.seconds or self.function.cost

    @property
    def first_order(self) -> int:
        """The order of the task that :meth:`pop` would give; 0 if there is none."""
        task = self.pop()
        if task is None:
            return 0
        self.push(task)
        return task.order


def _task_of(entry: tuple[int, int, Task]) -> Task:
    return entry[2]


def _order_of(task: Task) -> int:
    return task.order


class SchedulerState:
    """All of it. The indexes ``idle`` and ``open`` say which workers can take more."""

    __slots__ = (
        "cancelled_unstarted",
        "changed",
        "clients",
        "functions",
        "idle",
        "last_order",
        "open",
        "overlong",
        "oversized",
        "ready",
        "restricted",
        "saturated",
        "tasks",
        "timed",
        "waiting",
        "with_large",
        "workers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.functions: dict[bytes, Function] = {}
        self.workers: dict[str, Worker] = {}
        self.clients: dict[str, Client] = {}
        self.ready = ReadyQueue()
        self.restricted: dict[
            tuple[bytes, Requirements | None], RestrictedQueue
        ] = {}  # ready tasks that not every worker can take
        self.changed: dict[Worker, None] | None = {}  # workers that restricted tasks may fit on now; None: all
        self.overlong: list[RestrictedQueue] = []  # whose tasks outlast every worker, and no client was told yet
        self.oversized: list[Task] = []  # ready tasks that no worker has room for
        self.waiting = 0  # tasks in that state
        self.idle: dict[Worker, None] = {}  # have nothing to do
        self.open: dict[Worker, None] = {}  # have something, and room for more
        self.saturated: dict[Worker, None] = {}  # have more than they can run at once
        self.with_large: dict[Worker, None] = {}  # have large functions
        self.last_order = 0
        self.timed: dict[str, dict[str, TimedRun]] = {}  # worker -> task -> what it runs under a time limit
        self.cancelled_unstarted: set[str] = set()  # to be cancelled if a worker gives them back

    def index(self, worker: Worker) -> None:
        """Put a worker into the indexes that fit what it has now. Call after its assignments changed."""
        count = len(worker.assigned)
        if not count:
            worker.backlog = 0.0  # and with it the rounding errors of all additions so far
        known = self.workers.get(worker.name) is worker
        takes = known and worker.accepts
        _put(self.idle, worker, takes and count == 0)
        _put(self.open, worker, takes and count > 0 and has_room(worker))
        _put(self.saturated, worker, known and count > worker.threads)
        if self.restricted and self.changed is not None:
            self.changed[worker] = None

    def push(self, task: Task) -> None:
        """Queue a task that has just become ready."""
        queue = task.queued
        if queue is None:
            queue = self.ready if task.requirements is None else self.restricted_queue(task)
        elif queue is not self.ready and not queue.count:
            self.changed = None
        queue.push(task)

    def restricted_queue(self, task: Task) -> RestrictedQueue:
        """Return the queue of tasks like this one that not every worker can take."""
        key = task.function.id, task.requirements
        queue = self.restricted.get(key)
        if queue is None:
            queue = self.restricted[key] = RestrictedQueue(task.function, task.requirements)
        if not queue.count:
            self.changed = None
        return queue

    def size_of(self, key: str) -> int:
        """Return the bytes of a large result; 0 if there is none with this key."""
        task = self.tasks.get(key)
        return task.size if task is not None else 0

    @property
    def ready_count(self) -> int:
        """How many tasks are ready, held or not."""
        return self.ready.count + sum(queue.count for queue in self.restricted.values())


def has_room(worker: Worker) -> bool:
    """Say whether a worker may be sent one more task: 100 ms of work per thread ahead, and one task extra."""
    return len(worker.assigned) <= worker.threads or worker.backlog < AHEAD_SECONDS * worker.threads


def leave(task: Task) -> None:
    """Take a task off its worker, which has yet to answer for it: something in its place keeps what it counts.

    The task itself may have gone to another worker by then, and count something else there.
    """
    worker = task.worker
    assert worker is not None, task.story()
    rest = Task(task.key, task.function, b"", task.order, frozenset(), 0)
    rest.state, rest.requirements, rest.cost = CANCELLED, task.requirements, task.cost
    worker.assigned[task.key] = rest
    task.worker = None


def unqueue(task: Task) -> None:
    """A ready task is about to leave that state."""
    assert task.queued is not None, task.story()
    task.queued.forget()


def bad_input(task: Task) -> Task | None:
    """Return an input that will never have a result, if there is one."""
    for source in task.inputs:
        if source.state >= FAILED:
            return source
    return None


def cut(task: Task) -> tuple[Task, ...]:
    """Cut a task that is not active off its inputs; return them."""
    inputs, task.inputs, task.missing = task.inputs, (), 0
    for source in inputs:
        assert source.dependents is not None
        del source.dependents[task]
        if not source.dependents:
            source.dependents = None
    return inputs


def _put(index: dict[Worker, None], worker: Worker, inside: bool) -> None:
    if inside:
        index[worker] = None
    else:
        index.pop(worker, None)
