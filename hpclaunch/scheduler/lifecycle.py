"""The life of a task: the steps towards its result and away from it, and what its clients are told.

Owns the state, the commands and the updates that have not been taken, and the references that the head holds.
The reactor and the modules beside it decide which steps a fact takes; each step leaves a state for which
:func:`hpclaunch.scheduler.invariants.check` holds. Pure.

Work that is not needed any more is stopped at once, and results that are not needed are freed at once: whatever
takes a task's last client or dependent away ends in :meth:`Lifecycle.release_unneeded`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set as AbstractSet

from hpclaunch.comm import messages as m
from hpclaunch.scheduler import actors
from hpclaunch.scheduler.commands import Command, ToClient, ToWorker
from hpclaunch.scheduler.function import Function
from hpclaunch.scheduler.reference_counts import ReferenceCounts
from hpclaunch.scheduler.state import (
    ASSIGNED,
    CANCELLED,
    DONE,
    FAILED,
    READY,
    RELEASED,
    WAITING,
    Client,
    SchedulerState,
    Task,
    Worker,
    bad_input,
    cut,
    leave,
    unqueue,
)
from hpclaunch.scheduler.updates import Updates, killed

#: Workers that may be lost with a whole job (walltime, node) or be killed from outside while they run one task, or
#: while it waits for others there, before the task is blamed.
EVICTION_LIMIT = 20

#: What a value that a client has scattered is the result of: nothing that could be run again.
SCATTERED = Function(m.DefineFunction(b"", "scatter", b""))

_NO_CLIENTS: frozenset[Client] = frozenset()


class Lifecycle:
    """Takes tasks through their states, and collects commands and updates.

    :param allowed_failures: workers that may die while they run one task before it fails.
    """

    __slots__ = ("allowed_failures", "commands", "references", "state", "updates")

    def __init__(self, state: SchedulerState, *, allowed_failures: int = 3) -> None:
        self.state = state
        self.allowed_failures = allowed_failures
        self.commands: list[Command] = []
        self.updates: dict[str, Updates] = {}  # per client, in columns
        self.references = ReferenceCounts()

    def take_commands(self) -> list[Command]:
        """Return what is to be sent for the steps since the last call."""
        for client, updates in self.updates.items():
            self.commands += [ToClient(client, message) for message in updates.messages()]
        self.updates.clear()
        commands, self.commands = self.commands, []
        return commands

    # --- clients and their functions

    def add_client(self, name: str) -> None:
        """Add a client. Its name is new."""
        self.state.clients[name] = Client(name)

    def remove_client(self, name: str) -> None:
        """Remove a client, and release what only it wants."""
        client = self.state.clients.pop(name)
        self.release_keys(client, list(client.wants))
        self.updates.pop(name, None)
        self.forget_functions(client.functions)

    def define_function(self, message: m.DefineFunction) -> None:
        """Add a function, if it is not known yet."""
        functions = self.state.functions
        if message.function not in functions:
            functions[message.function] = Function(message)

    def forget_functions(self, forgotten: AbstractSet[bytes]) -> None:
        """Forget those of some functions that no client may call any more. Tasks that are there keep theirs."""
        state = self.state
        gone = set(forgotten).difference(*(client.functions for client in state.clients.values()))
        for one in gone:
            state.functions.pop(one, None)
        for worker in state.workers.values():
            known = worker.functions & gone
            if known:
                worker.functions -= known
                for function in [one for one in worker.large if one.id in known]:
                    del worker.large[function]
                self.commands.append(ToWorker(worker.name, m.ForgetFunctions(list(known))))

    def want_keys(self, name: str, keys: Sequence[str]) -> None:
        """Have a client want the results of tasks that are known, or tell it that they are not."""
        client = self.state.clients[name]
        for key in keys:
            task = self.state.tasks.get(key)
            if task is not None:
                self.want(client, task)
            else:
                self._report_unknown(name, key)

    def want(self, client: Client, task: Task) -> None:
        """Have a client want a task that is known already."""
        if client not in task.wanted_by:
            task.wanted_by = client.alone if not task.wanted_by else task.wanted_by | {client}
            client.wants[task.key] = task
        if task.state == RELEASED:
            self._recompute(task)
        elif task.state >= DONE:
            self.report(task, client)

    def release_keys(self, client: Client, keys: Sequence[str]) -> None:
        """Have a client, which may have left, want these keys no more."""
        wants, alone, tasks = client.wants, client.alone, self.state.tasks
        unwanted: list[Task] = []
        for key in keys:
            task = wants.pop(key, None)
            if task is None:
                continue
            task.wanted_by = _NO_CLIENTS if task.wanted_by is alone else task.wanted_by - alone
            if task.wanted_by:
                continue
            if task.result is not None and not task.dependents:  # it is linked with nothing
                del tasks[key]
            else:
                unwanted.append(task)
        if self.references.named:
            self.references.on_forgotten(key for key in keys if key not in tasks)
            self.references.suspects.update(keys)
        if unwanted:
            self.release_unneeded(unwanted)

    # --- towards a result

    def link(self, task: Task, keys: Sequence[str]) -> None:
        """Connect a new task with its inputs and put it where it belongs."""
        tasks = self.state.tasks
        self.state.waiting += 1
        text = _why_not_from(task, keys, tasks)
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
            self._on_inputs_done(task)
        else:
            for source in task.inputs:
                if source.state == RELEASED:
                    self._recompute(source)

    def replace(self, old: Task, new: Task) -> None:
        """Put a new task in the place of one that is over. The clients of the old one have heard of its end."""
        for client in old.wanted_by:
            client.wants[new.key] = new
        new.wanted_by |= old.wanted_by
        new.dependents, new.users = old.dependents, old.users
        for dependent in old.dependents or ():
            dependent.inputs = tuple(new if source is old else source for source in dependent.inputs)
        old.wanted_by, old.dependents, old.users = _NO_CLIENTS, None, 0
        self.references.on_forgotten([new.key])
        self.release_unneeded([*cut(old)])

    def requeue(self, task: Task) -> None:
        """Put an assigned task whose worker has given it up, or is lost, back to where it belongs."""
        if task.key in self.state.cancelled_unstarted:
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
            self.end_task(task, FAILED, _lost_scattered(task))
        elif task.missing:
            task.move(WAITING)
            self.state.waiting += 1
        else:
            task.move(READY)
            self.state.push(task)

    def _recompute(self, task: Task) -> None:
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

    def _on_inputs_done(self, task: Task) -> None:
        self.state.waiting -= 1
        task.move(READY)
        self.state.push(task)

    def finish(self, task: Task) -> None:
        """A task is done: make dependents ready that have all their inputs, and release its own inputs."""
        for dependent in task.dependents or ():
            if dependent.state == WAITING:
                dependent.missing -= 1
                if not dependent.missing:
                    self._on_inputs_done(dependent)
        if not task.inputs:
            return
        inputs = task.inputs
        for source in inputs:
            source.users -= 1
        if task.result is not None:
            cut(task)  # a small result cannot be lost, so nothing before it will be needed again
        self.release_unneeded([source for source in inputs if not source.users])

    # --- away from it

    def lose_holder(self, task: Task, worker: Worker, how: str) -> None:
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
        if task.actor >= 0 and not actors.use_restart(task):
            self.end_task(task, FAILED, actors.lost(task, worker, how))
        else:
            self._recompute(task)

    def forget_holders(self, task: Task, addresses: Sequence[str]) -> None:
        """A client or worker asked for a result at these addresses and did not get it."""
        for worker in list(task.holders or ()) if task.actor < 0 else ():  # an actor is there, reached or not
            if worker.fetch_address in addresses and task.holders and worker in task.holders:
                self.commands.append(ToWorker(worker.name, m.FreeResults([task.key])))
                self.lose_holder(task, worker, "")

    def evict(self, task: Task, how: str, blame: str) -> None:
        """Take a task off a worker that is lost. ``how`` is empty if the task had not begun."""
        task.worker = None
        if how:
            task.deaths = [*(task.deaths or ()), (blame, how)]
            crashes = sum(one == "worker" for one, _ in task.deaths)
            if crashes > self.allowed_failures or len(task.deaths) - crashes > EVICTION_LIMIT:
                self.end_task(task, FAILED, killed(task))
                return
        self.requeue(task)

    def end_task(self, task: Task, state: int, failure: m.Failure | None = None) -> None:
        """End a task and all that depend on it as failed or cancelled."""
        todo, unwanted = [task], []
        while todo:
            one = todo.pop()
            if one.state >= FAILED:
                continue
            if one.state <= ASSIGNED:
                self._stop(one)
            one.move(state)
            one.failure = failure
            self.report(one)
            todo += [d for d in one.dependents or () if d.state in (WAITING, READY, RELEASED)]
            unwanted += [*(one.inputs if state == FAILED else cut(one)), one]  # what has failed may be retried
        self.release_unneeded(unwanted)

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

    def release_unneeded(self, todo: list[Task]) -> None:
        """Stop, free or forget those of some tasks that are not needed, and what only they needed."""
        tasks = self.state.tasks
        if self.references.named:
            self.references.on_released(todo)
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
                if self.references.named:
                    self.references.on_released(inputs)
                    self.references.on_forgotten([task.key])

    def _free(self, task: Task) -> None:
        """Free a large result on its holders."""
        for worker in task.holders or ():
            del worker.holds[task.key]
            self.commands.append(ToWorker(worker.name, m.FreeResults([task.key])))
        task.holders = None
        task.size = 0
        task.move(RELEASED)

    # --- updates

    def report(self, task: Task, only: Client | None = None) -> None:
        """Tell the clients of a task how it ended."""
        for client in (only,) if only is not None else task.wanted_by:
            updates = self.updates.setdefault(client.name, Updates())
            if task.state == DONE and task.result is not None:
                updates.keys.append(task.key)
                updates.results.append(task.result)
            elif task.state == DONE:
                holders = [worker.fetch_address for worker in task.holders or ()]
                updates.stored.append((task.key, task.size, holders))
            elif task.state == FAILED and task.failure is not None:
                updates.failed.append((task.key, task.failure))
            elif task.state == CANCELLED:
                updates.cancelled.append(task.key)

    def _report_unknown(self, name: str, key: str) -> None:
        text = (
            f"task {key} is not known here: all its futures were released, it is a task of another cluster, or "
            "it was never submitted"
        )
        self.updates.setdefault(name, Updates()).failed.append((key, m.Failure("UnknownTaskError", text)))

    def begin_updates(self, name: str) -> Updates:
        """Return a client's updates, with nothing in them yet: what there was to tell goes out before."""
        updates = self.updates.get(name)
        if updates is None or not updates.is_empty:
            self.commands += [ToClient(name, one) for one in updates.messages()] if updates is not None else ()
            updates = self.updates[name] = Updates()
        return updates


