"""Random work on a cluster whose workers and jobs keep dying: every result is right, and nothing is left over."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hpclaunch.client.client import Client
from hpclaunch.errors import CancelledError
from tests.client import work
from tests.client.conftest import until
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]


def combine(size: int, seconds: float, *parts: bytes) -> bytes:
    """Return bytes that depend on the inputs alone, large or small."""
    time.sleep(seconds)
    first = (sum(part[0] for part in parts) + len(parts) + size) % 256
    return bytes([first]) * size


def one_user(client: Client, seed: int, until_time: float) -> int:
    """Submit random graphs, check their results, cancel some; return how many results were checked."""
    rng = random.Random(seed)
    checked = 0
    while time.monotonic() < until_time:
        futures: list[Any] = []
        expected: list[bytes] = []
        for _ in range(rng.randrange(1, 40)):
            some = [rng.randrange(len(futures)) for _ in range(rng.randrange(4))] if futures else []
            size = rng.choice([1, 100, 70_000, 300_000])
            seconds = rng.choice([0, 0, 0.001, 0.02])
            futures.append(client.submit(combine, size, seconds, *(futures[i] for i in some)))
            expected.append(combine(size, 0, *(expected[i] for i in some)))
        cancelled = rng.random() < 0.2
        if cancelled:
            rng.choice(futures).cancel()
        kept = rng.sample(range(len(futures)), rng.randrange(1, len(futures) + 1))
        wanted = [(futures[i], expected[i]) for i in kept]
        futures.clear()
        for future, value in wanted:
            with contextlib.suppress(CancelledError):
                assert future.result(60) == value
                checked += 1
                continue
            assert cancelled
    return checked


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_all_results_are_right_whoever_dies(own_cluster: Make, seed: int) -> None:
    cluster, client = own_cluster(jobs=3, processes=2, threads=2, death_timeout=1)
    rng = random.Random(seed)
    end = time.monotonic() + 15
    second = Client(cluster.directory)
    stop = threading.Event()

    def evil() -> None:
        while not stop.wait(rng.uniform(0.1, 0.8)):
            if len(second.scheduler_info()["workers"]) < 3:
                continue  # else a slow machine is killed faster than it can start workers, and gets nothing done
            jobs = [job for job in cluster.jobs if job.poll() is None]
            if len(jobs) > 1 and rng.random() < 0.3:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(rng.choice(jobs).pid, rng.choice([signal.SIGKILL, signal.SIGTERM]))
                cluster.start_job(processes=2, threads=2)
            elif jobs:
                with contextlib.suppress(OSError, IndexError):
                    parent = rng.choice(jobs).pid
                    with open(f"/proc/{parent}/task/{parent}/children") as file:
                        os.kill(int(rng.choice(file.read().split())), signal.SIGKILL)

    devil = threading.Thread(target=evil)
    devil.start()
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            users = [
                pool.submit(one_user, c, 10 * seed + i, end)
                for i, c in enumerate([client, client, second, second])
            ]
            assert sum(user.result() for user in users) > 100
    finally:
        stop.set()
        devil.join()
    second.close()
    client._thread.run(client._session.request("check"))
    until(lambda: client.scheduler_info()["tasks"] == 0)
    until(lambda: client.scheduler_info()["held"] == 0)
    assert client.submit(work.inc, 1).result(20) == 2
    assert "Traceback" not in cluster.logs()
