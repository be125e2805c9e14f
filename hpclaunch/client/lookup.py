"""The current client, for users: typed, since it knows what a Client is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hpclaunch.client.client import Client
from hpclaunch.client.current import current_client
from hpclaunch.tasks.context import client_of_task, seceding


def get_client() -> Client:
    """Return the current client: in a task the one that all tasks of its worker share.

    :raises ValueError: there is none.
    """
    client: Client = current_client()
    return client


@contextlib.contextmanager
def worker_client(timeout: float | None = None, separate_thread: bool = True) -> Iterator[Client]:
    """Give a client inside a task, which can submit more tasks and wait for them.

    :param timeout: accepted, and not needed.
    :param separate_thread: secede for the length of the block.
    :raises ValueError: no task calls this.
    """
    client: Client = client_of_task()
    if not separate_thread:
        yield client
        return
    with seceding():
        yield client
