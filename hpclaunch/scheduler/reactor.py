"""What the scheduler does about each thing that happens: ``on_<fact>`` methods over a SchedulerState.

Pure: takes ``now`` (seconds, any origin) where time matters; gives commands. Rules:

* A fact is applied whole before the next; :meth:`SchedulerState.check` holds in between.
* A worker's ``assigned`` says what it has, even of tasks that nobody wants any more: an entry leaves only when
  the worker answers, or is lost. So no task runs twice on one worker, and a late answer finds its task.
* Which worker gets which task is not decided here but in :mod:`hpclaunch.scheduler.placement`, once per tick.
* User data is opaque.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import Command, ToClient, ToWorker
from hpclaunch.scheduler.state import (
    ASSIGNED,
    CANCELLED,
    DONE,
    FAILED,
    READY,
    RELEASED,
    WAITING,
    Client,
    Function,
    SchedulerState,
    Task,
    Worker,
)

#: Workers that may be lost with a whole job (walltime, node) while they run one task, before the task is blamed.
EVICTION_LIMIT = 20


class Reactor:
    """Applies facts to ``state`` and collects ``commands``, which the shell takes by :meth:`take_commands`.

    :param allowed_failures: workers that may die while they run one task before it fails.
    """

    def __init__(self, state: SchedulerState | None = None, *, allowed_failures: int = 3) -> None:
        self.state = state or SchedulerState()
        self.allowed_failures = allowed_failures
        self.commands: list[Command] = []
        self._news: dict[str, _News] = {}  # per client, in columns

    def take_commands(self) -> list[Command]:
        """Return what is to be done for the facts since the last call."""
        for client, news in self._news.items():
            self.commands += [ToClient(client, message) for message in news.messages()]
        self._news.clear()
        commands, self.commands = self.commands, []
        return commands

    # --- clients

    def on_client_joined(self, name: str) -> None:
        """A client came. Its name is new."""
        self.state.clients[name] = Client(name)

    def on_client_left(self, name: str) -> None:
        """A client went: what only it wanted is wanted no more."""
        client = self.state.clients.pop(name)
        self.on_keys_released_by(client, list(client.wants))
        self._news.pop(name, None)

    def on_function_defined(self, message: m.DefineFunction) -> None:
        """A client sent a function."""
        functions = self.state.functions
        if message.function not in functions:
            functions[message.function] = Function(message.function, message.name, message.data)

    def on_tasks_submitted(self, name: str, message: m.SubmitTasks) -> None:
        """A client wants these tasks done."""
        state = self.state
        client = state.clients[name]
        function = state.functions[message.function]
        tasks, wants, alone, retries = state.tasks, client.wants, client.alone, message.retries
        order, shift = state.last_order, -(message.priority << 40)
        push, with_inputs = state.ready.push, bool(message.inputs)
        for i, (key, args) in enumerate(zip(message.keys, message.args, strict=True)):
            if key in tasks:
                self._want_again(client, tasks[key])
                continue
            order += 1
            task = tasks[key] = wants[key] = Task(key, function, args, order + shift, alone, retries)
            if with_inputs and message.inputs[i]:
                self._link(task, message.inputs[i])
            else:
                task.state = READY
                push(task)
        state.last_order = order

    def on_keys_released(self, name: str, keys: Sequence[str]) -> None:
        """A client holds no future of these any more."""
        self.on_keys_released_by(self.state.clients[name], keys)

    def on_keys_released_by(self, client: Client, keys: Sequence[str]) -> None:
        """As :meth:`on_keys_released`, also for a client that has left."""
        wants = client.wants
        for key in keys:
            task = wants.pop(key, None)
            if task is None:
                continue
            if task.wanted_by is client.alone:
                task.wanted_by = frozenset()
            else:
                task.wanted_by -= {client}
            if not task.wanted_by:
                self._unwanted(task)

    def on_keys_cancelled(self, keys: Sequence[str]) -> None:
        """Somebody cancelled these tasks: they and all that depends on them end as cancelled."""
        for key in keys:
            task = self.state.tasks.get(key)
            if task is not None and task.state in (WAITING, READY, ASSIGNED, RELEASED):
                self._end(task, CANCELLED)

    def on_results_not_found(self, name: str, keys: Sequence[str]) -> None:
        """A client could not fetch these results from their holders: forget the holders, make them again."""
        for key in keys:
            task = self.state.tasks.get(key)
            if task is None:
                continue
            if task.state == DONE and task.holders:
                self._lose_result(task)
            elif task.state >= DONE:
                self._tell(task)

    # --- workers

    def on_worker_joined(self, worker: Worker, now: float) -> None:
        """A worker is ready for tasks. Its name is new."""
        worker.last_progress = now
        self.state.workers[worker.name] = worker
        self.state.index(worker)

    def on_worker_lost(
        self, name: str, *, running: Iterable[str] | None, how: str, blame: str, now: float
    ) -> None:
        """A worker is gone: its tasks go back to ready, its results are made again if they are needed.

        :param running: keys of the tasks that it ran, if known; else the first ``threads`` that it was sent.
        :param how: how it ended, for the error of a task that sees this too often.
        :param blame: "worker" (the process died: the tasks that it ran count it), "job" (its whole job went:
            they count it lightly), "nobody" (it was told to end, or the batch system ended it).
        """
        worker = self.state.workers.pop(name)
        assigned, worker.assigned = worker.assigned, {}
        self.state.index(worker)
        guilty = set(list(assigned)[: worker.threads] if running is None else running)
        if blame == "nobody":
            guilty = set()
        for task in list(worker.holds.values()):
            assert task.holders is not None
            del task.holders[worker]
            if not task.holders:
                task.holders = None
                self._lose_result(task)
        worker.holds = {}
        for key, task in assigned.items():
            if task.state == ASSIGNED and task.worker is worker:
                self._unassign(task, how if key in guilty else "", blame)

    def on_worker_draining(self, name: str) -> None:
        """A worker is to get no new tasks, and gives back what it has not started."""
        worker = self.state.workers[name]
        worker.accepts = False
        if worker.assigned:
            self.commands.append(ToWorker(name, m.RecallTasks(len(worker.assigned))))
        self.state.index(worker)

    def on_tasks_done(self, name: str, message: m.TasksDone, now: float) -> None:
        """A worker sends small results."""
        worker = self.state.workers[name]
        worker.last_progress = now
        assigned, news = worker.assigned, self._news
        news_of: _News | None = None
        whose: frozenset[Client] | None = None
        for key, result, seconds in zip(message.keys, message.results, message.seconds, strict=True):
            task = assigned.pop(key, None)
            if task is None:
                continue
            worker.backlog -= task.cost
            function = task.function
            known = function.seconds  # what Function.learn does, without a call
            function.seconds = seconds if known is None else known + 0.1 * (seconds - known)
            if task.state != ASSIGNED or task.worker is not worker:
                continue  # cancelled or released since
            task.state = DONE  # the table has this step: ASSIGNED was just checked
            task.worker = None
            task.result = result
            if task.wanted_by is not whose or news_of is None:
                whose = task.wanted_by
                if len(whose) != 1:
                    self._tell(task)
                    whose = None
                    self._finish(task)
                    continue
                (client,) = whose
                news_of = news.get(client.name)
                if news_of is None:
                    news_of = news[client.name] = _News()
            news_of.keys.append(key)
            news_of.results.append(result)
            if task.dependents or task.inputs:
                self._finish(task)
        self.state.index(worker)

    def on_tasks_stored(self, name: str, message: m.TasksStored, now: float) -> None:
        """A worker keeps large results."""
        worker = self.state.workers[name]
        worker.last_progress = now
        unwanted = []
        for key, size, seconds in zip(message.keys, message.sizes, message.seconds, strict=True):
            task = self._answered(worker, key, seconds)
            if task is None:
                if key not in worker.holds:
                    unwanted.append(key)
                continue
            task.move(DONE)
            task.worker = None
            task.size = size
            task.holders = {worker: None}
            worker.holds[key] = task
            self._tell(task)
            self._finish(task)
        if unwanted:
            self.commands.append(ToWorker(name, m.FreeResults(unwanted)))
        self.state.index(worker)

    def on_tasks_failed(self, name: str, message: m.TasksFailed, now: float) -> None:
        """Tasks raised on a worker, or could not be run by it."""
        worker = self.state.workers[name]
        worker.last_progress = now
        for key, failure, seconds in zip(message.keys, message.failures, message.seconds, strict=True):
            task = self._answered(worker, key, seconds)
            if task is None:
                continue
            if task.retries > 0:
                task.retries -= 1
                task.worker = None
                self._make_ready(task)
            else:
                self._end(task, FAILED, failure)
        self.state.index(worker)

    def on_tasks_returned(self, name: str, keys: Sequence[str]) -> None:
        """A worker gives tasks back that it has not started."""
        worker = self.state.workers[name]
        worker.recalling = False
        for key in keys:
            task = self._answered(worker, key, None)
            if task is not None:
                task.worker = None
                self._make_ready(task)
        self.state.index(worker)

    def on_input_missing(self, name: str, message: m.InputMissing) -> None:
        """A worker gives a task back because nobody had these inputs of it: make them again."""
        worker = self.state.workers[name]
        task = self._answered(worker, message.key, None)
        self.state.index(worker)
        if task is None:
            return
        task.worker = None
        self._make_ready(task)
        for key in message.missing:
            source = self.state.tasks.get(key)
            if source is not None and source.state == DONE and source.holders:
                self._lose_result(source)

    def on_copies_held(self, name: str, keys: Sequence[str]) -> None:
        """A worker has fetched results and keeps copies: it is one more holder."""
        worker = self.state.workers[name]
        unwanted = []
        for key in keys:
            task = self.state.tasks.get(key)
            if task is not None and task.state == DONE and task.holders:
                task.holders[worker] = None
                worker.holds[key] = task
            else:
                unwanted.append(key)
        if unwanted:
            self.commands.append(ToWorker(name, m.FreeResults(unwanted)))

    def on_tick(self, now: float) -> None:
        """Every tenth of a second or so: take queued tasks back from busy workers for those with nothing to do."""
        state = self.state
        if not state.idle or state.ready.count or not state.deep:
            return
        hungry = sum(w.threads for w in state.idle)
        for worker in list(state.deep):
            spare = len(worker.assigned) - worker.threads
            is_slow = worker.backlog > 0.05 or now - worker.last_progress > 0.1
            if worker.recalling or not is_slow:
                continue
            worker.recalling = True
            count = min(hungry, (spare + 1) // 2 if spare > 1 else 1)
            self.commands.append(ToWorker(worker.name, m.RecallTasks(count)))
            hungry -= count
            if hungry <= 0:
                return

    # --- steps

    def _link(self, task: Task, keys: Sequence[str]) -> None:
        """Connect a new task with its inputs and put it where it belongs."""
        tasks = self.state.tasks
        unknown = [key for key in keys if key not in tasks]
        if unknown:
            text = f"its input {unknown[0]} is not known here: it was released, or belongs to another cluster"
            self._end(task, FAILED, m.Failure("LostResultError", text))
            return
        task.inputs = tuple(tasks[key] for key in dict.fromkeys(keys))
        for source in task.inputs:
            if source.dependents is None:
                source.dependents = {}
            source.dependents[task] = None
            if source.state == RELEASED:
                self._make_again(source)
            task.missing += source.state != DONE
        bad = next((s for s in task.inputs if s.state in (FAILED, CANCELLED)), None)
        if bad is not None:
            self._end(task, bad.state, bad.failure)
        elif not task.missing:
            task.state = READY
            self.state.ready.push(task)

    def _want_again(self, client: Client, task: Task) -> None:
        """A client names a task that is known already."""
        if client not in task.wanted_by:
            task.wanted_by = client.alone if not task.wanted_by else task.wanted_by | {client}
            client.wants[task.key] = task
        if task.state == RELEASED:
            self._make_again(task)
        elif task.state >= DONE:
            self._tell(task, client)

    def _answered(self, worker: Worker, key: str, seconds: float | None) -> Task | None:
        """Take a task off a worker; return it if its answer still matters."""
        task = worker.assigned.pop(key, None)
        if task is None:
            return None
        worker.backlog -= task.cost
        if seconds is not None:
            task.function.learn(seconds)
        return task if task.state == ASSIGNED and task.worker is worker else None

    def _make_ready(self, task: Task) -> None:
        """Put a task that has no worker among the ready ones, or the waiting ones if an input is missing."""
        task.missing = 0
        for source in task.inputs:
            if source.state == RELEASED:
                self._make_again(source)
            if source.state in (FAILED, CANCELLED):  # it failed while this task was on a worker
                self._end(task, source.state, source.failure)
                return
            task.missing += source.state != DONE
        if task.missing:
            if task.state != WAITING:
                task.move(WAITING)
        else:
            task.move(READY)
            self.state.ready.push(task)

    def _make_again(self, task: Task) -> None:
        """Run a task again whose result was released or lost; its inputs first, however deep."""
        todo = [task]
        while todo:
            one = todo.pop()
            lost = [source for source in one.inputs if source.state == RELEASED]
            if lost:
                todo.append(one)
                todo += lost
            elif one.state == RELEASED:
                self._make_ready(one)

    def _lose_result(self, task: Task) -> None:
        """A stored result has no holder any more."""
        for worker in task.holders or ():
            worker.holds.pop(task.key, None)
        task.holders = None
        task.size = 0
        task.move(RELEASED)
        needed = task.is_needed
        for dependent in task.dependents or ():
            if dependent.state == READY:
                self.state.ready.forget()
                dependent.move(WAITING)
                dependent.missing = 1
            elif dependent.state == WAITING:
                dependent.missing += 1
        if needed:
            self._make_again(task)

    def _finish(self, task: Task) -> None:
        """A task is done: wake those that waited for it, let go of its inputs."""
        for dependent in task.dependents or ():
            if dependent.state == WAITING:
                dependent.missing -= 1
                if not dependent.missing:
                    dependent.move(READY)
                    self.state.ready.push(dependent)
        if task.result is not None:
            self._unlink(task)  # a small result cannot be lost, so nothing before it will be needed again
        else:
            for source in task.inputs:
                self._maybe_free(source)

    def _end(self, task: Task, state: int, failure: m.Failure | None = None) -> None:
        """End a task and all that depend on it as failed or cancelled."""
        todo = [task]
        while todo:
            one = todo.pop()
            if one.state >= FAILED:
                continue
            if one.state == READY:
                self.state.ready.forget()
            elif one.state == ASSIGNED and one.worker is not None and one.key in one.worker.assigned:
                self.commands.append(ToWorker(one.worker.name, m.DropTasks([one.key])))
            one.move(state)
            one.worker = None
            one.failure = failure
            self._tell(one)
            todo += [d for d in one.dependents or () if d.state in (WAITING, READY, RELEASED)]
            self._unlink(one)
            if not one.wanted_by and not one.dependents:
                self.state.tasks.pop(one.key, None)

    def _unassign(self, task: Task, how: str, blame: str) -> None:
        """A task's worker is lost. ``how`` is empty if the task had not begun."""
        task.worker = None
        if how:
            task.deaths = [*(task.deaths or ()), how]
            limit = self.allowed_failures if blame == "worker" else EVICTION_LIMIT
            if len(task.deaths) > limit:
                self._end(task, FAILED, self._killed(task))
                return
        self._make_ready(task)

    def _killed(self, task: Task) -> m.Failure:
        deaths = task.deaths or []
        listed = "\n".join(f"  {i}. {how}" for i, how in enumerate(deaths, 1))
        return m.Failure(
            "KilledWorkerError",
            f"{len(deaths)} workers died while they ran task {task.key} ({task.function.name}); it will not be "
            f"tried again:\n{listed}",
        )

    def _unwanted(self, task: Task) -> None:
        """No client wants this task: forget it, or at least free its result, if no task needs it either."""
        if task.dependents:
            if not task.is_needed:
                self._free(task)
            return
        todo = [task]
        while todo:
            one = todo.pop()
            if one.wanted_by or one.dependents or self.state.tasks.get(one.key) is not one:
                continue
            if one.state in (WAITING, READY, ASSIGNED, DONE):
                self._drop(one)
            del self.state.tasks[one.key]
            todo += self._unlink(one, forget=False)

    def _drop(self, task: Task) -> None:
        """Stop all that is under way for a task that is about to be forgotten, and free its result."""
        if task.state == READY:
            self.state.ready.forget()
        elif task.state == ASSIGNED and task.worker is not None:
            self.commands.append(ToWorker(task.worker.name, m.DropTasks([task.key])))
        if task.state == DONE:
            self._free(task)
        else:
            task.move(RELEASED)
            task.worker = None

    def _unlink(self, task: Task, *, forget: bool = True) -> list[Task]:
        """Cut a task off its inputs; forget those that nobody wants (or return them)."""
        loose: list[Task] = []
        inputs, task.inputs, task.missing = task.inputs, (), 0
        for source in inputs:
            if source.dependents is None:
                continue
            source.dependents.pop(task, None)
            if not source.dependents:
                source.dependents = None
                if not source.wanted_by:
                    loose.append(source)
            else:
                self._maybe_free(source)
        if forget:
            for source in loose:
                self._unwanted(source)
            return []
        return loose

    def _maybe_free(self, task: Task) -> None:
        if task.state == DONE and not task.is_needed:
            self._free(task)

    def _free(self, task: Task) -> None:
        """Let a result go that nobody needs now."""
        if task.state != DONE:
            return
        for worker in task.holders or ():
            worker.holds.pop(task.key, None)
            self.commands.append(ToWorker(worker.name, m.FreeResults([task.key])))
        task.holders = None
        task.result = None
        task.size = 0
        task.move(RELEASED)

    def _tell(self, task: Task, only: Client | None = None) -> None:
        """Tell those who want a task how it ended."""
        for client in (only,) if only is not None else task.wanted_by:
            news = self._news.setdefault(client.name, _News())
            if task.state == DONE and task.result is not None:
                news.keys.append(task.key)
                news.results.append(task.result)
            elif task.state == DONE:
                holders = [w.address or f"worker:{w.name}" for w in task.holders or ()]
                news.stored.append((task.key, task.size, holders))
            elif task.state == FAILED and task.failure is not None:
                news.failed.append((task.key, task.failure))
            elif task.state == CANCELLED:
                news.cancelled.append(task.key)


class _News:
    """What one client is to hear after this round, in columns."""

    __slots__ = ("cancelled", "failed", "keys", "results", "stored")

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.results: list[bytes] = []
        self.stored: list[tuple[str, int, list[str]]] = []
        self.failed: list[tuple[str, m.Failure]] = []
        self.cancelled: list[str] = []

    def messages(self) -> Iterable[m.Message]:
        if self.keys:
            yield m.TasksDone(self.keys, self.results)
        if self.stored:
            keys, sizes, holders = zip(*self.stored, strict=True)
            yield m.TasksStored(list(keys), list(sizes), [], list(holders))
        if self.failed:
            keys, failures = zip(*self.failed, strict=True)
            yield m.TasksFailed(list(keys), list(failures))
        if self.cancelled:
            yield m.TasksCancelled(self.cancelled)
