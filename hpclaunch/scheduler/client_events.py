"""What clients and running tasks ask beyond submitting, cancelling and releasing.

Pure, as the reactor that this is a part of: each function applies one fact to a Reactor, whole, and leaves a state
for which ``check()`` holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set as AbstractSet
from typing import TYPE_CHECKING

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import ToClient, ToWorker
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
    Function,
    Task,
    Worker,
    cut,
)
from hpclaunch.scheduler.updates import News

if TYPE_CHECKING:
    from hpclaunch.scheduler.reactor import Reactor

#: Who wants tasks that are to be run though nobody waits for them.
UNHEARD = "(nobody)"

#: What a value that a client has put on the cluster is the result of: nothing that could be run again.
SCATTERED = Function(m.DefineFunction(b"", "scatter", b""))


def on_function_sent(reactor: Reactor, name: str, message: m.DefineFunction) -> None:
    """A client sent a function, which it may call for as long as it is connected."""
    reactor.on_function_defined(message)
    reactor.state.clients[name].functions.add(message.function)


def on_functions_forgotten(reactor: Reactor, name: str, message: m.ForgetFunctions) -> None:
    """A client will define these again if it needs them again."""
    client = reactor.state.clients[name]
    forgotten = client.functions.intersection(message.functions)
    client.functions -= forgotten
    forget_functions(reactor, forgotten)


def forget_functions(reactor: Reactor, forgotten: AbstractSet[bytes]) -> None:
    """Forget those of some functions that no client may call any more. Tasks that are there keep theirs."""
    state = reactor.state
    gone = set(forgotten).difference(*(client.functions for client in state.clients.values()))
    for one in gone:
        state.functions.pop(one, None)
    for worker in state.workers.values():
        known = worker.functions & gone
        if known:
            worker.functions -= known
            for function in [one for one in worker.large if one.id in known]:
                del worker.large[function]
            reactor.commands.append(ToWorker(worker.name, m.ForgetFunctions(list(known))))


def on_fence(reactor: Reactor, name: str, number: int) -> None:
    """A client puts up a fence: it goes back behind all that there is to tell it so far."""
    begin_news(reactor, name).fence = number


def begin_news(reactor: Reactor, name: str) -> News:
    """Return a client's news, with nothing in them yet: what there was to tell goes out before."""
    news = reactor.news.get(name)
    if news is None or not news.is_empty:
        reactor.commands += [ToClient(name, message) for message in news.messages()] if news is not None else ()
        news = reactor.news[name] = News()
    return news


def on_task_seceded(reactor: Reactor, name: str, message: m.TaskSeceded) -> None:
    """A task has stepped aside, or is back. One that is aside counts as work for nobody, and brings a thread."""
    worker = reactor.state.workers[name]
    task = worker.assigned.get(message.key)
    if task is not None and message.away and message.key not in worker.seceded:
        worker.seceded.add(message.key)
        worker.threads += 1
        worker.backlog -= task.cost
        task.cost = 0.0
    elif not message.away:
        settle(worker, [message.key])
    reactor.state.index(worker)


def settle(worker: Worker, keys: Sequence[str]) -> None:
    """These tasks are aside no more: they are back, or a worker has answered for them."""
    for key in worker.seceded.intersection(keys):
        worker.seceded.discard(key)
        worker.threads -= 1


def on_unstarted_cancelled(reactor: Reactor, keys: Sequence[str]) -> dict[str, list[str]]:
    """Somebody cancels these tasks if they have not begun.

    Returns those of which only a worker knows, by its name; when it gives one of them back, it is cancelled.
    :func:`on_recanting_ended` ends that.
    """
    asked: dict[str, list[str]] = {}
    for key in keys:
        task = reactor.state.tasks.get(key)
        if task is None:
            continue
        if task.state == ASSIGNED and task.worker is not None:
            asked.setdefault(task.worker.name, []).append(key)
            reactor.state.recanted.add(key)
        elif task.state < ASSIGNED:
            reactor.end_task(task, CANCELLED)
    return asked


