"""What the scheduler knows: tasks, functions, workers, clients. Data and its rules, no decisions.

A task is in exactly one state:

=========  =====================================================================================
waiting    some input has no result yet
ready      can run; stands in the ready queue
assigned   a worker has it, running or about to
done       its result is here (small) or on workers (large, ``holders``)
released   its result was wanted by nobody and is gone, but a task that may have to be run again needs it
failed     it has a Failure
cancelled  somebody said so
=========  =====================================================================================

A task stays known as long as a client wants it or a known task has it as an input. One table says which steps
are legal; any other raises with the task's story.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from hpclaunch.comm.messages import Failure
from hpclaunch.errors import IllegalTransitionError

WAITING, READY, ASSIGNED, DONE, RELEASED, FAILED, CANCELLED = range(7)
NAMES = ("waiting", "ready", "assigned", "done", "released", "failed", "cancelled")

#: Legal steps: _NEXT[old] has new.
_NEXT: tuple[frozenset[int], ...] = (
    frozenset({READY, FAILED, CANCELLED, RELEASED}),  # waiting
    frozenset({ASSIGNED, WAITING, FAILED, CANCELLED, RELEASED}),  # ready (an input's result was lost)
    frozenset({READY, WAITING, DONE, FAILED, CANCELLED, RELEASED}),  # assigned
    frozenset({READY, WAITING, RELEASED, FAILED}),  # done (result lost; freed)
    frozenset({READY, WAITING, FAILED, CANCELLED}),  # released (needed again)
    frozenset(),  # failed
    frozenset(),  # cancelled
)

#: Seconds that a task of an unknown function is taken to last: two of them fill a thread's queue.
UNKNOWN_SECONDS = 0.05
#: Seconds that even an empty task costs.
LEAST_SECONDS = 20e-6


class Function:
    """A function that tasks call: its bytes, and how long it takes."""

    __slots__ = ("data", "id", "name", "seconds")

    def __init__(self, id: bytes, name: str, data: bytes) -> None:
        self.id = id
        self.name = name
        self.data = data
        self.seconds: float | None = None  # moving average

    def learn(self, seconds: float) -> None:
        """Take one more run time into the average; the newest counts a tenth."""
        known = self.seconds
        self.seconds = seconds if known is None else known + 0.1 * (seconds - known)

    @property
    def cost(self) -> float:
        """Expected seconds of one call."""
        if self.seconds is None:
            return UNKNOWN_SECONDS
        return self.seconds if self.seconds > LEAST_SECONDS else LEAST_SECONDS


class Client:
    """Someone who wants results. ``alone`` is the shared set of just this client."""

    __slots__ = ("alone", "name", "wants")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alone: frozenset[Client] = frozenset((self,))
        self.wants: dict[str, Task] = {}


class Worker:
    """A process that runs tasks."""

    __slots__ = (
        "accepts", "address", "assigned", "backlog", "functions", "holds", "host", "job_id", "last_progress",
        "memory_limit", "name", "recalling", "threads",
    )  # fmt: skip

    def __init__(
        self, name: str, job_id: str, threads: int, *, host: str = "", address: str = "", memory_limit: int = 0
    ) -> None:
        self.name = name
        self.job_id = job_id
        self.threads = threads
        self.host = host
        self.address = address  # where others can fetch results
        self.memory_limit = memory_limit
        self.assigned: dict[str, Task] = {}  # in the order in which they were sent
        self.backlog = 0.0  # expected seconds of all that is assigned
        self.functions: set[bytes] = set()  # ids of functions that it has
        self.holds: dict[str, Task] = {}  # results that it keeps
        self.accepts = True  # False while it drains
        self.recalling = False
        self.last_progress = 0.0


class Task:
    """One function call and its fate."""

    __slots__ = (
        "args", "cost", "deaths", "dependents", "failure", "function", "holders", "inputs", "key", "missing",
        "order", "result", "retries", "size", "state", "wanted_by", "worker",
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
        self.missing = 0  # inputs that are not done
        self.dependents: dict[Task, None] | None = None  # known tasks with this one as an input
        self.worker: Worker | None = None
        self.cost = 0.0
        self.result: bytes | None = None
        self.size = 0
        self.holders: dict[Worker, None] | None = None
        self.failure: Failure | None = None
        self.deaths: list[str] | None = None  # how workers ended that ran it

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
        """True if somebody waits for the result: a client, or a task that has not run."""
        if self.wanted_by:
            return True
        return any(d.state <= ASSIGNED for d in self.dependents) if self.dependents else False


class ReadyQueue:
    """Tasks that can run, by order. Those that come in order wait in a deque; the others in a heap.

    A task that left the ready state while it stood here is skipped when its turn comes.
    """

    __slots__ = ("_fresh", "_late", "count")

    def __init__(self) -> None:
        self._fresh: deque[Task] = deque()
        self._late: list[tuple[int, int, Task]] = []
        self.count = 0  # ready tasks in it

    def push(self, task: Task) -> None:
        """Add a task that has just become ready."""
        fresh = self._fresh
        if not fresh or fresh[-1].order < task.order:
            fresh.append(task)
        else:
            heapq.heappush(self._late, (task.order, id(task), task))
        self.count += 1

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
            if task.state == READY:
                self.count -= 1
                return task

    def forget(self) -> None:
        """Note that a ready task leaves its state in another way than by :meth:`pop`."""
        self.count -= 1

    def __iter__(self) -> Iterator[Task]:
        yield from (t for t in self._fresh if t.state == READY)
        yield from (t for _, _, t in self._late if t.state == READY)


class SchedulerState:
    """All of it. The indexes ``idle`` and ``open`` say which workers can take more."""

    __slots__ = ("clients", "deep", "functions", "idle", "last_order", "open", "ready", "tasks", "workers")

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.functions: dict[bytes, Function] = {}
        self.workers: dict[str, Worker] = {}
        self.clients: dict[str, Client] = {}
        self.ready = ReadyQueue()
        self.idle: dict[Worker, None] = {}  # have nothing to do
        self.open: dict[Worker, None] = {}  # have something, and room for more
        self.deep: dict[Worker, None] = {}  # have more than they can run at once
        self.last_order = 0

    def index(self, worker: Worker) -> None:
        """Put a worker into the indexes that fit what it has now. Call after its assignments changed."""
        count = len(worker.assigned)
        known = self.workers.get(worker.name) is worker
        takes = known and worker.accepts
        _put(self.idle, worker, takes and count == 0)
        _put(self.open, worker, takes and count > 0 and has_room(worker))
        _put(self.deep, worker, known and count > worker.threads)

    def check(self) -> None:
        """Assert every rule of this state; for tests, after each event."""
        ready = set(self.ready)  # a task that left and came back may stand in it twice
        assert len(ready) == self.ready.count, "the ready queue's count is wrong"
        assert {t.key for t in ready} == {k for k, t in self.tasks.items() if t.state == READY}
        for key, task in self.tasks.items():
            assert task.key == key
            self._check_task(task)
        for worker in self.workers.values():
            for task in worker.assigned.values():
                assert task.worker is worker or task.state != ASSIGNED, task.story()
            for task in worker.holds.values():
                assert task.holders, task.story()
                assert worker in task.holders, task.story()
            assert (worker in self.idle) == (worker.accepts and not worker.assigned)
            assert (worker in self.deep) == (len(worker.assigned) > worker.threads)
        for index in (self.idle, self.open, self.deep):
            assert all(self.workers.get(w.name) is w for w in index), "a lost worker is in an index"

    def _check_task(self, task: Task) -> None:
        assert task.wanted_by or task.dependents, f"nobody wants it: {task.story()}"
        assert task.missing == sum(i.state != DONE for i in task.inputs) or task.state not in (WAITING, READY), (
            task.story()
        )
        assert (task.state == WAITING) <= (task.missing > 0), task.story()
        if task.state == ASSIGNED:
            assert task.worker is not None, task.story()
            assert task.worker.assigned.get(task.key) is task, task.story()
        if task.state == DONE:
            assert (task.result is not None) or task.holders, task.story()
        else:
            assert task.result is None, task.story()
            assert not task.holders, task.story()
        assert (task.failure is not None) == (task.state == FAILED), task.story()
        for client in task.wanted_by:
            assert client.wants.get(task.key) is task
        for one in task.inputs:
            assert task in (one.dependents or ()), task.story()
            assert self.tasks.get(one.key) is one, task.story()


def has_room(worker: Worker) -> bool:
    """Say whether a worker may be sent one more task: 100 ms of work per thread ahead, and one task extra."""
    return len(worker.assigned) <= worker.threads or worker.backlog < 0.1 * worker.threads


def _put(index: dict[Worker, None], worker: Worker, inside: bool) -> None:
    if inside:
        index[worker] = None
    else:
        index.pop(worker, None)
