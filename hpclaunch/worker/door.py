"""A worker's tasks as clients of their cluster: what a Client needs to connect with the worker's own credentials.

The head knows such a client by its role, "task": it may submit, fetch and ask, but not scale or close the cluster.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from hpclaunch.comm import messages as m
from hpclaunch.link.session import HeadSession


class WorkerDoor:
    """Stands for the cluster, to a Client inside a worker.

    :param hello: the worker's own greeting.
    :param context: the TLS context with which the worker dials; None without TLS.
    :param facts: more of what a client wants to know of its cluster.
    """

    directory = None

    def __init__(
        self, hello: m.Hello, context: ssl.SSLContext | None, facts: Mapping[str, Any] | None = None
    ) -> None:
        self._hello = hello
        self.peer_context = context
        self.facts = {"id": hello.cluster_id, **(facts or {})}

    def client_hello(self, name: str) -> m.Hello:
        """Return the greeting of a client in a task of this worker."""
        worker = self._hello
        return m.Hello(
            m.PROTOCOL_VERSION,
            "task",
            name,
            worker.cluster_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            job_id=worker.job_id,
            secret=worker.secret,
        )

    async def open_session(self, *, name: str, on_messages: Any = None, on_lost: Any = None) -> HeadSession:
        """Connect to the head at the address at which the worker reached it."""
        hello = self.client_hello(name)
        return await HeadSession.to(
            [self._hello.head_address], hello, self.peer_context, on_messages=on_messages, on_lost=on_lost
        )
