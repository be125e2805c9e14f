"""A worker's memory in practice: measuring the process, and the thread that writes results to disk.

Everything here is called on the worker's event loop, but for what the one writing thread does. What is written
when is decided by the reactor (:mod:`hpclaunch.worker.memory`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpclaunch import file_errors
from hpclaunch.worker.commands import DeleteFile, WriteResult
from hpclaunch.worker.reactor import WorkerReactor
from hpclaunch.worker.vitals import memory_of

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from hpclaunch.worker.spill import SpillDirectory

log = logging.getLogger("hpclaunch.worker")

#: Seconds between two looks at the process's memory.
MEASURE_SECONDS = 0.2
#: Seconds between two tries to have Python and the C library give memory back, while there is too much of it.
_TIDY_SECONDS = 2.0
#: Seconds between two looks at whether there is room for the next result.
_ROOM_SECONDS = 0.02
#: Seconds that the loop may take to answer a thread that wants room.
_ANSWER_SECONDS = 5.0
#: Seconds that a worker may be paused with nothing running before it gives up on its process.
_HOPELESS_SECONDS = 10.0


class Storage:
    """Carries out what a reactor says of memory.

    :param directory: where results go on disk; made when the first does.
    :param carry_out: called after the reactor was told something.
    :param is_idle: says whether nothing runs on this worker.
    :param on_hopeless: called, with the reason, when only a new process can give the memory back.
    """

    def __init__(
        self,
        reactor: WorkerReactor,
        directory: Path,
        *,
        carry_out: Callable[[], None],
        is_idle: Callable[[], bool],
        on_hopeless: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._directory_name = directory
        self._carry_out = carry_out
        self._is_idle = is_idle
        self._on_hopeless = on_hopeless
        self._loop = asyncio.get_running_loop()
        self._directory: SpillDirectory | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self._tidied = 0.0
        self._stuck_since = time.monotonic()
        self._told = ""

    def start(self) -> None:
        """Begin to measure, if there is anything to be done about it."""
        limits = self._reactor.state.ledger.limits
        if limits.target or limits.spill or limits.pause:
            self._timer = self._loop.call_later(MEASURE_SECONDS, self._measure)

    def wait_for_room(self, size: int) -> None:
        """Wait until so many bytes are free below ``terminate``, or nothing more can be written. Not on the loop.

        Results are made faster than a disk takes them; without this, the next ones would end the process before
        its memory is measured again.
        """
        limits = self._reactor.state.ledger.limits
        if not limits.terminate or not (limits.target or limits.spill):
            return
        while memory_of() + size > limits.terminate:
            try:
                writing = asyncio.run_coroutine_threadsafe(self._write_for(size), self._loop)
                if not writing.result(_ANSWER_SECONDS):
                    return
            except (RuntimeError, TimeoutError, concurrent.futures.CancelledError):  # the worker ends
                return
            time.sleep(_ROOM_SECONDS)

    async def _write_for(self, size: int) -> bool:
        """Have results written so that there is room for so many bytes; say whether some are being written."""
        ledger = self._reactor.state.ledger
        ledger.wanted = size
        self._reactor.on_memory_measured(memory_of(), time.monotonic())
        ledger.wanted = 0
        self._carry_out()
        return bool(ledger.writing.sizes)

    def close(self) -> None:
        """Stop, and remove what is on disk."""
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None and self._directory is not None:
            self._thread.submit(self._directory.close)
            self._thread.shutdown()

    def do(self, command: WriteResult | DeleteFile) -> None:
        """Write or delete, in the writing thread."""
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor

            from hpclaunch.worker.spill import SpillDirectory

            self._thread = ThreadPoolExecutor(1, "hpclaunch-disk")
            self._directory = SpillDirectory(self._directory_name)
        task = self._loop.create_task(self._do(command))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _do(self, command: WriteResult | DeleteFile) -> None:
        assert self._directory is not None
        if type(command) is DeleteFile:
            await self._in_thread(self._directory.delete, command.file)
            return
        assert type(command) is WriteResult
        try:
            file = await self._in_thread(self._directory.write, command.payload)
        except OSError as error:
            why = file_errors.told(error, self._directory.directory)
            self._reactor.on_result_not_written(command.key, command.payload, why)
        else:
            self._reactor.on_result_written(command.key, command.payload, file)
        self._carry_out()

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        assert self._thread is not None
        return await self._loop.run_in_executor(self._thread, function, *args)

    def _measure(self) -> None:
        now = time.monotonic()
        ledger = self._reactor.state.ledger
        process = memory_of()
        limits = ledger.limits
        level = limits.spill or limits.pause
        if level and process > level and now - self._tidied > _TIDY_SECONDS:
            self._tidied = now
            _give_back()
            process = memory_of()
        self._reactor.on_memory_measured(process, now)
        self._tell()
        self._look_for_hope(now)
        self._carry_out()
        self._timer = self._loop.call_later(MEASURE_SECONDS, self._measure)

    def _tell(self) -> None:
        """Say once that the disk takes nothing more."""
        trouble = self._reactor.state.ledger.disk_trouble
        if trouble and trouble != self._told:
            log.warning("results stay in memory, for they can't be written to disk: %s", trouble)
        self._told = trouble or self._told

    def _look_for_hope(self, now: float) -> None:
        """A process that is too large with nothing running, and not because of results, will not get smaller."""
        ledger = self._reactor.state.ledger
        is_stuck = ledger.paused and self._is_idle() and ledger.process - ledger.managed > ledger.limits.pause
        if not is_stuck or ledger.writing.total:
            self._stuck_since = now
        elif now - self._stuck_since > _HOPELESS_SECONDS and self._timer is not None:
            self._on_hopeless(f"tasks that have ended left memory behind: {self._reactor.memory_in_words()}")


def _give_back() -> None:
    """Free cycles of garbage, and have the C library return free memory to the kernel."""
    import ctypes

    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # a C library that has no such function
        ctypes.CDLL(None).malloc_trim(0)
