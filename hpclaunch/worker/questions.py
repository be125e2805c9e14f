"""What the head can ask of a worker, for clients: one table of methods.

They run on the worker's event loop, and must not block it.
"""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import msgspec

from hpclaunch import trusted
from hpclaunch.comm import messages as m
from hpclaunch.comm import serialize
from hpclaunch.comm.reports import to_report
from hpclaunch.errors import UserError
from hpclaunch.worker.spill import make_directory, uploads_directory

if TYPE_CHECKING:
    from hpclaunch.worker.context import WorkerFacts
    from hpclaunch.worker.executor import Executor
    from hpclaunch.worker.server import WorkerServer


_NONE = serialize.dump_inline(None)


class WorkerQuestions:
    """Answers the head's questions to one worker."""

    def __init__(self, server: WorkerServer, executor: Executor) -> None:
        self._server = server
        self._executor = executor
        self._uploads: Path | None = None
        self._opened_uploads = (-1, -1)  # kept open: a lock says that this worker lives
        self._calls: set[Future[list[Any]]] = set()
        self._now: dict[str, Callable[..., Any]] = {
            "call_stack": self._call_stack,
            "running": self._executor.running,
            "take_back": self._take_back,
            "upload_file": self._upload_file,
        }
        self._later: dict[str, Callable[..., Awaitable[Any]]] = {
            "hold": self._hold,
            "run": self._run,
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
            return m.Reply(message.request, msgspec.msgpack.encode(value))
        except Exception as error:  # whatever it is, the head waits for an answer
            return m.Reply(message.request, error=to_report(error))

    async def answer(self, message: m.Request) -> m.Reply:
        """Answer a question that takes its time; an error goes back to whoever asked."""
        try:
            params = msgspec.msgpack.decode(message.body, type=dict[str, Any])
            value = await self._later[message.method](**params)
            return m.Reply(message.request, msgspec.msgpack.encode(value))
        except Exception as error:  # whatever it is, the head waits for an answer
            return m.Reply(message.request, error=to_report(error))

    async def _hold(self, results: list[tuple[str, list[str], int]]) -> None:
        """Fetch copies of results and keep them."""
        await asyncio.gather(*(self._server.fetch_copy(*one) for one in results))

    async def _run(self, function: bytes, args: bytes, wait: bool) -> list[Any]:
        """Call a function in a thread of its own, beside the tasks."""
        call: Future[list[Any]] = Future()
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

        def run() -> None:
            call.set_result(_call(function, args, self._executor.facts))

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

    def _upload_file(self, name: str, data: bytes) -> None:
        """Make a module, or a zip file of modules, importable in this process; a loaded one is loaded again."""
        if self._uploads is None:
            self._uploads = self._make_uploads()
            sys.path.insert(0, str(self._uploads))
        path = self._uploads / Path(name).name
        path.write_bytes(data)
        if path.suffix in (".zip", ".egg", ".whl"):
            if str(path) not in sys.path:
                sys.path.insert(0, str(path))
            zipimport = sys.path_importer_cache.pop(str(path), None)
            del zipimport
        importlib.invalidate_caches()
        if path.suffix == ".py" and path.stem in sys.modules:
            importlib.reload(sys.modules[path.stem])

    def _make_uploads(self) -> Path:
        """Make the directory of uploads, which Python will look into by its path.

        :raises SiteError: others could put theirs in its place.
        """
        directory = uploads_directory(self._server.scratch_directory)
        trusted.check_base(directory.parent)
        self._opened_uploads = make_directory(directory)
        return directory

    def close(self) -> None:
        """Remove what was uploaded."""
        if self._uploads is not None:
            shutil.rmtree(self._uploads, ignore_errors=True)

    def _take_back(self, keys: list[str]) -> list[str]:
        """Give tasks back that have not begun; the head takes the answer as the answer for these tasks."""
        return self._server.take_back(frozenset(keys))


def _call(function: bytes, data: bytes, facts: WorkerFacts) -> list[Any]:
    """Call a function; return [True, its pickled value] or [False, the parts of a Failure]."""
    try:
        call = serialize.load_value(function)
        args, kwargs = serialize.load_call(data, None)
        if _takes_worker(call):
            kwargs["dask_worker"] = facts
        value = call(*args, **kwargs)
        if type(value) is CoroutineType:  # the function is an async one
            value = asyncio.run(value)
        return [True, serialize.dump_inline(value)]
    except BaseException as error:
        failure = serialize.dump_failure(error, skip_frames=1)
        return [False, failure.kind, failure.text, failure.traceback, failure.exception]


def _takes_worker(call: Callable[..., Any]) -> bool:
    code = getattr(call, "__code__", None)
    return code is not None and "dask_worker" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