def on_recanting_ended(reactor: Reactor, keys: Sequence[str]) -> list[str]:
    """The workers have answered what :func:`on_unstarted_cancelled` asked; return what is cancelled."""
    reactor.state.recanted.difference_update(keys)
    tasks = reactor.state.tasks
    return [key for key in keys if key not in tasks or tasks[key].state == CANCELLED]


def is_over(task: Task) -> bool:
    """Say whether a task is to be run anew if it is submitted again: it was cancelled, or has failed, which nobody
    minds any more."""
    return task.state == CANCELLED or (task.state == FAILED and not task.wanted_by)


def replace(reactor: Reactor, old: Task, new: Task) -> None:
    """A new task takes the place of one that is over. Those who want the old one have heard of its end."""
    for client in old.wanted_by:
        client.wants[new.key] = new
    new.wanted_by |= old.wanted_by
    new.dependents, new.users = old.dependents, old.users
    for dependent in old.dependents or ():
        dependent.inputs = tuple(new if source is old else source for source in dependent.inputs)
    old.wanted_by, old.dependents, old.users = frozenset(), None, 0
    reactor.claims.on_forgotten([new.key])
    reactor.let_go([*cut(old)])


def why_not_from(task: Task, keys: Sequence[str], tasks: Mapping[str, Task]) -> str:
    """Return why a new task can't be made from the results of these tasks; empty if it can."""
    unknown = [key for key in keys if key not in tasks or key == task.key]
    if unknown:
        return f"its input {unknown[0]} is not known here: it was released, or belongs to another cluster"
    if task.dependents and _is_among_sources(task, [tasks[key] for key in keys]):
        return (
            "an input of it was made from the earlier task of this key, and could not be made again from this one"
        )
    return ""


def _is_among_sources(task: Task, inputs: Sequence[Task]) -> bool:
    todo, seen = list(inputs), set(inputs)
    while todo:
        one = todo.pop()
        if one is task:
            return True
        new = [source for source in one.inputs if source not in seen]
        seen.update(new)
        todo += new
    return False


def on_keys_wanted(reactor: Reactor, name: str, keys: Sequence[str]) -> None:
    """A client wants the results of tasks that others have submitted."""
    client = reactor.state.clients[name]
    for key in keys:
        task = reactor.state.tasks.get(key)
        if task is not None:
            reactor.want_again(client, task)
        else:
            _say_unknown(reactor, name, key)


def _say_unknown(reactor: Reactor, name: str, key: str) -> None:
    text = (
        f"task {key} is not known here: all its futures were released, it is a task of another cluster, or nobody "
        "has submitted it"
    )
    reactor.news.setdefault(name, News()).failed.append((key, m.Failure("UnknownTaskError", text)))


def on_results_not_found(reactor: Reactor, name: str, message: m.LocateKeys) -> None:
    """A client could not fetch these results from the holders that it knows: forget those.

    It is told of other holders now, or of the result when it has been made again.
    """
    asked = message.asked or [[]] * len(message.keys)
    m.check_columns(message.keys, asked)  # before anything of it is done
    client = reactor.state.clients[name]
    for key, addresses in zip(message.keys, asked, strict=True):
        task = client.wants.get(key)
        if task is None:
            text = f"the result of task {key} is not known here any more"
            news = reactor.news.setdefault(name, News())
            news.failed.append((key, m.Failure("LostResultError", text)))
            continue
        if task.holders:
            reactor.forget_holders(task, addresses)
        if task.state >= DONE:
            reactor.tell(task, client)


def on_tasks_sent_off(reactor: Reactor, keys: Sequence[str]) -> None:
    """Somebody wants tasks run to their ends, though nobody may want them by then."""
    if UNHEARD not in reactor.state.clients:
        reactor.on_client_joined(UNHEARD)
    on_keys_wanted(reactor, UNHEARD, keys)


def let_go_of_unheard(reactor: Reactor) -> None:
    """Let go of those of such tasks that have ended since the last time."""
    news = reactor.news.pop(UNHEARD, None)
    if news is None:
        return
    stored, failed = (key for key, *_ in news.stored), (key for key, _ in news.failed)
    reactor.on_keys_released(UNHEARD, [*news.keys, *stored, *failed, *news.cancelled])
    if not reactor.state.clients[UNHEARD].wants:
        reactor.on_client_left(UNHEARD)


