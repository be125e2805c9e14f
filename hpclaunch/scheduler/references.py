"""References to tasks that no client holds for a while: the head keeps the tasks that they name meanwhile.

Pure. Tasks that are named are kept

* by values that are kept by name (queues, variables, datasets), for as long as these are there;
* by a value that was given out, until the client that asked for it has made futures of what it names and says so,
  or has left. If it releases earlier futures of the same keys meanwhile, that changes nothing;
* by a task's result that has futures in it, for as long as that task is known. Results that name each other in a
  cycle would keep themselves so: :mod:`hpclaunch.scheduler.reference_cycles` finds those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hpclaunch.comm import messages as m
from hpclaunch.scheduler.lifecycle import Lifecycle

#: The client that wants, in the scheduler's eyes, all that is kept for references.
KEEPER = "(named)"


def keep(lifecycle: Lifecycle, keys: Iterable[str]) -> None:
    """Count one more reference to each of these tasks."""
    some = list(keys)
    if not some:
        return
    if KEEPER not in lifecycle.state.clients:
        lifecycle.add_client(KEEPER)
    lifecycle.references.kept.update(some)
    wants, tasks = lifecycle.state.clients[KEEPER].wants, lifecycle.state.tasks
    lifecycle.want_keys(KEEPER, [key for key in dict.fromkeys(some) if key not in wants and key in tasks])


def release(lifecycle: Lifecycle, keys: Sequence[str]) -> None:
    """Count one reference less to each of these tasks."""
    if not keys:
        return
    kept = lifecycle.references.kept
    kept.subtract(keys)
    gone = [key for key in dict.fromkeys(keys) if kept[key] <= 0]
    for key in gone:
        del kept[key]
    if lifecycle.references.named:
        lifecycle.references.suspects.update(keys)
    lifecycle.release_keys(lifecycle.state.clients[KEEPER], gone)
    if not kept:
        lifecycle.remove_client(KEEPER)


def release_dropped(lifecycle: Lifecycle) -> None:
    """Release the references of results that are not known any more, and of results that only they named."""
    while dropped := lifecycle.references.take_dropped():
        release(lifecycle, dropped)


def on_given(lifecycle: Lifecycle, client: str, ticket: int, keys: Sequence[str]) -> None:
    """A client is about to be given a value that names these tasks."""
    if keys and client in lifecycle.state.clients:
        lifecycle.references.given.setdefault((client, ticket), []).extend(keys)
        keep(lifecycle, keys)


def on_taken(lifecycle: Lifecycle, client: str, ticket: int) -> None:
    """A client has made futures of what it was given."""
    release(lifecycle, lifecycle.references.given.pop((client, ticket), []))


def on_client_left(lifecycle: Lifecycle, client: str) -> None:
    """A client has left: it will make no futures of what it was given."""
    for one in [one for one in lifecycle.references.given if one[0] == client]:
        on_taken(lifecycle, *one)


def on_result_names(lifecycle: Lifecycle, message: m.ResultNames) -> None:
    """The result of a task, which runs or has just ended, has these futures in it."""
    if message.key in lifecycle.state.tasks:
        named = lifecycle.references.named.setdefault(message.key, {})
        new = [key for key in dict.fromkeys(message.keys) if key not in named and key != message.key]
        named.update(dict.fromkeys(new))
        for key in new:
            lifecycle.references.namers.setdefault(key, {})[message.key] = None
        keep(lifecycle, new)
