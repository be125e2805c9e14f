"""What a task may leave broken in its worker's process, and what later tasks and the worker itself need.

``threading.excepthook = None`` keeps every thread from being made; a standard stream that is None or closed makes
``print`` and ``logging`` raise. A hook or stream that works stays: it may be what a set-up function has put there.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TextIO


def mend_hooks() -> None:
    """Put back those hooks and standard streams that can't work."""
    if not callable(threading.excepthook):
        threading.excepthook = threading.__excepthook__
    if not callable(sys.excepthook):
        sys.excepthook = sys.__excepthook__
    if not callable(sys.unraisablehook):
        sys.unraisablehook = sys.__unraisablehook__
    if _is_broken(sys.stdout):
        sys.stdout = _stream(1, sys.__stdout__)
    if _is_broken(sys.stderr):
        sys.stderr = _stream(2, sys.__stderr__)


def _is_broken(stream: object) -> bool:
    return not hasattr(stream, "write") or bool(getattr(stream, "closed", False))


def _stream(descriptor: int, original: TextIO | None) -> TextIO:
    """Return the stream that was there first; if it is closed, another on its descriptor, or on nothing."""
    if original is not None and not original.closed:
        return original
    with contextlib.suppress(OSError):
        return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)
    return open("/dev/null", "w")
