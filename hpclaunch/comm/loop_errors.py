"""What the event loop reports of itself, which no other code hears.

Nearly all of that is a bug, and is printed. One thing is not: uvloop's TLS goes on writing to a connection that
has just broken while it was read, and reports what comes of it. The connection's owner is told of the end anyway.
"""

from __future__ import annotations

import asyncio
from typing import Any


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Be the loop's exception handler."""
    if not is_of_a_broken_connection(context):
        loop.default_exception_handler(context)


def is_of_a_broken_connection(context: dict[str, Any]) -> bool:
    """Say whether only a write to a connection failed that was closed already."""
    error, transport = context.get("exception"), context.get("transport")
    return (
        context.get("message") == "Fatal error on SSL protocol"
        and isinstance(error, RuntimeError)
        and "the handler is closed" in str(error)
        and (transport is None or transport.is_closing())
    )
