"""Of what the event loop reports, only a write to a connection that is closed is no concern."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hpclaunch.comm.loop_errors import on_loop_error


def context(**other: Any) -> dict[str, Any]:
    """As uvloop gave it when the peer of a connection was killed."""
    text = "unable to perform operation on <TCPTransport closed=True reading=False 0x5602>; the handler is closed"
    closed = SimpleNamespace(is_closing=lambda: True)
    return {
        "message": "Fatal error on SSL protocol",
        "exception": RuntimeError(text),
        "transport": closed,
        "protocol": None,
        **other,
    }


@pytest.mark.parametrize(
    ("other", "is_said"),
    [
        ({}, False),
        ({"transport": None}, False),
        ({"transport": SimpleNamespace(is_closing=lambda: False)}, True),
        ({"exception": RuntimeError("dictionary changed size during iteration")}, True),
        ({"exception": None}, True),
        ({"message": "Exception in callback f()"}, True),
    ],
)
def test_what_is_said(other: dict[str, Any], is_said: bool, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.set_exception_handler(on_loop_error)
        loop.call_exception_handler(context(**other))
    finally:
        loop.close()
    assert bool(caplog.records) is is_said
