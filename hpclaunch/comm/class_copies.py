"""Classes that travel by value: which class object an unpickled value gets.

cloudpickle sends a class of ``__main__``, or of a function, with its attributes and an id, and makes one class of
each id in a process. Every value that arrives sets the attributes of that one class again. On a worker, one task
would see what another has set there, or what the client has set since; and a result would set the attributes of
the client's own class to what they were on a worker.

Here each task has classes of its own, as if it ran in a new process: the first value that brings a class into a
task (its function, then its arguments and inputs) says what the class is like, and all values of the task that are
of this class have the same one. Elsewhere, on a client, a class that is there stays as it is.

A thread that runs tasks has a table of the classes of its task; see :func:`enter`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

#: The classes of one task, by cloudpickle's id.
Table = dict[str, type]


class _Here(threading.local):
    table: Table | None = None


_here = _Here()
#: Classes that were made here, and are not complete before their attributes are set.
_incomplete: weakref.WeakSet[type] = weakref.WeakSet()
#: Those made for tasks: a later one may take the place of an earlier one in cloudpickle's own table.
_copies: weakref.WeakSet[type] = weakref.WeakSet()


def enter(table: Table) -> None:
    """Have values that this thread unpickles from now on share the classes in ``table``, which it fills."""
    _here.table = table


def classes_of_task() -> Table:
    """Return a copy of the table of this thread's task; empty outside of tasks."""
    return dict(_here.table or {})


def replacement(name: str, found: Callable[..., Any]) -> Callable[..., Any]:
    """Return what is to be called instead of a function of cloudpickle that a pickle names."""
    if name == "_make_skeleton_class":
        return lambda maker, of, bases, kwargs, tracker, extra: _class_of(
            tracker, lambda id: found(maker, of, bases, kwargs, id, extra)
        )
    if name == "_make_skeleton_enum":
        return lambda bases, of, qualname, members, module, tracker, extra: _class_of(
            tracker, lambda id: found(bases, of, qualname, members, module, id, extra)
        )
    if name == "_class_setstate":
        return lambda cls, state: _complete(cls, state, found)
    return found


def _class_of(tracker: str | None, make: Callable[[str | None], type]) -> type:
    """Return the class with an id that this thread's task has, or that the process has outside of tasks."""
    from cloudpickle import cloudpickle

    if tracker is None:
        made = make(None)
        _incomplete.add(made)
        return made
    table = _here.table
    known = table.get(tracker) if table is not None else cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
    if known is not None:
        return known
    if table is None:
        made = make(tracker)
    else:
        made = table[tracker] = make(None)
        _track(cloudpickle, tracker, made)
    _incomplete.add(made)
    return made


def _track(cloudpickle: Any, tracker: str, made: type) -> None:
    """Have a task's class travel under the id that it came with, and be found by threads that the task starts.

    A class of the process's own, on a client whose tasks run in threads of its process, keeps its place.
    """
    _copies.add(made)
    with cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[made] = tracker
        known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
        if known is None or known in _copies:
            cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[tracker] = made


def _complete(cls: type, state: Any, set_state: Callable[[type, Any], type]) -> type:
    """Set the attributes of a class that was just made; one that was there before keeps its own."""
    if cls not in _incomplete:
        return cls
    _incomplete.discard(cls)
    return set_state(cls, state)
