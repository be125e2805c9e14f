"""Making an actor: the one task whose result stays on its worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hpclaunch.comm.class_copies import Table, classes_of_task


class NewActor(NamedTuple):
    """The outcome of a task that has made an actor."""

    instance: Any
    classes: Table  # those of that task that travelled by value: the actor's calls go on with them


def make_actor(cls: Callable[..., Any], /, *args: Any, **kwargs: Any) -> NewActor:
    """Make an actor: what the task of ``submit(cls, actor=True)`` calls."""
    return NewActor(cls(*args, **kwargs), classes_of_task())
