"""What clients and running tasks ask beyond submitting, cancelling and releasing.

Pure. Each function applies one fact to a Lifecycle, whole, and leaves a state for which
:func:`hpclaunch.scheduler.invariants.check` holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.lifecycle import SCATTERED, Lifecycle, is_over
from hpclaunch.scheduler.sizes import has_room_for, why_no_room
from hpclaunch.scheduler.state import (
    ASSIGNED,
    CANCELLED,
    DONE,
    FAILED,
    READY,
    RELEASED,
    WAITING,
    Client,
    Task,
    cut,
)
from hpclaunch.scheduler.updates import Updates

#: Who wants tasks that are to be run though no client waits for them.
UNATTENDED = "(no client)"


def on_function_sent(lifecycle: Lifecycle, name: str, message: m.DefineFunction) -> None:
    """A client sent a function, which it may call for as long as it is connected."""
    lifecycle.define_function(message)
    lifecycle.state.clients[name].functions.add(message.function)


def on_functions_forgotten(lifecycle: Lifecycle, name: str, message: m.ForgetFunctions) -> None:
    """A client will define these again if it needs them again."""
    client = lifecycle.state.clients[name]
    forgotten = client.functions.intersection(message.functions)
    client.functions -= forgotten
    lifecycle.forget_functions(forgotten)


def on_fence(lifecycle: Lifecycle, name: str, number: int) -> None:
    """A client puts up a fence: it goes back behind all that there is to tell it so far."""
    lifecycle.begin_updates(name).fence = number


def on_task_seceded(lifecycle: Lifecycle, name: str, message: m.TaskSeceded) -> None:
    """A task has stepped aside, or is back. One that is aside is no work of its worker's, and brings a thread."""
    worker = lifecycle.state.workers[name]
    task = worker.assigned.get(message.key)
    if task is not None and message.away and message.key not in worker.seceded:
        worker.seceded.add(message.key)
        worker.threads += 1
        worker.backlog -= task.cost
        task.cost = 0.0
    elif not message.away:
        worker.rejoin([message.key])
    lifecycle.state.index(worker)


def on_unstarted_cancelled(lifecycle: Lifecycle, keys: Sequence[str]) -> dict[str, list[str]]:
    """A client cancels these tasks if they have not begun.

    Returns those of which only a worker knows, by its name; when it gives one of them back, it is cancelled.
    :func:`on_unstarted_settled` ends that.
    """
    asked: dict[str, list[str]] = {}
    for key in keys:
        task = lifecycle.state.tasks.get(key)
        if task is None:
            continue
        if task.state == ASSIGNED and task.worker is not None:
            asked.setdefault(task.worker.name, []).append(key)
            lifecycle.state.cancelled_unstarted.add(key)
        elif task.state < ASSIGNED:
            lifecycle.end_task(task, CANCELLED)
    return asked


def on_unstarted_settled(lifecycle: Lifecycle, keys: Sequence[str]) -> list[str]:
    """The workers have answered what :func:`on_unstarted_cancelled` asked; return what is cancelled."""
    lifecycle.state.cancelled_unstarted.difference_update(keys)
    tasks = lifecycle.state.tasks
    return [key for key in keys if key not in tasks or tasks[key].state == CANCELLED]


def on_keys_wanted(lifecycle: Lifecycle, name: str, keys: Sequence[str]) -> None:
    """A client wants the results of tasks that others have submitted."""
    lifecycle.want_keys(name, keys)


def on_results_not_found(lifecycle: Lifecycle, name: str, message: m.LocateKeys) -> None:
    """A client could not fetch these results from the holders that it knows: forget those.

    It is told of other holders now, or of the result when it has been made again.
    """
    asked = message.asked or [[]] * len(message.keys)
    m.check_columns(message.keys, asked)  # before anything of it is done
    client = lifecycle.state.clients[name]
    for key, addresses in zip(message.keys, asked, strict=True):
        task = client.wants.get(key)
        if task is None:
            text = f"the result of task {key} is not known here any more"
            updates = lifecycle.updates.setdefault(name, Updates())
            updates.failed.append((key, m.Failure("LostResultError", text)))
            continue
        if task.holders:
            lifecycle.forget_holders(task, addresses)
        if task.state >= DONE:
            lifecycle.report(task, client)


def on_tasks_sent_off(lifecycle: Lifecycle, keys: Sequence[str]) -> None:
    """A client wants tasks run to their ends, though no client may want them by then."""
    if UNATTENDED not in lifecycle.state.clients:
        lifecycle.add_client(UNATTENDED)
    lifecycle.want_keys(UNATTENDED, keys)


