"""What prepares a worker's process before tasks run in it: uploaded modules, and plugins with code of the user's.

They are carried out one at a time, in the order in which the head sends them, each in a thread of its own: a
plugin may load a model for a minute, and the worker's loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import CoroutineType
from typing import Any

from hpclaunch.comm import serialize
from hpclaunch.tasks.context import WorkerFacts
from hpclaunch.worker.uploads import Uploads

log = logging.getLogger("hpclaunch.worker")

#: Seconds that plugins have for all their teardowns when the worker ends.
_END_SECONDS = 2.0

FILE, PLUGIN = "file", "plugin"


class SetUps:
    """The set-ups of one worker.

    :param directory: where uploaded files go.
    :param on_modules_changed: called, in any thread, when code that was loaded before may be another now.
    """

    def __init__(self, facts: WorkerFacts, directory: Path, on_modules_changed: Callable[[], None]) -> None:
        self._facts = facts
        self._plugins = facts.plugins
        self._uploads = Uploads(directory)
        self._on_modules_changed = on_modules_changed
        self._turn = asyncio.Lock()
        self._ending: Future[Any] | None = None

    async def set_up(self, kind: str, name: str, data: bytes) -> list[Any]:
        """Take a file or a plugin in; return [True, b""] or [False, the parts of a Failure]."""
        call = self._add_file if kind == FILE else self._add_plugin
        async with self._turn:
            return await asyncio.wrap_future(in_thread(lambda: _outcome(lambda: call(name, data))))

    async def take_down(self, kind: str, name: str) -> list[Any]:
        """Remove a file or a plugin; answer as :meth:`set_up`."""
        call = self._uploads.remove if kind == FILE else self._remove_plugin
        async with self._turn:
            return await asyncio.wrap_future(in_thread(lambda: _outcome(lambda: call(name))))

    async def are_done(self) -> None:
        """Return when all that was asked for so far is done."""
        async with self._turn:
            pass

    def end(self) -> None:
        """Begin to tear all plugins down, the last one first, and to remove all files."""
        if self._ending is None:
            self._ending = in_thread(self._end)

    async def have_ended(self) -> None:
        """Wait a moment for what :meth:`end` has begun."""
        if self._ending is not None:
            await asyncio.wait([asyncio.wrap_future(self._ending)], timeout=_END_SECONDS)

    def _end(self) -> None:
        for name in list(reversed(self._plugins)):
            try:
                self._remove_plugin(name)
            except BaseException:  # the others have a teardown, too
                log.exception("plugin %r could not be torn down", name)
        self._uploads.close()

    def _add_file(self, name: str, data: bytes) -> None:
        if self._uploads.add(name, data):
            self._on_modules_changed()

    def _add_plugin(self, name: str, data: bytes) -> None:
        plugin = serialize.load_value(data)
        if name in self._plugins:
            try:
                self._remove_plugin(name)
            except Exception:  # what replaces it is set up all the same
                log.exception("plugin %r could not be torn down", name)
        self._plugins[name] = plugin
        try:
            _finish(plugin.setup(self._facts))
        except BaseException:
            self._plugins.pop(name, None)
            raise

    def _remove_plugin(self, name: str) -> None:
        plugin = self._plugins.pop(name, None)
        teardown = getattr(plugin, "teardown", None)
        if teardown is not None:
            _finish(teardown(self._facts))


def in_thread(call: Callable[[], Any]) -> Future[Any]:
    """Run a call that does not raise in a daemon thread of its own."""
    answer: Future[Any] = Future()

    def run() -> None:
        value = call()
        if not answer.cancelled():
            answer.set_result(value)

    threading.Thread(target=run, name="hpclaunch-setup", daemon=True).start()
    return answer


def _finish(value: Any) -> None:
    if type(value) is CoroutineType:  # the method is an async one
        asyncio.run(value)


def _outcome(call: Callable[[], None]) -> list[Any]:
    try:
        call()
    except BaseException as error:
        failure = serialize.dump_failure(error, skip_frames=1)
        return [False, failure.kind, failure.text, failure.traceback, failure.exception]
    return [True, b""]
