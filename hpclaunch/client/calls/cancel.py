"""Cancelling tasks that have not begun, as executors do. (Futures cancel themselves: see the table of futures.)"""

from __future__ import annotations

import asyncio
import contextlib

from hpclaunch.link.head_link import HeadLink


def cancel_unstarted(link: HeadLink, keys: list[str]) -> list[str]:
    """Cancel those of some tasks that have not begun; return their keys."""
    return list(link.ask("cancel_unstarted", keys=keys)) if keys else []


def cancel_unstarted_soon(link: HeadLink, keys: list[str]) -> None:
    """As :func:`cancel_unstarted`, without an answer: it may be called in any thread, at any point."""
    if keys and link.is_usable:
        with contextlib.suppress(RuntimeError):  # the interpreter is ending
            asking = link.request("cancel_unstarted", keys=keys)
            asyncio.run_coroutine_threadsafe(asking, link.thread.loop)
