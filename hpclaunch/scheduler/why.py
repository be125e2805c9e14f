"""Why a task is where it is, in words: what it waits for, who runs that, and what rules each worker out. Pure.

A function of the state alone, so that it says what placement would do: the same questions are asked in
:mod:`hpclaunch.scheduler.restricted`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from hpclaunch.config.units import format_bytes, format_duration
from hpclaunch.scheduler import eligibility, sizes
from hpclaunch.scheduler.requirements import Requirements
from hpclaunch.scheduler.state import (
    ASSIGNED,
    CANCELLED,
    DONE,
    DRAINING,
    FAILED,
    NAMES,
    PAUSED,
    READY,
    UNREADY,
    WAITING,
    SchedulerState,
    Task,
    Worker,
    has_room,
)

#: Inputs, and workers of one kind, that are told of one by one.
_SOME = 5
#: What is said of a task that a job more might run.
WAITS_FOR_WORKER = "waits for a worker"
#: How the reason begins that a worker lacks something for good.
_ASKS = "the task asks for "
_NOT_NAMED = "not one of workers="


def why(state: SchedulerState, key: str, now: float, silent: Mapping[str, str] | None = None) -> str:
    """Return how a task stands and why; empty if it is not known.

    :param silent: workers of which nothing is heard, and why that is so.
    """
    silent = silent or {}
    task = state.tasks.get(key)
    if task is None:
        return ""
    lines = [f"task {key} ({task.function.name}) {_stands(state, task)}"]
    if task.state == READY:
        lines += _workers(state, task, now, silent)
    elif task.state == WAITING:
        lines += _inputs(state, task)
    elif task.state == FAILED and task.failure is not None:
        lines.append(f"  {task.failure.text}")
    at = [task.worker] if task.state == ASSIGNED and task.worker else list(task.holders or ())
    lines += [f"  worker {worker.name} is silent: {silent[worker.name]}" for worker in at if worker.name in silent]
    lines += [f"  before: {how}" for _, how in task.deaths or ()]
    return "\n".join(lines)


def _stands(state: SchedulerState, task: Task) -> str:
    if task.state == DONE:
        where = ", ".join(_place(worker) for worker in task.holders or ()) or "the head"
        return f"is done; its result is on {where}"
    if task.state == ASSIGNED:
        return f"is on {_assigned(task)}"
    if task.state == CANCELLED:
        return "was cancelled, or a task that it needs was"
    if task.state == WAITING:
        return f"waits for {task.missing} of its {len(task.inputs)} inputs"
    if task.state == READY:
        return f"has all that it needs, and {WAITS_FOR_WORKER}"
    return f"is {NAMES[task.state]}" + ("" if task.is_needed else ": its result is not needed now")


def _place(worker: Worker) -> str:
    where = ", ".join(
        f"{word} {value}" for word, value in (("job", worker.job_id), ("host", worker.host)) if value
    )
    return f"worker {worker.name} ({where})" if where else f"worker {worker.name}"


def _assigned(task: Task) -> str:
    worker = task.worker
    assert worker is not None
    ahead = list(worker.assigned).index(task.key) - worker.threads + 1
    if ahead <= 0:
        return f"{_place(worker)}, which runs it or is about to"
    return f"{_place(worker)}, behind {ahead} other{'s' if ahead > 1 else ''} that it has to run first"


# --- inputs


def _inputs(state: SchedulerState, task: Task) -> list[str]:
    """Say of each missing input how it stands; of one that waits itself, what it waits for in the end."""
    lines = []
    missing = [source for source in task.inputs if source.state != DONE]
    for source in missing[:_SOME]:
        lines.append(f"  {source.key} ({source.function.name}) {_stands(state, source)}")
        root = _root(source)
        if root is not source:
            lines.append(f"    in the end for {root.key} ({root.function.name}), which {_stands(state, root)}")
    if len(missing) > _SOME:
        lines.append(f"  and {len(missing) - _SOME} more")
    return lines


def _root(task: Task) -> Task:
    """Return a task that is not waiting, for which this one waits at the end of the chain."""
    while task.state == WAITING:
        task = next(source for source in task.inputs if source.state != DONE)
    return task


# --- workers


def _workers(state: SchedulerState, task: Task, now: float, silent: Mapping[str, str]) -> list[str]:
    """Say what rules the workers out."""
    if not state.workers:
        return ["  no worker is connected"]
    reasons: dict[str, list[str]] = {}
    for worker in state.workers.values():
        reason = _ruled_out(worker, task, now)
        if worker.name in silent and not reason.startswith((_ASKS, _NOT_NAMED)):
            reason = f"it is silent: {silent[worker.name]}"
        reasons.setdefault(reason, []).append(worker.name)
    free = reasons.pop("", [])
    lines = [f"  {_some(names)}: {reason}" for reason, names in reasons.items()]
    if not free and all(reason.startswith(_ASKS) for reason in reasons):
        lines.append(
            "  no worker has that; the key `resources` gives it to workers, and add_group() to some of them"
        )
    if free:
        lines.append(f"  {_some(free)}: could take it; {state.ready_count - 1} other tasks are ready, too")
    return lines


def _some(names: list[str]) -> str:
    names = sorted(names, key=_by_number)
    listed = ", ".join(names[:_SOME])
    if len(names) > _SOME:
        return f"{len(names)} workers ({listed}, ...)"
    return f"worker{'s' if len(names) > 1 else ''} {listed}"


def _by_number(name: str) -> list[tuple[int, str]]:
    """Return what sorts worker 1.2-0 before 1.10-0; they are known in the order in which they came."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _ruled_out(worker: Worker, task: Task, now: float) -> str:
    """Return what keeps a worker from taking a task now; empty if nothing does. What lasts longest first."""
    requirements = task.requirements or Requirements()
    if (
        requirements.workers
        and not requirements.allow_others
        and not eligibility.is_named(worker, requirements.workers)
    ):
        return f"{_NOT_NAMED}{sorted(requirements.workers)}"
    lacking = [
        f"{name} {amount:g}" for name, amount in requirements.resources if worker.resources.get(name, 0) < amount
    ]
    if lacking:
        have = ", ".join(f"{name} {amount:g}" for name, amount in worker.resources.items()) or "none"
        return f"{_ASKS}{', '.join(lacking)}; its resources: {have}"
    if worker.refuses & DRAINING:
        return "it is about to end, and takes no more tasks"
    seconds = requirements.seconds or task.function.cost
    if not eligibility.can_end(worker, seconds, now):
        left = format_duration(max(0.0, worker.deadline - now))
        return f"its job ends in {left}, and the task takes {format_duration(seconds)}"
    if not sizes.has_room_at_all(worker, task):
        return (
            f"the task is given {sizes.least_bytes(task) / 1e6:.0f} MB, and it has {worker.room / 1e6:.0f} MB "
            "free for that at most"
        )
    if worker.refuses & PAUSED:
        limit = f" of {format_bytes(worker.memory_limit)}" if worker.memory_limit else ""
        return f"its memory{limit} is full"
    if worker.refuses & UNREADY:
        return worker.unready or "it is being set up"
    if worker.refuses:
        return "its connection is lost"
    return _busy(worker, task, requirements)


def _busy(worker: Worker, task: Task, requirements: Requirements) -> str:
    used = [name for name, amount in requirements.resources if worker.free[name] < amount]
    if used:
        return f"other tasks use its {', '.join(used)}"
    if task.key in worker.assigned:
        return "it has yet to answer for an earlier task of this name"
    if requirements.by_size and not sizes.has_room_now(worker, task):
        return f"other tasks were given much of its {worker.room / 1e6:.0f} MB of memory"
    if not has_room(worker):
        seconds = worker.backlog / worker.threads
        about = f", about {format_duration(seconds)} of work" if 1 <= seconds < math.inf else ""
        return f"it has enough to do ({len(worker.assigned)} tasks{about})"
    return ""
