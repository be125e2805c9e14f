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
from pathlib import Path
from typing import Any

import uvloop

from hpclaunch.errors import HPCLaunchError
from hpclaunch.worker.server import WorkerServer, make_hello

#: How a worker process ended, as it notes itself in the byte behind its slots; a task can fake an exit code.
CRASHED, TOLD_TO_END, LOST_HEAD, WORN_OUT = range(4)

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
) -> None:
    """Be a worker until told to end.

    :param slots: shared memory: the executor's slots, and one byte behind them for how this process ended.
    :param parent: process id of the supervisor.
    :param memory: see :func:`hpclaunch.worker.memory.limits_of`.
    :param spill_directory: where results go on disk; the supervisor removes it in the end.
    :param is_part_of_rank: the supervisor alone decides about the end, and says only what goes wrong.
    """
    end_with_parent(parent)
    faulthandler.enable(all_threads=False)  # a crash in native code leaves its Python lines in the job's output
    signal.signal(signal.SIGTERM, signal.SIG_IGN if is_part_of_rank else signal.SIG_DFL)
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # notices for the job; the supervisor acts on them
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole job; the owner decides
    listen_context, dial_context = contexts

    async def run() -> int:
        hello = make_hello(name, cluster_id, head_address=head_address, **facts)
        worker = WorkerServer(
            hello,
            listen_context=listen_context,
            dial_context=dial_context,
            slots=slots,
            memory=memory,
            spill_directory=spill_directory,
        )
        try:
            await worker.join(head_address, listen_host)
        except HPCLaunchError as error:
            print(f"worker {name}: {error}", file=sys.stderr, flush=True)
            return LOST_HEAD
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


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent dies, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)
