"""Actors, as the scheduler sees them: results that exist once, on one worker, and are lost with it.

A task that makes an actor is like one with a large result, but its result has no copies, and a client that cannot
reach it does not make it lost: the actor lives as long as its worker is there. When that is lost, the actor is
re-created if it has restarts left.

Pure.
"""

from __future__ import annotations

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.state import Task, Worker


def use_restart(task: Task) -> bool:
    """An actor was lost: say whether it is to be re-created, and count that."""
    if task.actor <= 0:
        return False
    task.actor -= 1
    return True


def lost(task: Task, worker: Worker, how: str) -> m.Failure:
    """Return the failure of an actor that was lost with its worker and is not re-created."""
    ended, *printed = how.split("\n")
    lines = [
        f"actor {task.key} ({task.function.name}) was lost with its worker {worker.name}: {ended}. What it knew "
        "is gone; submit(..., actor=True, restarts=N) re-creates it, from its arguments",
        *(f"  {line}" for line in printed),
    ]
    return m.Failure("ActorError", "\n".join(lines))
