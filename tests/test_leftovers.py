"""What is left on disk and in memory after each kind of end, of each kind of process: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .testbed.beds import wait_until

pytestmark = pytest.mark.slow
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - it is only listed

# It leaves whatever a cluster can: uploads, results on disk and in shared memory, files of local jobs.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from hpclaunch import Client, LocalCluster
def work(n):
    import uploaded
    return np.full(2_000_000, n)
cluster = LocalCluster(2, memory="1 GB", death_timeout=3)
client = Client(cluster)
client.wait_for_workers(2)
client.upload_file(sys.argv[1])
results = client.map(work, range(6))
totals = client.map(lambda a, b: float(a.sum() + b.sum()), results, results[1:] + results[:1])
client.gather(totals)
pids = {"owner": os.getpid(), "head": cluster.facts["pid"]}
pids["worker"], pids["supervisor"] = client.submit(lambda: (os.getpid(), os.getppid())).result()
print(json.dumps(pids), flush=True)
sys.stdin.readline()
client.close()
cluster.close()
"""


class World:
    """A program with a cluster, and all places where something of it may lie."""

    def __init__(self, directory: Path) -> None:
        self.runs, self.temporary = directory / "runs", directory / "tmp"
        self.temporary.mkdir()
        self.environment = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "HPCLAUNCH_RUN_DIRECTORY": str(self.runs),
            "HPCLAUNCH_DISTRIBUTED__WORKER__MEMORY__TARGET": "0.02",
        }
        self.before = self.shared()
        (directory / "uploaded.py").write_text("value = 1\n")
        self.program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(directory / "uploaded.py")],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.program.stdout is not None
        line = self.program.stdout.readline()
        assert line, self.program.communicate()[1]
        self.pids: dict[str, int] = json.loads(line)

    def kill(self, number: int, *names: str) -> None:
        """Send a signal to processes by what they are."""
        for name in names:
            os.kill(self.pids[name], number)

    def finish(self) -> None:
        """Have the program close its cluster and end; it may have ended already."""
        self.program.communicate("\n", timeout=60)

    def power_cut(self) -> None:
        """Kill all processes of the cluster at once, as far as one call after the other can."""
        mine = self.processes()
        for pid in mine:
            os.kill(pid, signal.SIGSTOP)
        for pid in mine:
            os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Return the processes of the program and its cluster."""
        mark = f"TMPDIR={self.temporary}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def shared(self) -> set[str]:
        """Return what is in shared memory, and the sockets without files."""
        sockets = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        names = [*os.listdir(SHARED_MEMORY), *sockets]
        return {name for name in names if "hpclaunch" in name}

    def left(self) -> list[str]:
        """Return what is there that was not before."""
        files = [str(path) for base in (self.runs, self.temporary) if base.exists() for path in base.iterdir()]
        return sorted([*files, *(self.shared() - self.before), *map(str, self.processes())])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for pid in world.processes():
        os.kill(pid, signal.SIGKILL)
    world.program.communicate()


def close(world: World) -> None:
    world.finish()


def kill_then_close(name: str, number: int) -> Callable[[World], None]:
    def end(world: World) -> None:
        world.kill(number, name)
        world.finish()

    return end


def kill_owner(number: int) -> Callable[[World], None]:
    return lambda world: world.kill(number, "owner")


def kill_owner_and_head(world: World) -> None:
    world.kill(signal.SIGKILL, "owner", "head")


def kill_owner_head_and_supervisor(world: World) -> None:
    world.kill(signal.SIGKILL, "owner", "head", "supervisor")


ENDS = {
    "in order": close,
    "owner, SIGTERM": kill_owner(signal.SIGTERM),
    "owner, SIGINT": kill_owner(signal.SIGINT),
    "owner, SIGKILL": kill_owner(signal.SIGKILL),
    "owner and head, SIGKILL": kill_owner_and_head,
    "owner, head and supervisor, SIGKILL": kill_owner_head_and_supervisor,
    **{
        f"{name}, {number.name}": kill_then_close(name, number)
        for name in ("head", "supervisor", "worker")
        for number in (signal.SIGTERM, signal.SIGKILL)
    },
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_nothing_is_left(world: World, end: Callable[[World], None]) -> None:
    assert world.left() != []
    end(world)
    world.program.communicate(timeout=60)
    wait_until(lambda: world.left() == [] or None, f"nothing to be left of {world.left()}", 30)


def test_after_a_power_cut_the_next_command_on_the_host_removes_all(world: World) -> None:
    world.power_cut()
    world.program.communicate()
    wait_until(lambda: not world.processes(), "all processes to end")
    assert world.left() != []
    subprocess.run([sys.executable, "-m", "hpclaunch", "ps"], env=world.environment, check=True)
    assert world.left() == []


def test_what_a_stopped_head_has_is_left_alone_when_its_workers_leave(world: World) -> None:
    world.kill(signal.SIGSTOP, "head")
    supervisor = Path(f"/proc/{world.pids['supervisor']}")
    wait_until(lambda: not supervisor.exists(), "the supervisor to give its head up", 60)
    assert len(list(world.runs.glob("*/*.pem"))) == 4
    assert not list(world.runs.glob("*/head-gone"))
    world.kill(signal.SIGCONT, "head")
    world.finish()
    wait_until(lambda: world.left() == [] or None, "nothing to be left", 30)
