"""Results that only keep each other: cycles of references, which counting alone never releases.

Pure. A task's result has the future of another in it, and so on, until one has the future of the first, or of a
task that the first was made from. A task is *rooted* if something outside wants it: a client, or a reference that
is not in a result. What keeps a task known that is not rooted is another task: one whose result names it, or one
that has it as an input. If none of those that do so is rooted, nor any of those that keep these, then no client
can ever ask for any of them: all of them are released. A cycle that only they kept goes with the next look.

Only tasks that have lost a keeper are looked at (:attr:`ReferenceCounts.suspects`), and what keeps them. Where no
result names anything, nothing is done at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hpclaunch.scheduler.lifecycle import Lifecycle
from hpclaunch.scheduler.references import KEEPER, release_dropped
from hpclaunch.scheduler.state import Client, Task

#: Seconds between two looks, and seconds for each task that was looked at: a long look is a rare one.
MIN_LOOK_SECONDS = 1.0
SECONDS_EACH = 50e-6


def on_timer(lifecycle: Lifecycle, now: float) -> None:
    """Release cycles that no client can reach any more, if it is time to look for them."""
    known = lifecycle.references
    if not known.suspects or now < known.next_look:
        return
    release_dropped(lifecycle)
    keeper = lifecycle.state.clients.get(KEEPER)
    tasks = lifecycle.state.tasks
    some = [tasks[key] for key in known.suspects if key in tasks]
    known.suspects.clear()
    if keeper is None or not some:
        return
    count, unreached = _find_unreached(lifecycle, keeper, some)
    known.next_look = now + max(MIN_LOOK_SECONDS, SECONDS_EACH * count)
    known.on_forgotten([task.key for task in unreached])
    release_dropped(lifecycle)


def _find_unreached(lifecycle: Lifecycle, keeper: Client, suspects: Iterable[Task]) -> tuple[int, list[Task]]:
    """Return how many tasks were looked at, and those of them that no root reaches."""
    keeps: dict[Task, list[Task]] = {}  # a task -> those that it keeps, as far as it matters
    seen = set(suspects)
    todo = list(seen)
    reached: list[Task] = []
    while todo:
        task = todo.pop()
        if _is_rooted(lifecycle, keeper, task):
            reached.append(task)
            continue
        for other in _keepers(lifecycle, task):
            if other not in seen and _is_rooted(lifecycle, keeper, other):
                reached.append(task)  # what else keeps it does not matter
                break
            keeps.setdefault(other, []).append(task)
            if other not in seen:
                seen.add(other)
                todo.append(other)
    unreached = dict.fromkeys(seen)
    while reached:
        task = reached.pop()
        if task in unreached:
            del unreached[task]
            reached += keeps.get(task, ())
    return len(seen), list(unreached)


def _is_rooted(lifecycle: Lifecycle, keeper: Client, task: Task) -> bool:
    """Say whether something wants a task that is no task's result."""
    if any(client is not keeper for client in task.wanted_by):
        return True
    known = lifecycle.references
    return keeper in task.wanted_by and known.kept[task.key] > len(known.namers.get(task.key, ()))


def _keepers(lifecycle: Lifecycle, task: Task) -> Iterator[Task]:
    """Give the tasks that keep a task known: those whose results name it, and those that have it as an input."""
    tasks = lifecycle.state.tasks
    for key in lifecycle.references.namers.get(task.key, ()):
        if key in tasks:
            yield tasks[key]
    yield from task.dependents or ()