def on_tasks_retried(reactor: Reactor, name: str, keys: Sequence[str]) -> None:
    """A client wants failed tasks to be run once more, and before them what has failed of all that they need.

    Results that they need and that are not there any more are made again. The client waits for all of them now: of
    those that have not failed here, or can't be run, it is told how they stand.
    """
    tasks = reactor.state.tasks
    failed = _failed_for([tasks[key] for key in keys if key in tasks])
    retried: dict[Client, list[str]] = {}
    for task in failed:
        for client in task.wanted_by:
            retried.setdefault(client, []).append(task.key)
    for client, some in retried.items():
        if client.name != UNHEARD:
            begin_news(reactor, client.name).retried += some
    for task in failed:
        if task.state == FAILED:
            _run_again(reactor, task)
    reactor.let_go(failed)  # those that nobody needs
    wants, again = reactor.state.clients[name].wants, set(failed)
    on_keys_wanted(reactor, name, [key for key in keys if wants.get(key) not in again])


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


def _run_again(reactor: Reactor, task: Task) -> None:
    """Bring a failed task back to where a new one begins."""
    keys = [source.key for source in task.inputs] or task.again
    cut(task)
    task.move(WAITING)
    task.failure = task.again = task.deaths = None
    if keys:
        reactor.link(task, keys)
    else:
        task.move(READY)
        reactor.state.push(task)


def _can_run_again(task: Task) -> bool:
    """Say whether a task has failed, and is one that can be run: a value that a client has put there is none."""
    return task.state == FAILED and task.function is not SCATTERED


def on_data_put(reactor: Reactor, name: str, message: m.Put, small: bytes | None) -> str | None:
    """A client puts a value on the cluster.

    :param small: the value itself, if it may stay with the scheduler.
    Returns the worker that shall get it; None: nobody, because it is small, known already, or there is no worker.
    """
    state, client = reactor.state, reactor.state.clients[name]
    known = state.tasks.get(message.key)
    if known is not None and not is_over(known):
        reactor.want_again(client, known)
        return None
    state.last_order += 1
    task = Task(message.key, SCATTERED, b"", state.last_order, client.alone, 0)
    state.tasks[message.key] = client.wants[message.key] = task
    if known is not None:
        replace(reactor, known, task)
    workers = [w for w in state.workers.values() if w.accepts and message.key not in w.assigned]
    if message.workers:
        workers = [worker for worker in workers if worker.name in message.workers]
    state.waiting += 1
    if small is None and (text := why_no_room(workers, message.size, message.key)):
        reactor.end_task(task, FAILED, m.Failure("TooLargeError", text))
        return None
    workers = [worker for worker in workers if has_room_for(worker, message.size)]
    if small is None and not workers:
        text = f"there is no worker to keep {message.key}: wait_for_workers() first"
        reactor.end_task(task, FAILED, m.Failure("LostResultError", text))
        return None
    state.waiting -= 1
    task.state = ASSIGNED
    if small is not None:
        task.state, task.result = DONE, small
        reactor.want_again(client, task)
        return None
    worker = min(workers, key=lambda one: (len(one.holds) + len(one.assigned), one.name))
    task.worker = worker
    worker.assigned[message.key] = task
    state.index(worker)
    return worker.name


def lost_scattered(task: Task) -> m.Failure:
    """Return why a value that a client has put on the cluster is not there."""
    return m.Failure(
        "LostResultError",
        f"{task.key} was scattered, and the last worker that kept it is gone. Scatter it again; broadcast=True or "
        "replicate() keep it on several workers, and a task that makes it can be run again",
    )


def on_restarted(reactor: Reactor) -> None:
    """Somebody wants everything forgotten: all that clients want is cancelled, and nobody wants it any more."""
    for client in reactor.state.clients.values():
        keys = list(client.wants)
        reactor.news.setdefault(client.name, News()).cancelled += keys
        reactor.on_keys_released_by(client, keys)
