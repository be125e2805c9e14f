"""What the scheduler does about each thing that happens: ``on_<fact>`` methods over a SchedulerState.

Pure: takes ``now`` (seconds, any origin) where time matters; gives commands. Rules:

* A fact is applied whole before the next; :meth:`SchedulerState.check` holds in between.
* A worker's ``assigned`` says what it has, even of tasks that nobody wants any more: an entry leaves only when
  the worker answers, or is lost. So no task runs twice on one worker, and a late answer finds its task.
* Which worker gets which task is not decided here but in :mod:`hpclaunch.scheduler.placement`, once per tick.
* User data is opaque. A message whose columns differ in length raises ValueError, and nothing has changed then.
* Work that nobody needs any more is stopped at once, and results that nobody needs are freed at once: whatever
  takes a task's last wish or user away ends in :meth:`Reactor.let_go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import actors, reference_cycles, references, sizes, timeouts
from hpclaunch.scheduler.client_events import (
    SCATTERED,
    forget_functions,
    is_over,
    let_go_of_unheard,
    lost_scattered,
    replace,
    settle,
    why_not_from,
)
from hpclaunch.scheduler.commands import Command, ToClient, ToWorker
from hpclaunch.scheduler.recall import TOLERANCE, on_overrun, recall
from hpclaunch.scheduler.requirements import Terms, give_back
from hpclaunch.scheduler.state import (
    ASSIGNED,
    CANCELLED,
    DONE,
    DRAINING,
    FAILED,
    MANY_CALLS,
    MUCH_SECONDS,
    READY,
    RELEASED,
    WAITING,
    Client,
    Function,
    SchedulerState,
    Task,
    Worker,
    bad_input,
    cut,
    leave,
    load_of,
    unqueue,
)
from hpclaunch.scheduler.updates import News, killed

#: Workers that may be lost with a whole job (walltime, node) or be killed by somebody while they run one task, or
#: while it waits for others there, before the task is blamed.
EVICTION_LIMIT = 20

#: Seconds between two looks at whether held tasks fit on any worker, when nothing seems to have changed.
HELD_SECONDS = 1.0

_NOBODY: frozenset[Client] = frozenset()


class Reactor:
    """Applies facts to ``state`` and collects ``commands``, which the shell takes by :meth:`take_commands`.

    :param allowed_failures: workers that may die while they run one task before it fails.
    """

    def __init__(self, state: SchedulerState | None = None, *, allowed_failures: int = 3) -> None:
        self.state = state or SchedulerState()
        self.allowed_failures = allowed_failures
        self.commands: list[Command] = []
        self.news: dict[str, News] = {}  # per client, in columns
        self.claims = references.Claims()
        self._looked_at = 0.0

    def take_commands(self) -> list[Command]:
        """Return what is to be done for the facts since the last call."""
        let_go_of_unheard(self)
        references.settle(self)
        for client, news in self.news.items():
            self.commands += [ToClient(client, message) for message in news.messages()]
        self.news.clear()
        commands, self.commands = self.commands, []
        return commands

    # --- clients

    def on_client_joined(self, name: str) -> None:
        """A client came. Its name is new."""
        self.state.clients[name] = Client(name)

    def on_client_left(self, name: str) -> None:
        """A client went: what only it wanted is wanted no more."""
        references.on_client_left(self, name)
        client = self.state.clients.pop(name)
        self.on_keys_released_by(client, list(client.wants))
        self.news.pop(name, None)
        forget_functions(self, client.functions)

    def on_function_defined(self, message: m.DefineFunction) -> None:
        """A client sent a function."""
        functions = self.state.functions
        if message.function not in functions:
            functions[message.function] = Function(message)

    def on_tasks_submitted(self, name: str, message: m.SubmitTasks) -> None:
        """A client wants these tasks done."""
        m.check_columns(message.keys, message.args, message.inputs or message.keys)
        function, size = self.state.functions[message.function], sum(map(len, message.args))
        function.learn_given(size, len(message.args))
        for part, terms in sizes.parts_of(message, function, size):
            self._on_submitted(self.state.clients[name], part, terms)

    def _on_submitted(self, client: Client, message: m.SubmitTasks, terms: Terms | None) -> None:
        state, function = self.state, self.state.functions[message.function]
        tasks, wants, alone, retries = state.tasks, client.wants, client.alone, message.retries
        order, shift = state.last_order, -(message.priority << 40)
        push, with_inputs = state.ready.push if terms is None else state.push, bool(message.inputs)
        for i, (key, args) in enumerate(zip(message.keys, message.args, strict=True)):
            task = Task(key, function, args, order + 1 + shift, alone, retries)
            old = tasks.setdefault(key, task)
            if old is not task:
                if not is_over(old):
                    self.want_again(client, old)
                    continue
                tasks[key] = task
                replace(self, old, task)
            order += 1
            wants[key] = task
            if terms is not None:
                task.terms = terms
            task.actor = message.actor
            if with_inputs and message.inputs[i]:
                self.link(task, message.inputs[i])
            else:
                task.state = READY
                push(task)
        state.last_order = order

    def on_keys_released(self, name: str, keys: Sequence[str]) -> None:
        """A client holds no future of these any more."""
        self.on_keys_released_by(self.state.clients[name], keys)

    def on_keys_released_by(self, client: Client, keys: Sequence[str]) -> None:
        """As :meth:`on_keys_released`, also for a client that has left."""
        wants, alone, tasks = client.wants, client.alone, self.state.tasks
        loose: list[Task] = []
        for key in keys:
            task = wants.pop(key, None)
            if task is None:
                continue
            task.wanted_by = _NOBODY if task.wanted_by is alone else task.wanted_by - alone
            if task.wanted_by:
                continue
            if task.result is not None and not task.dependents:  # it is linked with nothing
                del tasks[key]
            else:
                loose.append(task)
        if self.claims.named:
            self.claims.on_forgotten(key for key in keys if key not in tasks)
            self.claims.suspects.update(keys)
        self.let_go(loose)

    def on_keys_cancelled(self, keys: Sequence[str]) -> None:
        """Somebody cancelled these tasks: they and all that depends on them end as cancelled."""
        for key in keys:
            task = self.state.tasks.get(key)
            if task is not None and task.state <= ASSIGNED:
                self.end_task(task, CANCELLED)

    # --- workers

    def on_worker_joined(self, worker: Worker, now: float) -> None:
        """A worker is ready for tasks. Its name is new."""
        worker.last_progress = now
        self.state.workers[worker.name] = worker
        self.state.changed = None
        self.state.index(worker)

    def on_worker_lost(
        self, name: str, *, running: Iterable[str] | None, how: str, blame: str, now: float
    ) -> None:
        """A worker is gone: its tasks go back to ready, its results are made again if they are needed.

        :param running: keys of the tasks that it ran, if known; else the first ``threads`` that it was sent.
        :param how: how it ended, for the error of a task that sees this too often.
        :param blame: "worker" (the process died: the tasks that it ran count it), "others" (somebody killed it)
            or "job" (its whole job went; of both they count lightly), "nobody" (it was told to end, or the batch
            system ended it). Tasks that waited for others there count it lightly: what they wait for may be what
            takes workers down.
        """
        worker = self.state.workers.pop(name)
        assigned, worker.assigned = worker.assigned, {}
        self.state.timed.pop(name, None)
        self.state.index(worker)
        guilty = set(list(assigned)[: worker.threads] if running is None else running)
        if blame == "nobody":
            guilty = set()
        for task in list(worker.holds.values()):
            if task.holders and worker in task.holders:  # the loss of another may have freed it
                self._lose_holder(task, worker, how)
        waiting = worker.seceded - guilty if blame == "worker" else set()
        for key, task in assigned.items():
            if task.state == ASSIGNED and task.worker is worker:
                if key in waiting:
                    self._unassign(task, how.partition("\n")[0] + ", where it waited for other tasks", "waited")
                else:
                    self._unassign(task, how if key in guilty else "", blame)

    def on_worker_draining(self, name: str) -> None:
        """A worker is to get no new tasks, and gives back what it has not started."""
        worker = self.state.workers[name]
        worker.refuses |= DRAINING
        if worker.assigned:
            self.commands.append(ToWorker(name, m.RecallTasks(len(worker.assigned))))
        self.state.index(worker)

    def on_tasks_done(self, name: str, message: m.TasksDone, now: float) -> None:
        """A worker sends small results."""
        m.check_columns(message.keys, message.results, message.seconds)
        worker = self.state.workers[name]
        worker.last_progress = now
        assigned, news, backlog = worker.assigned, self.news, worker.backlog
        news_of: News | None = None
        whose: frozenset[Client] | None = None
        for key, result, seconds in zip(message.keys, message.results, message.seconds, strict=True):
            task = assigned.pop(key, None)
            if task is None:
                continue
            worker.backlog -= task.cost
            if task.terms is not None:
                give_back(worker, task)
            function = task.function
            function.calls += 1.0  # what Function.learn does, without a call
            function.took = took = function.took + seconds
            if (took > MUCH_SECONDS or function.stored) and function.calls > MANY_CALLS:
                function.forget(seconds)
            if task.state != ASSIGNED or task.worker is not worker:
                continue  # cancelled or released since
            task.state = DONE  # the table has this step: ASSIGNED was just checked
            task.worker = None
            task.result = result
            task.args = b""  # a small result is never made again
            if task.wanted_by is not whose or news_of is None:
                whose = task.wanted_by
                if len(whose) != 1:
                    self.tell(task)
                    whose = None
                    self._finish(task)
                    continue
                (client,) = whose
                news_of = news.get(client.name)
                if news_of is None:
                    news_of = news[client.name] = News()
            news_of.keys.append(key)
            news_of.results.append(result)
            if task.dependents or task.inputs:
                self._finish(task)
        if worker.seceded:
            settle(worker, message.keys)
        if self.state.timed:
            timeouts.settle(self.state, name, message.keys)
        overrun = worker.overrun + sum(message.seconds) - TOLERANCE * (backlog - worker.backlog)
        self.state.index(worker)
        if overrun > 0.0 or worker.overrun:
            self.commands += on_overrun(self.state, worker, overrun)

    def on_tasks_stored(self, name: str, message: m.TasksStored, now: float) -> None:
        """A worker keeps large results."""
        m.check_columns(message.keys, message.sizes, message.seconds)
        worker = self.state.workers[name]
        worker.last_progress = now
        unwanted, backlog, overrun = [], worker.backlog, worker.overrun
        for key, size, seconds in zip(message.keys, message.sizes, message.seconds, strict=True):
            overrun += max(seconds, load_of(size))
            task = self._answered(worker, key, seconds, size)
            if task is None:
                if key not in worker.holds:
                    unwanted.append(key)
                continue
            task.move(DONE)
            task.size = size
            task.holders = {worker: None}
            worker.holds[key] = task
            self.tell(task)
            self._finish(task)
        if unwanted:
            self.commands.append(ToWorker(name, m.FreeResults(unwanted)))
        overrun -= TOLERANCE * (backlog - worker.backlog)
        self.state.index(worker)
        self.commands += on_overrun(self.state, worker, overrun)

    def on_tasks_failed(self, name: str, message: m.TasksFailed, now: float) -> None:
        """Tasks raised on a worker, or could not be run by it."""
        m.check_columns(message.keys, message.failures, message.seconds)
        worker = self.state.workers[name]
        worker.last_progress = now
        for key, failure, seconds in zip(message.keys, message.failures, message.seconds, strict=True):
            task = self._answered(worker, key, seconds)
            if task is None:
                continue
            if task.retries > 0:
                task.retries -= 1
                self.requeue(task)
            else:
                self.end_task(task, FAILED, failure)
        self.state.index(worker)

    def on_tasks_returned(self, name: str, keys: Sequence[str]) -> None:
        """A worker gives tasks back that it has not started."""
        worker = self.state.workers[name]
        worker.recalling = False
        for key in keys:
            task = self._answered(worker, key, None)
            if task is not None:
                self.requeue(task)
        self.state.index(worker)

    def on_input_missing(self, name: str, message: m.InputMissing) -> None:
        """A worker gives a task back because those whom it asked do not have these inputs of it."""
        worker = self.state.workers[name]
        task = self._answered(worker, message.key, None)
        self.state.index(worker)
        if task is not None:
            self.requeue(task)
        for key in message.missing:
            source = self.state.tasks.get(key)
            if source is not None and source.holders:
                self.forget_holders(source, message.asked)

    def on_copies_held(self, name: str, message: m.CopiesHeld) -> None:
        """A worker has fetched results and keeps copies: it is one more holder, if they are of the tasks here."""
        m.check_columns(message.keys, message.orders)
        worker = self.state.workers[name]
        unwanted = m.FreeResults([], [])
        for key, order in zip(message.keys, message.orders, strict=True):
            task = self.state.tasks.get(key)
            if task is not None and task.order == order and task.holders and task.actor < 0:
                task.holders[worker] = None
                worker.holds[key] = task
            else:
                unwanted.keys.append(key)
                unwanted.orders.append(order)
        if unwanted.keys:
            self.commands.append(ToWorker(name, unwanted))

    def on_tick(self, now: float) -> None:
        """Every tenth of a second or so: take queued tasks back from busy workers for those with nothing to do."""
        if now - self._looked_at >= HELD_SECONDS:  # durations are learned, and time goes by
            self._looked_at = now
            self.state.changed = None
        if self.state.timed:
            timeouts.on_tick(self, now)
        if self.claims.suspects:
            reference_cycles.on_tick(self, now)
        self.commands += recall(self.state, now)

    # --- steps: towards a result

    def link(self, task: Task, keys: Sequence[str]) -> None:
        """Connect a new task with its inputs and put it where it belongs."""
        tasks = self.state.tasks
        self.state.waiting += 1
        text = why_not_from(task, keys, tasks)
        if text:
            task.again = tuple(keys)
            self.end_task(task, FAILED, m.Failure("LostResultError", text))
            task.again = tuple(keys)  # never without them
            return
        task.inputs = tuple(tasks[key] for key in dict.fromkeys(keys))
        for source in task.inputs:
            if source.dependents is None:
                source.dependents = {}
            source.dependents[task] = None
            source.users += 1
            task.missing += source.state != DONE
        bad = bad_input(task)
        if bad is not None:
            self.end_task(task, bad.state, bad.failure)
        elif not task.missing:
            self._on_inputs_there(task)
        else:
            for source in task.inputs:
                if source.state == RELEASED:
                    self._make_again(source)

    def want_again(self, client: Client, task: Task) -> None:
        """A client names a task that is known already."""
        if client not in task.wanted_by:
            task.wanted_by = client.alone if not task.wanted_by else task.wanted_by | {client}
            client.wants[task.key] = task
        if task.state == RELEASED:
            self._make_again(task)
        elif task.state >= DONE:
            self.tell(task, client)

    def _answered(self, worker: Worker, key: str, seconds: float | None, size: int = 0) -> Task | None:
        """Take a task off a worker; return it, with no worker, if its answer still matters."""
        task = worker.assigned.pop(key, None)
        if task is None:
            return None
        worker.backlog -= task.cost
        if worker.seceded:
            settle(worker, [key])
        if self.state.timed:
            timeouts.settle(self.state, worker.name, [key])
        if task.terms is not None:
            give_back(worker, task)
        if seconds is not None:
            task.function.learn(seconds, size)
        if task.state != ASSIGNED or task.worker is not worker:
            return None
        task.worker = None
        return task

    def requeue(self, task: Task) -> None:
        """Put an assigned task whose worker has given it up, or is lost, back to where it belongs."""
        if task.key in self.state.recanted:
            self.end_task(task, CANCELLED)
            return
        bad = bad_input(task)  # it failed while this task was on a worker
        if bad is not None:
            self.end_task(task, bad.state, bad.failure)
        else:
            self._queue(task)

    def _queue(self, task: Task) -> None:
        """Make an assigned or released task ready, or waiting if an input has no result."""
        task.missing = sum(source.state != DONE for source in task.inputs)
        if task.function is SCATTERED:
            self.end_task(task, FAILED, lost_scattered(task))
        elif task.missing:
            task.move(WAITING)
            self.state.waiting += 1
        else:
            task.move(READY)
            self.state.push(task)

    def _make_again(self, task: Task) -> None:
        """Run a task again whose result was freed or lost, and whatever has to run before it."""
        todo = [task]
        while todo:
            one = todo.pop()
            if one.state != RELEASED or not one.is_needed:
                continue
            bad = bad_input(one)
            if bad is not None:
                self.end_task(one, bad.state, bad.failure)
                continue
            for source in one.inputs:
                source.users += 1
                if source.state == RELEASED:
                    todo.append(source)
            self._queue(one)

    def _on_inputs_there(self, task: Task) -> None:
        self.state.waiting -= 1
        task.move(READY)
        self.state.push(task)

    def _finish(self, task: Task) -> None:
        """A task is done: wake those that waited for it, let go of its inputs."""
        for dependent in task.dependents or ():
            if dependent.state == WAITING:
                dependent.missing -= 1
                if not dependent.missing:
                    self._on_inputs_there(dependent)
        if not task.inputs:
            return
        inputs = task.inputs
        for source in inputs:
            source.users -= 1
        if task.result is not None:
            cut(task)  # a small result cannot be lost, so nothing before it will be needed again
        self.let_go([source for source in inputs if not source.users])

    # --- steps: away from it

    def _lose_holder(self, task: Task, worker: Worker, how: str) -> None:
        """A worker does not have a task's result any more; without any other holder, the result is lost."""
        holders = task.holders
        assert holders is not None
        del holders[worker]
        del worker.holds[task.key]
        if holders:
            return
        task.holders = None
        task.size = 0
        task.move(RELEASED)
        for dependent in task.dependents or ():
            if dependent.state == READY:
                unqueue(dependent)
                dependent.move(WAITING)
                dependent.missing = 1
                self.state.waiting += 1
            elif dependent.state == WAITING:
                dependent.missing += 1
        if task.actor >= 0 and not actors.is_made_anew(task):
            self.end_task(task, FAILED, actors.lost(task, worker, how))
        else:
            self._make_again(task)

    def forget_holders(self, task: Task, addresses: Sequence[str]) -> None:
        """Somebody asked for a result at these addresses and did not get it."""
        for worker in list(task.holders or ()) if task.actor < 0 else ():  # an actor is there, reached or not
            if worker.place in addresses and task.holders and worker in task.holders:
                self.commands.append(ToWorker(worker.name, m.FreeResults([task.key])))
                self._lose_holder(task, worker, "")

    def end_task(self, task: Task, state: int, failure: m.Failure | None = None) -> None:
        """End a task and all that depend on it as failed or cancelled."""
        todo, loose = [task], []
        while todo:
            one = todo.pop()
            if one.state >= FAILED:
                continue
            if one.state <= ASSIGNED:
                self._stop(one)
            one.move(state)
            one.failure = failure
            self.tell(one)
            todo += [d for d in one.dependents or () if d.state in (WAITING, READY, RELEASED)]
            loose += [*(one.inputs if state == FAILED else cut(one)), one]  # what has failed may be run once more
        self.let_go(loose)

    def _stop(self, task: Task) -> None:
        """Take an active task off whatever it is on; its state is changed by the caller."""
        if task.state == WAITING:
            self.state.waiting -= 1
        elif task.state == READY:
            unqueue(task)
        elif task.worker is not None:  # else it was just answered for
            self.commands.append(ToWorker(task.worker.name, m.DropTasks([task.key])))
            leave(task)
        for source in task.inputs:
            source.users -= 1

    def let_go(self, todo: list[Task]) -> None:
        """Stop, free or forget those of some tasks that nobody needs, and what only they needed."""
        tasks = self.state.tasks
        self.claims.on_released(todo)
        while todo:
            task = todo.pop()
            if task.wanted_by or task.users or tasks.get(task.key) is not task:
                continue
            if task.state <= ASSIGNED:
                self._stop(task)
                task.move(RELEASED)
                todo += task.inputs
            elif task.holders:
                self._free(task)
            if not task.dependents:
                del tasks[task.key]
                todo += (inputs := cut(task))
                if self.claims.named:
                    self.claims.on_released(inputs)
                    self.claims.on_forgotten([task.key])

    def _free(self, task: Task) -> None:
        """Let a large result go."""
        for worker in task.holders or ():
            del worker.holds[task.key]
            self.commands.append(ToWorker(worker.name, m.FreeResults([task.key])))
        task.holders = None
        task.size = 0
        task.move(RELEASED)

    def _unassign(self, task: Task, how: str, blame: str) -> None:
        """A task's worker is lost. ``how`` is empty if the task had not begun."""
        task.worker = None
        if how:
            task.deaths = [*(task.deaths or ()), (blame, how)]
            crashes = sum(one == "worker" for one, _ in task.deaths)
            if crashes > self.allowed_failures or len(task.deaths) - crashes > EVICTION_LIMIT:
                self.end_task(task, FAILED, killed(task))
                return
        self.requeue(task)

    # --- news

    def tell(self, task: Task, only: Client | None = None) -> None:
        """Tell those who want a task how it ended."""
        for client in (only,) if only is not None else task.wanted_by:
            news = self.news.setdefault(client.name, News())
            if task.state == DONE and task.result is not None:
                news.keys.append(task.key)
                news.results.append(task.result)
            elif task.state == DONE:
                holders = [worker.place for worker in task.holders or ()]
                news.stored.append((task.key, task.size, holders))
            elif task.state == FAILED and task.failure is not None:
                news.failed.append((task.key, task.failure))
            elif task.state == CANCELLED:
                news.cancelled.append(task.key)
