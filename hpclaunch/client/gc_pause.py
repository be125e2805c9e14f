"""Python's cyclic garbage collector, paused while very many objects are made that are no garbage.

The collector is started again and again by the mere number of new objects, and looks at all of them each time.
While 200,000 futures were made it took a third of the client's processor time, and found nothing.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

#: So many objects are worth it.
_MANY = 10_000

_lock = threading.Lock()
_depth = 0  # blocks that are entered, in all threads
_was_on = False  # before the first of them


@contextlib.contextmanager
def gc_paused(count: int) -> Iterator[None]:
    """Pause the collector inside this block, in which about ``count`` objects are made; few are not worth it."""
    global _depth, _was_on
    if count < _MANY:
        yield
        return
    with _lock:
        if not _depth:
            _was_on = gc.isenabled()
            gc.disable()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth and _was_on:
                gc.enable()


def _after_fork() -> None:
    """In a fork of a process, the threads that are inside such blocks are not there."""
    global _lock, _depth
    _lock = threading.Lock()
    if _depth and _was_on:
        gc.enable()
    _depth = 0


os.register_at_fork(after_in_child=_after_fork)
