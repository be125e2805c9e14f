"""One worker process: what a forked child of the supervisor runs until its end."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import mmap
import os
import signal
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from hpclaunch.comm.loop_errors import on_loop_error
from hpclaunch.errors import HPCLaunchError
from hpclaunch.worker import dask_imports
from hpclaunch.worker.deaths import LOST_HEAD, NO_MEMORY, TOLD_TO_END, WORN_OUT
from hpclaunch.worker.server import WorkerServer, make_hello
from hpclaunch.worker.shortage import give_up

_PR_SET_PDEATHSIG = 1


def serve(
    *,
    name: str,
    cluster_id: str,
    head_address: str,
    listen_host: str,
    contexts: tuple[ssl.SSLContext | None, ssl.SSLContext | None],
    slots: mmap.mmap,
    facts: dict[str, Any],
    parent: int,
    memory: dict[str, Any],
    spill_directory: Path,
    is_part_of_rank: bool = False,
    cluster_facts: dict[str, Any] | None = None,
) -> None:
    """Be a worker until told to end.

    :param slots: shared memory: the executor's, whether this process has reached the head, and how it ended.
    :param parent: process id of the supervisor.
    :param memory: see :func:`hpclaunch.worker.memory.limits_of`.
    :param spill_directory: where results go on disk; the supervisor removes it in the end.
    :param is_part_of_rank: the supervisor alone decides about the end, and says only what goes wrong.
    """
    end_with_parent(parent)
    faulthandler.enable(all_threads=False)  # a crash in native code leaves its Python lines in the job's output
    _leave_signals_to_supervisor(is_part_of_rank=is_part_of_rank)
    dask_imports.register(is_worker=True)
    on_no_memory = _end_without_memory(slots)

    async def run() -> int:
        asyncio.get_running_loop().set_exception_handler(partial(_on_loop_error, on_no_memory))
        hello = make_hello(name, cluster_id, head_address=head_address, **facts)
        worker = WorkerServer(
            hello,
            listen_context=contexts[0],
            dial_context=contexts[1],
            slots=slots,
            memory=memory,
            spill_directory=spill_directory,
            on_no_memory=on_no_memory,
            facts=cluster_facts,
        )
        try:
            await worker.join(head_address, listen_host)
        except HPCLaunchError as error:
            print(f"worker {name}: {error}", file=sys.stderr, flush=True)
            return LOST_HEAD
        slots[-2] = True
        reason = await worker.ended
        await worker.close()
        await asyncio.sleep(0)  # let the last frames out
        if worker.has_lost_head or worker.is_worn_out or not is_part_of_rank:
            print(f"worker {name} ends: {reason}", file=sys.stderr, flush=True)
        if worker.is_worn_out:
            return WORN_OUT
        return LOST_HEAD if worker.has_lost_head else TOLD_TO_END

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        slots[-1] = runner.run(run())


def _leave_signals_to_supervisor(*, is_part_of_rank: bool) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if is_part_of_rank else signal.SIG_DFL)
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # notices for the job; the supervisor acts on them
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole job; the owner decides


def _end_without_memory(slots: mmap.mmap) -> Callable[[], None]:
    """Return what ends this process for want of memory, and have it called where no other code hears of that."""

    def on_no_memory() -> None:
        give_up(slots, NO_MEMORY)

    def on_unraisable(unraisable: Any) -> None:
        if unraisable.exc_type is MemoryError:  # code in C has left something undone, the loop's perhaps
            on_no_memory()
        sys.__unraisablehook__(unraisable)

    sys.unraisablehook = on_unraisable
    return on_no_memory


def _on_loop_error(
    on_no_memory: Callable[[], None], loop: asyncio.AbstractEventLoop, context: dict[str, Any]
) -> None:
    """Something went wrong in the loop itself: if it was for want of memory, what was left undone is not known."""
    if isinstance(context.get("exception"), MemoryError):
        on_no_memory()
    on_loop_error(loop, context)


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent dies, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)
