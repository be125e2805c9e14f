"""The rules of the scheduler's state, as assertions; tests check them after each event. Pure."""

from __future__ import annotations

from hpclaunch.scheduler.eligibility import is_named
from hpclaunch.scheduler.requirements import Requirements
from hpclaunch.scheduler.state import (
    ASSIGNED,
    DONE,
    FAILED,
    READY,
    RELEASED,
    WAITING,
    SchedulerState,
    Task,
    Worker,
    has_room,
)


def check(state: SchedulerState) -> None:
    """Assert every rule of this state; for tests, after each event."""
    queues = (state.ready, *state.restricted.values())
    ready = [task for queue in queues for task in queue]
    assert len(ready) == len(set(ready)), "a task is queued twice"
    for queue in queues:
        assert len(list(queue)) == queue.count, "a ready queue's count is wrong"
        assert all(task.queued is queue for task in queue), "a task does not know its queue"
    assert {t.key for t in ready} == {k for k, t in state.tasks.items() if t.state == READY}
    assert state.waiting == sum(t.state == WAITING for t in state.tasks.values()), "the count of waiting is wrong"
    for key, task in state.tasks.items():
        assert task.key == key
        _check_task(state, task)
    for client in state.clients.values():
        for key, task in client.wants.items():
            assert state.tasks.get(key) is task, task.story()
            assert client in task.wanted_by, task.story()
    for worker in state.workers.values():
        _check_worker(state, worker)
    for name, runs in state.timed.items():
        assert runs, name
        assert runs.keys() <= state.workers[name].assigned.keys(), name
    for (function, requirements), held in state.restricted.items():
        assert all(task.function.id == function and task.requirements == requirements for task in held), (
            "a wrong queue"
        )
    for index in (state.idle, state.open, state.saturated):
        assert all(state.workers.get(w.name) is w for w in index), "a lost worker is in an index"


def _check_task(state: SchedulerState, task: Task) -> None:
    story = task.story()
    dependents = task.dependents or {}
    assert task.wanted_by or dependents, f"it is not wanted: {story}"
    assert task.users == sum(d.state <= ASSIGNED for d in dependents), story
    for dependent in dependents:
        assert state.tasks.get(dependent.key) is dependent, f"a forgotten dependent: {story}"
        assert task in dependent.inputs, story
    for one in task.inputs:
        assert task in (one.dependents or ()), story
        assert state.tasks.get(one.key) is one, f"a forgotten input: {story}"
    for client in task.wanted_by:
        assert client.wants.get(task.key) is task, story
    missing = sum(i.state != DONE for i in task.inputs)
    assert task.state != WAITING or task.missing == missing > 0, story
    assert task.state != READY or not missing, story
    assert (task.state == ASSIGNED) == (task.worker is not None), story
    if task.worker is not None:
        assert state.workers.get(task.worker.name) is task.worker, story
        assert task.worker.assigned.get(task.key) is task, story
    _check_result(state, task, story)


def _check_result(state: SchedulerState, task: Task, story: str) -> None:
    has_small, has_large = task.result is not None, bool(task.holders)
    assert has_small + has_large == (task.state == DONE), story
    assert not (has_small and task.inputs), f"a small result, and still linked with its inputs: {story}"
    if has_large or task.state <= ASSIGNED:
        assert task.is_needed, f"it is not needed: {story}"
    assert task.state != RELEASED or not task.is_needed, f"it should be made again: {story}"
    assert (task.failure is not None) <= (task.state == FAILED), story
    assert (task.state == FAILED) <= (task.failure is not None), story
    for worker in task.holders or ():
        assert state.workers.get(worker.name) is worker, story
        assert worker.holds.get(task.key) is task, story


def _check_worker(state: SchedulerState, worker: Worker) -> None:
    for key, task in worker.assigned.items():
        assert task.key == key
    for key, task in worker.holds.items():
        assert state.tasks.get(key) is task, task.story()
        assert worker in (task.holders or ()), task.story()
    assert worker.seceded <= worker.assigned.keys()
    assert len(worker.seceded) < worker.threads
    count = len(worker.assigned)
    costs = sum(task.cost for task in worker.assigned.values())
    assert abs(worker.backlog - costs) < 1e-6 * (1 + costs), f"{worker.name} miscounts its backlog"
    assert count or worker.backlog == 0.0, f"{worker.name} has nothing, and {worker.backlog} s of it"
    assert (worker in state.idle) == (worker.accepts and not count)
    assert (worker in state.open) == (worker.accepts and count > 0 and has_room(worker))
    assert (worker in state.saturated) == (count > worker.threads)
    _check_requirements(worker)


def _check_requirements(worker: Worker) -> None:
    """What tasks use is what is not free, and they are where they may be."""
    used = dict.fromkeys(worker.resources, 0.0)
    for task in worker.assigned.values():
        requirements = task.requirements or Requirements()
        for name, amount in requirements.resources:
            used[name] += amount
        assert not requirements.workers or requirements.allow_others or is_named(worker, requirements.workers), (
            task.story()
        )
    for name, amount in worker.resources.items():
        assert used[name] <= amount + 1e-9, f"{worker.name} has not so much {name}"
        assert abs(used[name] + worker.free[name] - amount) < 1e-9, f"{worker.name} miscounts {name}"
