"""Which queued tasks are taken back from busy workers, for those with nothing to do. Pure."""

from __future__ import annotations

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.commands import Command, ToWorker
from hpclaunch.scheduler.state import SchedulerState, Worker


def recall(state: SchedulerState, now: float) -> list[Command]:
    """Return the messages that take tasks back which idle workers could begin at once."""
    if not state.idle or state.ready.count or not state.deep:
        return []
    commands: list[Command] = []
    hungry = sum(w.threads for w in state.idle)
    latest = max(w.deadline for w in state.idle)
    for worker in list(state.deep):
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
    return last.terms is None and now + last.cost <= latest
