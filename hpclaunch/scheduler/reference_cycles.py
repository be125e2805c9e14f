"""Results that only keep each other: rings of claims, which counting alone never lets go.

Pure. A task's result has the future of another in it, and so on, until one has the future of the first, or of a
task that the first was made from. A task is *held* if somebody outside wants it: a client, or a claim of something
else than a result. What keeps a task known that is not held is another task: one whose result names it, or one
that has it as an input. If none of those that do so is held, nor any of those that keep these, then nobody can
ever ask for any of them: all of them go. A ring that only they kept goes with the next look.

Only tasks that have lost something that kept them are looked at (:attr:`Claims.suspects`), and what keeps them.
Where no result names anything, nothing is done at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hpclaunch.scheduler import references

if TYPE_CHECKING:
    from hpclaunch.scheduler.reactor import Reactor
    from hpclaunch.scheduler.state import Client, Task

#: Seconds between two looks, and seconds for each task that was looked at: a long look is a rare one.
LEAST_SECONDS = 1.0
SECONDS_EACH = 50e-6


def on_tick(reactor: Reactor, now: float) -> None:
    """Let rings go that nobody can reach any more, if it is time to look for them."""
    known = reactor.claims
    if not known.suspects or now < known.next_look:
        return
    references.settle(reactor)
    claimant = reactor.state.clients.get(references.CLAIMANT)
    tasks = reactor.state.tasks
    some = [tasks[key] for key in known.suspects if key in tasks]
    known.suspects.clear()
    if claimant is None or not some:
        return
    looked_at, unreached = _look(reactor, claimant, some)
    known.next_look = now + max(LEAST_SECONDS, SECONDS_EACH * looked_at)
    known.on_forgotten([task.key for task in unreached])
    references.settle(reactor)


def _look(reactor: Reactor, claimant: Client, suspects: Iterable[Task]) -> tuple[int, list[Task]]:
    """Return how many tasks were looked at, and those of them that nobody holds."""
    keeps: dict[Task, list[Task]] = {}  # a task -> those that it keeps, as far as it matters
    seen = set(suspects)
    todo = list(seen)
    alive: list[Task] = []
    while todo:
        task = todo.pop()
        if _is_held(reactor, claimant, task):
            alive.append(task)
            continue
        for keeper in _keepers(reactor, task):
            if keeper not in seen and _is_held(reactor, claimant, keeper):
                alive.append(task)  # what else keeps it does not matter
                break
            keeps.setdefault(keeper, []).append(task)
            if keeper not in seen:
                seen.add(keeper)
                todo.append(keeper)
    unreached = dict.fromkeys(seen)
    while alive:
        task = alive.pop()
        if task in unreached:
            del unreached[task]
            alive += keeps.get(task, ())
    return len(seen), list(unreached)


def _is_held(reactor: Reactor, claimant: Client, task: Task) -> bool:
    """Say whether somebody wants a task who is no task's result."""
    if any(client is not claimant for client in task.wanted_by):
        return True
    known = reactor.claims
    return claimant in task.wanted_by and known.kept[task.key] > len(known.namers.get(task.key, ()))


def _keepers(reactor: Reactor, task: Task) -> Iterator[Task]:
    """Give the tasks that keep a task known: those whose results name it, and those that have it as an input."""
    tasks = reactor.state.tasks
    for key in reactor.claims.namers.get(task.key, ()):
        if key in tasks:
            yield tasks[key]
    yield from task.dependents or ()
