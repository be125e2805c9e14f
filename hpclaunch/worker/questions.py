"""What the head can ask of a worker, for clients: one table of methods.

They run on the worker's event loop, and must not block it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from hpclaunch.comm import messages as m, serialize
from hpclaunch.comm.class_copies import enter
from hpclaunch.comm.reports import to_report
from hpclaunch.comm.texts import pack
from hpclaunch.errors import UserError
from hpclaunch.tasks.context import Place, here, takes_worker
from hpclaunch.worker.hooks import mend_hooks
from hpclaunch.worker.setups import SetUps

if TYPE_CHECKING:
    from hpclaunch.tasks.context import WorkerFacts
    from hpclaunch.worker.executor import Executor


_NONE = serialize.dump_inline(None)


class Results(Protocol):
    """What is asked of the worker itself; see :class:`hpclaunch.worker.server.WorkerServer`."""

    async def fetch_copy(self, key: str, holders: list[str], order: int) -> None:
        """Fetch a result from another worker, to hold it too."""

    def take_back(self, keys: frozenset[str]) -> list[str]:
        """Give up tasks that have not begun."""

    def forget_loaded_code(self) -> None:
        """Forget functions whose modules may have changed."""


class WorkerQuestions:
    """Answers the head's questions to one worker.

    :param uploads: where uploaded files go.
    """

    def __init__(self, server: Results, executor: Executor, uploads: Path) -> None:
        self._server = server
        self._executor = executor
        self._setups = SetUps(executor.facts, uploads, server.forget_loaded_code)
        self._calls: set[Future[list[Any]]] = set()
        self._now: dict[str, Callable[..., Any]] = {
            "call_stack": self._call_stack,
            "running": self._executor.running,
            "take_back": self._take_back,
        }
        self._later: dict[str, Callable[..., Awaitable[Any]]] = {
            "hold": self._hold,
            "run": self._run,
            "set_up": self._setups.set_up,
            "take_down": self._setups.take_down,
        }

    def take(self, message: m.Request) -> m.Reply | None:
        """Answer a question at once; None: it is one for :meth:`answer`."""
        if message.method in self._later:
            return None
        try:
            method = self._now.get(message.method)
            if method is None:
                raise UserError(f"a worker knows no question {message.method!r}. Are both sides one version?")
            value = method(**msgspec.msgpack.decode(message.body, type=dict[str, Any]))
            return m.Reply(message.request, pack(value))
        except Exception as error:  # whatever it is, the head waits for an answer
            return m.Reply(message.request, error=to_report(error))

    async def answer(self, message: m.Request) -> m.Reply:
        """Answer a question that takes its time; an error goes back to the head."""
        try:
            params = msgspec.msgpack.decode(message.body, type=dict[str, Any])
            value = await self._later[message.method](**params)
            return m.Reply(message.request, pack(value))
        except Exception as error:  # whatever it is, the head waits for an answer
            return m.Reply(message.request, error=to_report(error))

    async def _hold(self, results: list[tuple[str, list[str], int]]) -> None:
        """Fetch copies of results and keep them."""
        await asyncio.gather(*(self._server.fetch_copy(*one) for one in results))

    async def _run(self, function: bytes, args: bytes, wait: bool) -> list[Any]:
        """Call a function in a thread of its own, beside the tasks, once the worker is set up."""
        await self._setups.are_done()
        call: Future[list[Any]] = Future()
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

        def run() -> None:
            here.place = Place(self._executor, -1)  # as that of a task that has stepped aside
            call.set_result(_call(function, args, self._executor.facts))

        mend_hooks()
        threading.Thread(target=run, name="hpclaunch-run", daemon=True).start()
        return await asyncio.wrap_future(call) if wait else [True, _NONE]

    def _call_stack(self) -> dict[str, list[str]]:
        """Return where each running task is at this moment, the innermost call last."""
        frames = sys._current_frames()
        threads = self._executor.threads_of()
        return {
            key: traceback.format_stack(frames[thread.ident])
            for key, thread in threads.items()
            if thread.ident in frames
        }

    def close(self) -> None:
        """Begin to undo what prepared this worker."""
        self._setups.end()

    async def have_closed(self) -> None:
        """Wait a moment for what :meth:`close` has begun."""
        await self._setups.have_ended()

    def _take_back(self, keys: list[str]) -> list[str]:
        """Give tasks back that have not begun; the head takes the answer as the answer for these tasks."""
        return self._server.take_back(frozenset(keys))


def _call(function: bytes, data: bytes, facts: WorkerFacts) -> list[Any]:
    """Call a function; return [True, its pickled value] or [False, the parts of a Failure]."""
    try:
        enter({})
        call = serialize.load_value(function)
        args, kwargs = serialize.load_call(data, None)
        if takes_worker(call):
            kwargs["dask_worker"] = facts
        value = call(*args, **kwargs)
        if type(value) is CoroutineType:  # the function is an async one
            value = asyncio.run(value)
        return [True, serialize.dump_inline(value)]
    except BaseException as error:
        failure = serialize.dump_failure(error, skip_frames=1)
        return [False, failure.kind, failure.text, failure.traceback, failure.exception]