def release_unattended(lifecycle: Lifecycle) -> None:
    """Release those of such tasks that have ended since the last time."""
    updates = lifecycle.updates.pop(UNATTENDED, None)
    if updates is None:
        return
    stored, failed = (key for key, *_ in updates.stored), (key for key, _ in updates.failed)
    client = lifecycle.state.clients[UNATTENDED]
    lifecycle.release_keys(client, [*updates.keys, *stored, *failed, *updates.cancelled])
    if not client.wants:
        lifecycle.remove_client(UNATTENDED)


def on_tasks_retried(lifecycle: Lifecycle, name: str, keys: Sequence[str]) -> None:
    """A client wants failed tasks to be run once more, and before them what has failed of all that they need.

    Results that they need and that are not there any more are made again. The client waits for all of them now: of
    those that have not failed here, or can't be run, it is told how they stand.
    """
    tasks = lifecycle.state.tasks
    failed = _failed_for([tasks[key] for key in keys if key in tasks])
    retried: dict[Client, list[str]] = {}
    for task in failed:
        for client in task.wanted_by:
            retried.setdefault(client, []).append(task.key)
    for client, some in retried.items():
        if client.name != UNATTENDED:
            lifecycle.begin_updates(client.name).retried += some
    for task in failed:
        if task.state == FAILED:
            _run_again(lifecycle, task)
    lifecycle.release_unneeded(failed)  # those that are not needed
    wants, again = lifecycle.state.clients[name].wants, set(failed)
    lifecycle.want_keys(name, [key for key in keys if wants.get(key) not in again])


def _failed_for(wanted: Sequence[Task]) -> list[Task]:
    """Return those of some tasks that have failed, and all failed ones that they need, these first."""
    found: list[Task] = []
    seen: set[Task] = set()
    todo = [(task, False) for task in reversed(wanted) if task.state == FAILED]
    while todo:
        task, is_seen_through = todo.pop()
        if is_seen_through:
            found += [task] if _can_run_again(task) else []
        elif task not in seen and task.state in (FAILED, RELEASED):
            seen.add(task)
            todo.append((task, True))
            todo += [(source, False) for source in task.inputs]
    return found


def _run_again(lifecycle: Lifecycle, task: Task) -> None:
    """Bring a failed task back to where a new one begins."""
    keys = [source.key for source in task.inputs] or task.again
    cut(task)
    task.move(WAITING)
    task.failure = task.again = task.deaths = None
    if keys:
        lifecycle.link(task, keys)
    else:
        task.move(READY)
        lifecycle.state.push(task)


def _can_run_again(task: Task) -> bool:
    """Say whether a task has failed, and is one that can be run: a value that a client has put there is none."""
    return task.state == FAILED and task.function is not SCATTERED


def on_data_put(lifecycle: Lifecycle, name: str, message: m.Put, small: bytes | None) -> str | None:
    """A client puts a value on the cluster.

    :param small: the value itself, if it may stay with the scheduler.
    Returns the worker that shall get it; None: none, because it is small, known already, or there is no worker.
    """
    state, client = lifecycle.state, lifecycle.state.clients[name]
    known = state.tasks.get(message.key)
    if known is not None and not is_over(known):
        lifecycle.want(client, known)
        return None
    state.last_order += 1
    task = Task(message.key, SCATTERED, b"", state.last_order, client.alone, 0)
    state.tasks[message.key] = client.wants[message.key] = task
    if known is not None:
        lifecycle.replace(known, task)
    workers = [w for w in state.workers.values() if w.accepts and message.key not in w.assigned]
    if message.workers:
        workers = [worker for worker in workers if worker.name in message.workers]
    state.waiting += 1
    if small is None and (text := why_no_room(workers, message.size, message.key)):
        lifecycle.end_task(task, FAILED, m.Failure("TooLargeError", text))
        return None
    workers = [worker for worker in workers if has_room_for(worker, message.size)]
    if small is None and not workers:
        text = f"there is no worker to keep {message.key}: wait_for_workers() first"
        lifecycle.end_task(task, FAILED, m.Failure("LostResultError", text))
        return None
    state.waiting -= 1
    task.state = ASSIGNED
    if small is not None:
        task.state, task.result = DONE, small
        lifecycle.want(client, task)
        return None
    worker = min(workers, key=lambda one: (len(one.holds) + len(one.assigned), one.name))
    task.worker = worker
    worker.assigned[message.key] = task
    state.index(worker)
    return worker.name


def on_restarted(lifecycle: Lifecycle) -> None:
    """A client wants everything forgotten: all that clients want is cancelled and released."""
    for client in lifecycle.state.clients.values():
        keys = list(client.wants)
        lifecycle.updates.setdefault(client.name, Updates()).cancelled += keys
        lifecycle.release_keys(client, keys)
