"""What the scheduler's shell must do. Messages are those of :mod:`hpclaunch.comm.messages`."""

from __future__ import annotations

from typing import NamedTuple

from hpclaunch.comm.messages import Message


class ToClient(NamedTuple):
    """Send a message to a client, by its name."""

    client: str
    message: Message


class ToWorker(NamedTuple):
    """Send a message to a worker, by its name."""

    worker: str
    message: Message


Command = ToClient | ToWorker
