"""What a task leaves broken in its process, and what a callback does, keeps no later call from running."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hpclaunch import get_client
from hpclaunch.client.client import Client
from tests.client import work


def leave_hooks_broken() -> None:
    threading.excepthook = None  # type: ignore[assignment]
    sys.excepthook = sys.unraisablehook = None  # type: ignore[assignment]
    sys.stdout = sys.stderr = None  # type: ignore[assignment]


def close_streams() -> None:
    sys.stdout.close()
    sys.stderr.close()


def leave_streams_broken() -> None:
    sys.stdout = sys.stderr = object()  # type: ignore[assignment]


def use_hooks() -> int:
    threads = [
        threading.Thread(target=print, args=("in a thread",), kwargs={"file": f}) for f in (None, sys.stderr)
    ]
    for thread in threads:
        thread.start()
        thread.join()
    print("a task")
    sys.stderr.write("a task\n")
    return int(get_client().submit(work.inc, 1).result(20))  # has its thread replaced meanwhile


@pytest.mark.parametrize("leave_broken", [leave_hooks_broken, close_streams, leave_streams_broken])
def test_hooks_and_streams_that_a_task_leaves_broken(client: Client, leave_broken: Callable[[], None]) -> None:
    for _ in range(2):
        client.gather(client.map(lambda _, call=leave_broken: call(), range(8)))
        assert client.gather(client.map(lambda _: use_hooks(), range(4))) == [2] * 4
    client.run(leave_broken)
    assert client.submit(use_hooks).result(20) == 2


def test_a_callback_that_submits_and_waits(client: Client) -> None:
    """The callbacks' thread waits for nothing that only itself can do."""
    ended = threading.Event()
    seen: list[Any] = []
    with client.get_executor() as executor:

        def call_back(future: concurrent.futures.Future[int]) -> None:
            seen.append(executor.submit(work.inc, future.result()).result(20))
            more = [executor.submit(work.inc, i) for i in range(3)]
            done, _ = concurrent.futures.wait(more, timeout=20)
            seen.append(len(done))
            seen.append(list(executor.map(work.inc, range(3), timeout=20)))
            seen.append(sorted(f.result() for f in concurrent.futures.as_completed(more, timeout=20)))
            ended.set()

        executor.submit(work.inc, 1).add_done_callback(call_back)
        assert ended.wait(60)
    assert seen == [3, 3, [1, 2, 3], [1, 2, 3]]
