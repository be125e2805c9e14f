"""What the head can ask of a worker, for clients: one table of methods.

They run on the worker's event loop, and must not block it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from hpclaunch.comm import messages as m
from hpclaunch.comm.reports import to_report
from hpclaunch.errors import HPCLaunchError, UserError

if TYPE_CHECKING:
    from hpclaunch.worker.executor import Executor
    from hpclaunch.worker.server import WorkerServer


class WorkerQuestions:
    """Answers the head's questions to one worker."""

    def __init__(self, server: WorkerServer, executor: Executor) -> None:
        self._server = server
        self._executor = executor
        self._methods: dict[str, Callable[..., Awaitable[Any]]] = {
            "running": self._running,
            "take_back": self._take_back,
        }

    async def answer(self, message: m.Request) -> m.Reply:
        """Answer one question; an error goes back to whoever asked."""
        try:
            method = self._methods.get(message.method)
            if method is None:
                raise UserError(f"a worker knows no question {message.method!r}. Are both sides one version?")
            value = await method(**msgspec.msgpack.decode(message.body, type=dict[str, Any]))
            return m.Reply(message.request, msgspec.msgpack.encode(value))
        except HPCLaunchError as error:
            return m.Reply(message.request, error=to_report(error))
        except Exception as error:  # whatever it is, the head waits for an answer
            return m.Reply(message.request, error=to_report(error))

    async def _running(self) -> list[str]:
        return self._executor.running()

    async def _take_back(self, keys: list[str]) -> list[str]:
        """Give tasks back that have not begun; the head takes the answer as the answer for these tasks."""
        return self._server.take_back(frozenset(keys))