def is_over(task: Task) -> bool:
    """Say whether a task is to be run again if it is submitted again.

    It is if it was cancelled, or has failed and no client wants it any more.
    """
    return task.state == CANCELLED or (task.state == FAILED and not task.wanted_by)


def _why_not_from(task: Task, keys: Sequence[str], tasks: Mapping[str, Task]) -> str:
    """Return why a new task can't be made from the results of these tasks; empty if it can."""
    unknown = [key for key in keys if key not in tasks or key == task.key]
    if unknown:
        return f"its input {unknown[0]} is not known here: it was released, or belongs to another cluster"
    if task.dependents and _is_among_sources(task, [tasks[key] for key in keys]):
        return (
            "an input of it was made from the earlier task of this key, and could not be made again from this one"
        )
    return ""


def _is_among_sources(task: Task, inputs: Iterable[Task]) -> bool:
    todo = list(inputs)
    seen = set(todo)
    while todo:
        one = todo.pop()
        if one is task:
            return True
        new = [source for source in one.inputs if source not in seen]
        seen.update(new)
        todo += new
    return False


def _lost_scattered(task: Task) -> m.Failure:
    """Return why a value that a client has scattered is not there."""
    return m.Failure(
        "LostResultError",
        f"{task.key} was scattered, and the last worker that kept it is gone. Scatter it again; broadcast=True or "
        "replicate() keep it on several workers, and a task that makes it can be run again",
    )
