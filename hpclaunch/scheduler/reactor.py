"""What the scheduler does about each thing that happens: ``on_<fact>`` methods over a SchedulerState.

Pure: takes ``now`` (seconds, any origin) where time matters; gives commands. Rules:

* A fact is applied whole before the next; :func:`hpclaunch.scheduler.invariants.check` holds in between.
* A worker's ``assigned`` says what it has, even of tasks that are not wanted any more: an entry leaves only when
  the worker answers, or is lost. So no task runs twice on one worker, and a late answer finds its task.
* Which worker gets which task is not decided here but in :mod:`hpclaunch.scheduler.placement`, once per tick.
* User data is opaque. A message whose columns differ in length raises ValueError, and nothing has changed then.
* The steps that a fact takes tasks through are those of :mod:`hpclaunch.scheduler.lifecycle`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import reference_cycles, references, sizes, timeouts
from hpclaunch.scheduler.client_events import UNATTENDED, release_unattended
from hpclaunch.scheduler.commands import Command, ToWorker
from hpclaunch.scheduler.eligibility import give_back
from hpclaunch.scheduler.function import MANY_CALLS, MUCH_SECONDS, load_of_size
from hpclaunch.scheduler.lifecycle import Lifecycle, is_over
from hpclaunch.scheduler.recall import TOLERANCE, on_overrun, recall
from hpclaunch.scheduler.requirements import Requirements
from hpclaunch.scheduler.state import (
    ASSIGNED,
    CANCELLED,
    DONE,
    DRAINING,
    FAILED,
    READY,
    Client,
    SchedulerState,
    Task,
    Worker,
)
from hpclaunch.scheduler.updates import Updates

#: Seconds between two looks at whether restricted tasks fit on any worker, when nothing seems to have changed.
RECHECK_SECONDS = 1.0


class Reactor:
    """Applies facts to ``state``; its shell takes what is to be sent by :meth:`take_commands`.

    :param allowed_failures: workers that may die while they run one task before it fails.
    """

    def __init__(self, state: SchedulerState | None = None, *, allowed_failures: int = 3) -> None:
        self.state = state or SchedulerState()
        self.lifecycle = Lifecycle(self.state, allowed_failures=allowed_failures)
        self._looked_at = 0.0

    def take_commands(self) -> list[Command]:
        """Return what is to be sent for the facts since the last call."""
        lifecycle = self.lifecycle
        if UNATTENDED in lifecycle.updates:
            release_unattended(lifecycle)
        if lifecycle.references.dropped:
            references.release_dropped(lifecycle)
        return lifecycle.take_commands()

    # --- clients

    def on_client_joined(self, name: str) -> None:
        """A client came. Its name is new."""
        self.lifecycle.add_client(name)

    def on_client_left(self, name: str) -> None:
        """A client left: what only it wanted is not wanted any more."""
        references.on_client_left(self.lifecycle, name)
        self.lifecycle.remove_client(name)

    def on_function_defined(self, message: m.DefineFunction) -> None:
        """A client sent a function."""
        self.lifecycle.define_function(message)

    def on_tasks_submitted(self, name: str, message: m.SubmitTasks) -> None:
        """A client wants these tasks done."""
        m.check_columns(message.keys, message.args, message.inputs or message.keys)
        function, size = self.state.functions[message.function], sum(map(len, message.args))
        function.learn_given(size, len(message.args))
        for part, requirements in sizes.parts_of(message, function, size):
            self._on_submitted(self.state.clients[name], part, requirements)

    def _on_submitted(self, client: Client, message: m.SubmitTasks, requirements: Requirements | None) -> None:
        state, function = self.state, self.state.functions[message.function]
        tasks, wants, alone, retries = state.tasks, client.wants, client.alone, message.retries
        order, shift, link = state.last_order, -(message.priority << 40), self.lifecycle.link
        push, with_inputs = state.ready.push if requirements is None else state.push, bool(message.inputs)
        for i, (key, args) in enumerate(zip(message.keys, message.args, strict=True)):
            task = Task(key, function, args, order + 1 + shift, alone, retries)
            old = tasks.setdefault(key, task)
            if old is not task:
                if not is_over(old):
                    self.lifecycle.want(client, old)
                    continue
                tasks[key] = task
                self.lifecycle.replace(old, task)
            order += 1
            wants[key] = task
            if requirements is not None:
                task.requirements = requirements
            task.actor = message.actor
            if with_inputs and message.inputs[i]:
                link(task, message.inputs[i])
            else:
                task.state = READY
                push(task)
        state.last_order = order

    def on_keys_released(self, name: str, keys: Sequence[str]) -> None:
        """A client holds no future of these any more."""
        self.lifecycle.release_keys(self.state.clients[name], keys)

    def on_keys_cancelled(self, keys: Sequence[str]) -> None:
        """A client cancelled these tasks: they and all that depends on them end as cancelled."""
        for key in keys:
            task = self.state.tasks.get(key)
            if task is not None and task.state <= ASSIGNED:
                self.lifecycle.end_task(task, CANCELLED)

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
        :param blame: "worker" (the process died: the tasks that it ran count it), "others" (it was killed from
            outside) or "job" (its whole job went; of both they count lightly), "none" (it was told to end, or
            the batch system ended it). Tasks that waited for others there count it lightly: what they wait for
            may be what takes workers down.
        """
        worker = self.state.workers.pop(name)
        assigned, worker.assigned = worker.assigned, {}
        self.state.timed.pop(name, None)
        self.state.index(worker)
        guilty = set(list(assigned)[: worker.threads] if running is None else running)
        if blame == "none":
            guilty = set()
        for task in list(worker.holds.values()):
            if task.holders and worker in task.holders:  # the loss of another may have freed it
                self.lifecycle.lose_holder(task, worker, how)
        waiting = worker.seceded - guilty if blame == "worker" else set()
        for key, task in assigned.items():
            if task.state == ASSIGNED and task.worker is worker:
                if key in waiting:
                    first_line = how.partition("\n")[0]
                    self.lifecycle.evict(task, f"{first_line}, where it waited for other tasks", "waited")
                else:
                    self.lifecycle.evict(task, how if key in guilty else "", blame)

    def on_worker_draining(self, name: str) -> None:
        """A worker is to get no new tasks, and gives back what it has not started."""
        worker = self.state.workers[name]
        worker.refuses |= DRAINING
        if worker.assigned:
            self.lifecycle.commands.append(ToWorker(name, m.RecallTasks(len(worker.assigned))))
        self.state.index(worker)

    def on_tasks_done(self, name: str, message: m.TasksDone, now: float) -> None:
        """A worker sends small results."""
        m.check_columns(message.keys, message.results, message.seconds)
        worker = self.state.workers[name]
        worker.last_progress = now
        assigned, updates, backlog = worker.assigned, self.lifecycle.updates, worker.backlog
        update: Updates | None = None
        whose: frozenset[Client] | None = None
        for key, result, seconds in zip(message.keys, message.results, message.seconds, strict=True):
            task = assigned.pop(key, None)
            if task is None:
                continue
            worker.backlog -= task.cost
            if task.requirements is not None:
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
            if task.wanted_by is not whose or update is None:
                whose = task.wanted_by
                if len(whose) != 1:
                    self.lifecycle.report(task)
                    whose = None
                    self.lifecycle.finish(task)
                    continue
                (client,) = whose
                update = updates.get(client.name)
                if update is None:
                    update = updates[client.name] = Updates()
            update.keys.append(key)
            update.results.append(result)
            if task.dependents or task.inputs:
                self.lifecycle.finish(task)
        if worker.seceded:
            worker.rejoin(message.keys)
        if self.state.timed:
            timeouts.on_answered(self.state, name, message.keys)
        overrun = worker.overrun + sum(message.seconds) - TOLERANCE * (backlog - worker.backlog)
        self.state.index(worker)
        if overrun > 0.0 or worker.overrun:
            self.lifecycle.commands += on_overrun(self.state, worker, overrun)

    def on_tasks_stored(self, name: str, message: m.TasksStored, now: float) -> None:
        """A worker keeps large results."""
        m.check_columns(message.keys, message.sizes, message.seconds)
        worker = self.state.workers[name]
        worker.last_progress = now
        unwanted, backlog, overrun = [], worker.backlog, worker.overrun
        for key, size, seconds in zip(message.keys, message.sizes, message.seconds, strict=True):
            overrun += max(seconds, load_of_size(size))
            task = self._take_off(worker, key, seconds, size)
            if task is None:
                if key not in worker.holds:
                    unwanted.append(key)
                continue
            task.move(DONE)
            task.size = size
            task.holders = {worker: None}
            worker.holds[key] = task
            self.lifecycle.report(task)
            self.lifecycle.finish(task)
        if unwanted:
            self.lifecycle.commands.append(ToWorker(name, m.FreeResults(unwanted)))
        overrun -= TOLERANCE * (backlog - worker.backlog)
        self.state.index(worker)
        self.lifecycle.commands += on_overrun(self.state, worker, overrun)

    def on_tasks_failed(self, name: str, message: m.TasksFailed, now: float) -> None:
        """Tasks raised on a worker, or could not be run by it."""
        m.check_columns(message.keys, message.failures, message.seconds)
        worker = self.state.workers[name]
        worker.last_progress = now
        for key, failure, seconds in zip(message.keys, message.failures, message.seconds, strict=True):
            task = self._take_off(worker, key, seconds)
            if task is None:
                continue
            if task.retries > 0:
                task.retries -= 1
                self.lifecycle.requeue(task)
            else:
                self.lifecycle.end_task(task, FAILED, failure)
        self.state.index(worker)

    def on_tasks_returned(self, name: str, keys: Sequence[str]) -> None:
        """A worker gives tasks back that it has not started."""
        worker = self.state.workers[name]
        worker.recalling = False
        for key in keys:
            task = self._take_off(worker, key, None)
            if task is not None:
                self.lifecycle.requeue(task)
        self.state.index(worker)

    def on_input_missing(self, name: str, message: m.InputMissing) -> None:
        """A worker gives a task back because those whom it asked do not have these inputs of it."""
        worker = self.state.workers[name]
        task = self._take_off(worker, message.key, None)
        self.state.index(worker)
        if task is not None:
            self.lifecycle.requeue(task)
        for key in message.missing:
            source = self.state.tasks.get(key)
            if source is not None and source.holders:
                self.lifecycle.forget_holders(source, message.asked)

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
            self.lifecycle.commands.append(ToWorker(name, unwanted))

    def on_timer(self, now: float) -> None:
        """Every tenth of a second or so: take queued tasks back from busy workers for those with nothing to do."""
        if now - self._looked_at >= RECHECK_SECONDS:  # durations are learned, and time goes by
            self._looked_at = now
            self.state.changed = None
        if self.state.timed:
            timeouts.on_timer(self.lifecycle, now)
        if self.lifecycle.references.suspects:
            reference_cycles.on_timer(self.lifecycle, now)
        self.lifecycle.commands += recall(self.state, now)

    # --- steps

    def _take_off(self, worker: Worker, key: str, seconds: float | None, size: int = 0) -> Task | None:
        """Take a task off a worker; return it, with no worker, if its answer still matters."""
        task = worker.assigned.pop(key, None)
        if task is None:
            return None
        worker.backlog -= task.cost
        if worker.seceded:
            worker.rejoin([key])
        if self.state.timed:
            timeouts.on_answered(self.state, worker.name, [key])
        if task.requirements is not None:
            give_back(worker, task)
        if seconds is not None:
            task.function.learn(seconds, size)
        if task.state != ASSIGNED or task.worker is not worker:
            return None
        task.worker = None
        return task
