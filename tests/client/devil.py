"""A thread that kills and freezes the processes of a cluster, one after another, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from hpclaunch.client.client import Client
from tests.comm.minihead import MiniCluster

#: A client that has work under way, and is killed in the middle of it.
_VICTIM = """
import sys, time
from hpclaunch.client.client import Client
client = Client(sys.argv[1])
futures = client.map(time.sleep, [0.05] * 200)
big = client.map(bytes, [300_000] * 20)
print("at work", flush=True)
time.sleep(60)
"""


class Devil:
    """Does harm until it is told to stop; leaves two workers or more, so that something gets done.

    :param watching: a client that sees how many workers there are.
    :param seconds: between two evil deeds, at most.
    """

    def __init__(self, cluster: MiniCluster, watching: Client, seed: int, seconds: float = 0.8) -> None:
        self.deeds: dict[str, int] = {}
        self._cluster = cluster
        self._watching = watching
        self._rng = random.Random(seed)
        self._seconds = seconds
        self._stop = threading.Event()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Do harm inside this block."""
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _work(self) -> None:
        deeds = [self._kill_worker, self._kill_worker, self._kill_job, self._freeze_worker, self._freeze_job]
        deeds += [self._kill_client]
        while not self._stop.wait(self._rng.uniform(0.1, self._seconds)):
            if len(self._watching.scheduler_info()["workers"]) < 3:
                continue  # else a slow machine is killed faster than it can start workers, and gets nothing done
            deed = self._rng.choice(deeds)
            with contextlib.suppress(OSError, IndexError):  # who was meant has gone by himself
                deed()
                self.deeds[deed.__name__] = self.deeds.get(deed.__name__, 0) + 1

    def _a_job(self) -> int:
        return self._rng.choice([job for job in self._cluster.jobs if job.poll() is None]).pid

    def _a_worker(self) -> int:
        parent = self._a_job()
        with open(f"/proc/{parent}/task/{parent}/children") as file:
            return int(self._rng.choice(file.read().split()))

    def _kill_worker(self) -> None:
        os.kill(self._a_worker(), signal.SIGKILL)

    def _kill_job(self) -> None:
        """A supervisor alone, or all of a job."""
        job = self._a_job()
        kill = self._rng.choice([os.kill, os.killpg])
        kill(job, self._rng.choice([signal.SIGKILL, signal.SIGTERM]))
        self._cluster.start_job(processes=2, threads=2)

    def _freeze_worker(self) -> None:
        self._freeze([self._a_worker()])

    def _freeze_job(self) -> None:
        self._freeze([self._a_job()])

    def _freeze(self, some: list[int]) -> None:
        """Stop processes for a moment, or for so long that the head gives them up."""
        for pid in some:
            os.kill(pid, signal.SIGSTOP)
        self._stop.wait(self._rng.choice([0.1, 0.5, 2.5]))
        for pid in some:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _kill_client(self) -> None:
        argv = [sys.executable, "-c", _VICTIM, str(self._cluster.directory)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as victim:
            assert victim.stdout is not None
            victim.stdout.readline()
            self._stop.wait(self._rng.uniform(0, 0.3))
            victim.kill()
