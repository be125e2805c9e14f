"""Which queued tasks are taken back from busy workers. Pure.

Some are, for workers with nothing to do (:func:`recall`). And a worker may have been given far too many: what a
call takes is learned from those before, and these may have been other work. Results show it (:func:`on_overrun`).
What it has is then valued by what is known now, and what is far beyond the work that it should have ahead goes
back to the queue, whether or not others have something to do: what takes results in would wait behind it.
"""

from __future__ import annotations

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import Command, ToWorker
from hpclaunch.scheduler.function import AHEAD_SECONDS
from hpclaunch.scheduler.state import SchedulerState, Worker

#: Results may be so many times as much work as they were taken to be, before that matters.
TOLERANCE = 2.0
#: A worker may have so many times the work ahead that it should have, before some is taken back.
_SURPLUS = 5.0


def recall(state: SchedulerState, now: float) -> list[Command]:
    """Return the messages that take tasks back which idle workers could begin at once."""
    if not state.idle or state.ready.count or not state.saturated:
        return []
    commands: list[Command] = []
    hungry = sum(w.threads for w in state.idle)
    latest = max(w.deadline for w in state.idle)
    for worker in list(state.saturated):
        if worker.recalling or not _is_slow(worker, now) or not _is_free(worker, latest, now):
            continue
        worker.recalling = True
        spare = len(worker.assigned) - worker.threads
        count = min(hungry, (spare + 1) // 2 if spare > 1 else 1)
        commands.append(ToWorker(worker.name, m.RecallTasks(count)))
        hungry -= count
        if hungry <= 0:
            break
    return commands


def _is_slow(worker: Worker, now: float) -> bool:
    return worker.backlog > 0.05 or now - worker.last_progress > 0.1


def _is_free(worker: Worker, latest: float, now: float) -> bool:
    """Say whether the task that would be taken back first could run elsewhere: not if it had its reasons."""
    last = next(reversed(worker.assigned.values()))
    return last.requirements is None and now + last.cost <= latest


def on_overrun(state: SchedulerState, worker: Worker, overrun: float) -> list[Command]:
    """Take back what a worker was given too much of, if its results show it; return the message.

    :param overrun: seconds by which its last tasks were more work than :data:`TOLERANCE` times what they had
        counted. They add up, and others that were less make up for them: few slow ones among many are nothing.
    """
    worker.overrun = max(0.0, overrun)
    if overrun < AHEAD_SECONDS or worker.recalling:
        return []
    worker.overrun = 0.0
    keep = _value(worker)
    state.index(worker)
    if worker.backlog <= _SURPLUS * AHEAD_SECONDS * worker.threads or keep == len(worker.assigned):
        return []
    worker.recalling = True
    return [ToWorker(worker.name, m.RecallTasks(len(worker.assigned) - keep))]


def _value(worker: Worker) -> int:
    """Value all that a worker has by what is known now; return how many tasks it would be given today."""
    threads, limit = worker.threads, AHEAD_SECONDS * worker.threads
    backlog, keep = 0.0, 0
    function, load = None, 0.0
    for task in worker.assigned.values():
        if task.function is not function:
            function, load = task.function, task.function.load
        if keep <= threads or backlog < limit:
            keep += 1
        if task.cost:  # else it is no work: it waits for others, or its value comes from a client
            task.cost = task.requirements.seconds or load if task.requirements is not None else load
            backlog += task.cost
    worker.backlog = backlog
    return keep
