"""What tests do to a client, and learn of it, that no user can: the one place where they reach inside.

Requests of a cluster's owner, such as "retire", go by a client's link, as those of a cluster object do.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

from hpclaunch import Client
from hpclaunch.client.core import ClientCore
from hpclaunch.client.submission.submit import Submission


def core_of(client: Client) -> ClientCore:
    """Return what all parts of a client share."""
    return client._core


def submission_of(client: Client) -> Submission:
    """Return what submits a client's tasks."""
    return client._submission


def block(client: Client, address: str) -> None:
    """Have a client take a worker for one that it can't reach, as behind a firewall."""
    client._core.fetcher._unreachable[address] = "a firewall"


def request(client: Client, method: str, **params: Any) -> Any:
    """Ask the head something, and wait for the answer."""
    link = client._core.link
    return link.thread.run(link.session.request(method, **params))


def request_soon(client: Client, method: str, **params: Any) -> concurrent.futures.Future[Any]:
    """Ask the head something; the answer comes later."""
    link = client._core.link
    return asyncio.run_coroutine_threadsafe(link.session.request(method, **params), link.thread.loop)


def calls_outstanding(client: Client) -> int:
    """Return how many calls of its executors have not ended."""
    return len(client._core.outstanding)


def futures_kept(client: Client) -> int:
    """Return how many futures the client keeps because they have callbacks."""
    return len(client._core.table._kept)
