"""The thread that calls what users gave to ``add_done_callback``: one for each client that needs it.

A user's function may take long, block, or raise; the loop thread may do none of that.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from hpclaunch.client.current import as_current
from hpclaunch.link.facade import allowing_to_block

log = logging.getLogger("hpclaunch.client")

_Callback = tuple[Callable[[Any], Any], Any]


class CallbackThread:
    """Calls functions with futures, one after another."""

    def __init__(self) -> None:
        self._callbacks: queue.SimpleQueue[_Callback | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="hpclaunch-callbacks", daemon=True).start()

    def put(self, function: Callable[[Any], Any], future: Any) -> None:
        """Have ``function(future)`` called."""
        self._callbacks.put((function, future))

    def end(self) -> None:
        """End once all that was put has been called."""
        self._callbacks.put(None)

    def _serve(self) -> None:
        while (callback := self._callbacks.get()) is not None:
            call_back(*callback)
            del callback  # or its future would live until the next one comes


def call_back(function: Callable[[Any], Any], future: Any) -> None:
    """Call a user's function with a future, whose client is the current one; what it raises goes to the log."""
    try:
        with allowing_to_block(), as_current(future.client):
            function(future)
    except Exception:
        log.exception("a future's callback raised")
