"""What a TimeoutError says: what was waited for, how long, how it stands, and how to learn more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_NAMED = {
    ("queue", "get"): "queue {name!r} was empty for {seconds:g} s: nothing was put in",
    ("queue", "put"): "queue {name!r} was full for {seconds:g} s: nothing was taken out",
    ("variable", "get"): "variable {name!r} had no value for {seconds:g} s: it was not set",
}


def wait_timeout(futures: Sequence[Any], seconds: float) -> TimeoutError:
    """Return the error of a wait for some futures, of which not all have ended in time."""
    pending = [future for future in futures if not future.done()] or list(futures)
    tasks: list[Any] = [future for future in pending if hasattr(future, "key")]
    if not tasks:
        return TimeoutError(
            f"{len(pending)} of {len(futures)} answers of actors have not come within {seconds:g} s: an actor "
            "carries out its calls in their order, and one of them, or its worker, takes longer"
        )
    first = tasks[0].key
    more = f"client.why({first!r}) says what it waits for"
    if len(futures) == 1:
        return TimeoutError(f"task {first} has not ended within {seconds:g} s: it is {tasks[0].status}; {more}")
    what = "tasks" if len(tasks) == len(pending) else "tasks and calls of actors"
    return TimeoutError(
        f"{len(pending)} of {len(futures)} {what} have not ended within {seconds:g} s, among them {first}; {more}"
    )


def fetch_timeout(futures: Sequence[Any], seconds: float) -> TimeoutError:
    """Return the error of a wait for large results that have not arrived in time."""
    return TimeoutError(
        f"{len(futures)} large results, such as that of {futures[0].key}, have not arrived within {seconds:g} s: "
        "their tasks have ended, and the workers that keep them are slow, or looked for; ask again, with more time"
    )


def coordination_timeout(kind: str, do: str, name: str, seconds: float) -> TimeoutError:
    """Return the error of a wait for something that is shared by name."""
    text = _NAMED.get((kind, do), "no {do} of {kind} {name!r} within {seconds:g} s")
    return TimeoutError(text.format(kind=kind, do=do, name=name, seconds=seconds))
