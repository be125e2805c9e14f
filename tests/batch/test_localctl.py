"""The local batch system: its jobs as a batch system's jobs, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpclaunch.batch import localctl
from hpclaunch.batch.base import JobState, JobStatus, JobUsage
from hpclaunch.batch.local import LocalProcesses
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.errors import SubmitError
from hpclaunch.transport.local import LocalTransport
from tests.small_disk import SmallDisk, small_disk
from tests.testbed.beds import wait_until


class World:
    """A local batch system in a directory of its own."""

    def __init__(self, directory: Path, walltime: int | None = None) -> None:
        self.directory = directory
        self.spool = directory / "spool"
        codec = LocalProcesses(
            python=sys.executable, program=localctl.__file__, spool=self.spool, walltime=walltime
        )
        self.queue = BatchQueue(codec, LocalTransport())
        self.ids: list[str] = []

    def submit(self, body: str, count: int = 1) -> list[str]:
        """Submit jobs that run ``body`` with bash; return their ids."""
        script = self.directory / f"job {time.monotonic_ns()}.sh"
        script.write_text(body)
        ids = asyncio.run(self.queue.submit(script, count))
        self.ids += ids
        return ids

    def poll(self, *ids: str) -> list[JobStatus]:
        """Return the jobs' states."""
        return list(asyncio.run(self.queue.poll(ids)).values())

    def states(self, *ids: str) -> list[JobState]:
        """Return what is most asked for."""
        return [status.state for status in self.poll(*ids)]

    def usage(self, *ids: str) -> dict[str, JobUsage]:
        """Return the jobs' ends, once all have ended."""
        wait_until(lambda: set(self.states(*ids)) == {JobState.ENDED}, "the jobs to end")
        return asyncio.run(self.queue.usage(ids))

    def cancel(self, *ids: str) -> None:
        """Cancel jobs."""
        asyncio.run(self.queue.cancel(ids))

    def text(self, name: str) -> str:
        """Return what a job wrote into a file of this directory, once it has written all of a line."""
        path = self.directory / name
        return wait_until(lambda: path.exists() and path.read_text().endswith("\n") and path.read_text(), name)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make worlds; their jobs are cancelled after the test."""
    worlds: list[World] = []

    def one(walltime: int | None = None) -> World:
        worlds.append(World(tmp_path, walltime))
        return worlds[-1]

    yield one
    for world in worlds:
        world.cancel(*world.ids)


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    """A local batch system without a walltime."""
    return make()


def is_alive(pid: int) -> bool:
    """Say whether a process is there and not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_elements_are_numbered_and_know_their_ids(world: World) -> None:
    ids = world.submit(f'cd "{world.directory}"; echo ok > "$HPCLAUNCH_JOB_ID.$HPCLAUNCH_TASK_ID"', 3)
    assert ids == ["1.1", "1.2", "1.3"]
    assert [world.text(one) for one in ids] == ["ok\n"] * 3
    assert world.submit("true") == ["2.1"]


@pytest.mark.slow
def test_states_from_running_to_ended(world: World) -> None:
    (one,) = world.submit(f'until [ -e "{world.directory}/go" ]; do sleep 0.02; done; exit 3')
    (status,) = world.poll(one)
    assert (status.state, status.host) == (JobState.RUNNING, os.uname().nodename)
    assert asyncio.run(world.queue.usage([one])) == {}
    (world.directory / "go").touch()
    usage = world.usage(one)[one]
    assert (usage.reason, usage.exit_code, usage.signal) == ("exit code 3", 3, None)
    assert world.poll(one)[0].reason == "exit code 3"


@pytest.mark.parametrize(
    ("body", "reason", "code", "number"),
    [
        ("true", "finished (exit code 0)", 0, None),
        ("exit 143", "exit code 143", 143, None),
        ("no-such-program", "exit code 127", 127, None),
        ("kill -SEGV $$", "killed by SIGSEGV", None, 11),
        ("if", "exit code 2", 2, None),
    ],
)
def test_ends(world: World, body: str, reason: str, code: int | None, number: int | None) -> None:
    (one,) = world.submit(body)
    usage = world.usage(one)[one]
    assert (usage.reason, usage.exit_code, usage.signal) == (reason, code, number)


@pytest.mark.slow
def test_use_is_accounted(world: World) -> None:
    work = "x = bytearray(60_000_000); from time import process_time as t\nwhile t() < 0.3: pass"
    (one,) = world.submit(f"{sys.executable} -S -c '{work}'")
    usage = world.usage(one)[one]
    assert usage.wall_seconds is not None
    assert usage.cpu_seconds is not None
    assert usage.max_memory_bytes is not None
    assert usage.wall_seconds * 1.2 >= usage.cpu_seconds >= 0.3
    assert usage.max_memory_bytes >= 60_000_000


@pytest.mark.slow
def test_a_job_that_nobody_knows_is_unknown(world: World) -> None:
    world.submit("true")
    assert world.states("7.1", "1.9") == [JobState.UNKNOWN] * 2
    assert asyncio.run(world.queue.usage(["7.1"])) == {}
    world.cancel("7.1", "1.9")


def test_cancel_ends_a_job_and_what_it_started(world: World) -> None:
    (one,) = world.submit(f'sleep 321 & echo $! $$ > "{world.directory}/pids"; wait')
    pids = [int(word) for word in world.text("pids").split()]
    world.cancel(one)
    assert not any(map(is_alive, pids))
    usage = world.usage(one)[one]
    assert usage.reason == "cancelled"
    assert world.poll(one)[0].reason == "cancelled"


@pytest.mark.slow
def test_cancel_lets_a_job_clean_up(world: World) -> None:
    name = f'"{world.directory}/said"'
    (one,) = world.submit(f'trap "echo bye > {name}.done; exit 5" TERM; echo hi > {name}; sleep 321 & wait')
    world.text("said")
    world.cancel(one)
    assert world.text("said.done") == "bye\n"
    assert world.usage(one)[one].exit_code == 5


@pytest.mark.slow
def test_cancel_right_after_submit(world: World) -> None:
    ids = world.submit("sleep 321", 8)
    world.cancel(*ids)
    assert world.states(*ids) == [JobState.ENDED] * 8
    assert {usage.reason for usage in world.usage(*ids).values()} == {"cancelled"}


@pytest.mark.slow
def test_a_job_deaf_to_sigterm_is_killed(world: World) -> None:
    (one,) = world.submit(f'trap "" TERM; echo hi > "{world.directory}/said"; while true; do sleep 0.1; done')
    world.text("said")
    world.cancel(one)
    assert world.usage(one)[one].signal == signal.SIGKILL


@pytest.mark.slow
def test_the_others_go_on(world: World) -> None:
    ids = world.submit("sleep 321", 3)
    world.cancel(ids[1])
    assert world.states(*ids) == [JobState.RUNNING, JobState.ENDED, JobState.RUNNING]


def test_what_a_script_leaves_in_the_background_ends_with_it(world: World) -> None:
    (one,) = world.submit(f'sleep 321 & echo $! > "{world.directory}/pid"')
    world.usage(one)
    wait_until(lambda: not is_alive(int(world.text("pid"))), "the sleep to be killed")


@pytest.mark.slow
def test_walltime_ends_a_job_and_says_so(make: Callable[..., World]) -> None:
    world = make(walltime=1)
    late, in_time = world.submit("[ $HPCLAUNCH_TASK_ID = 2 ] || sleep 321", 2)
    usage = world.usage(late, in_time)
    assert usage[late].reason == "walltime reached"
    assert usage[in_time].reason == "finished (exit code 0)"


def test_a_killed_shepherd_is_no_exit_code(world: World) -> None:
    (one,) = world.submit("sleep 321 & echo $$; wait")
    pid = int((world.spool / "1" / "1" / "pid").read_text().split()[0])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    for child in map(int, children):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    usage = world.usage(one)[one]
    assert usage.exit_code is None
    assert "killed" in usage.reason


def test_jobs_have_the_signals_of_a_fresh_process(world: World) -> None:
    """Python ignores SIGPIPE; a job that inherits this has pipelines that never end."""
    (one,) = world.submit(f'grep ^SigIgn /proc/$$/status > "{world.directory}/signals"')
    ignored = int(world.text("signals").split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1))
    world.usage(one)


@pytest.mark.slow
def test_jobs_do_not_hold_the_submitters_files(world: World) -> None:
    (one,) = world.submit(
        f'ls -l /proc/$$/fd > "{world.directory}/fds.part"; cat "{world.directory}/fds.part"; sleep 321'
    )
    lines = wait_until(
        lambda: (
            [line for line in (world.directory / "fds.part").read_text().splitlines() if "->" in line]
            if (world.directory / "fds.part").exists()
            else []
        ),
        "the list",
    )
    targets = {line.partition(" -> ")[2] for line in lines}
    assert not any(target.startswith(("pipe:", "socket:", "/memfd:")) for target in targets), targets
    world.cancel(one)


@pytest.mark.slow
def test_jobs_are_of_a_session_of_their_own(world: World) -> None:
    (one,) = world.submit(f'cat /proc/$$/stat > "{world.directory}/stat"; sleep 321')
    session = int(world.text("stat").rpartition(")")[2].split()[3])
    assert session != os.getsid(0)
    world.cancel(one)


def test_the_spool_is_private(world: World) -> None:
    (one,) = world.submit("true")
    world.usage(one)
    for path in [world.spool, *world.spool.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_cannot_be_submitted_is_told(world: World, tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="can't be read"):
        asyncio.run(world.queue.submit(tmp_path / "none.sh", 1))
    world.spool.write_text("in the way")
    with pytest.raises(SubmitError, match="did not take 2 jobs"):
        world.submit("true", 2)
    world.spool.unlink()


@pytest.mark.slow
def test_submissions_at_the_same_time_get_numbers_of_their_own(world: World) -> None:
    script = world.directory / "job.sh"
    script.write_text("true")

    async def many() -> list[list[str]]:
        return await asyncio.gather(*(world.queue.submit(script, 2) for _ in range(8)))

    found = asyncio.run(many())
    assert len({one for ids in found for one in ids}) == 16
    world.usage(*(one for ids in found for one in ids))


@pytest.fixture
def full_world(tmp_path: Path) -> Iterator[tuple[World, SmallDisk]]:
    with small_disk(tmp_path / "disk") as disk:
        world = World(disk.path)
        yield world, disk
        disk.empty()
        world.cancel(*world.ids)


@pytest.mark.parametrize("free", [0, 4096, 8192])
def test_a_job_that_cannot_be_written_down_is_not_submitted(
    full_world: tuple[World, SmallDisk], free: int, tmp_path: Path
) -> None:
    world, disk = full_world
    world.usage(*world.submit("true"))  # the spool is there
    disk.path.joinpath("job.sh").write_text(f"touch {tmp_path}/has-run")
    disk.fill(free=free)
    with pytest.raises(
        SubmitError, match=r"No space left on device: .*spool/2/1/.*0 bytes and \d+ inodes are free"
    ):
        asyncio.run(world.queue.submit(disk.path / "job.sh", 3))
    assert world.poll("2.1", "2.2", "2.3") == [] or set(world.states("2.1")) == {JobState.ENDED}
    assert not (tmp_path / "has-run").exists()
    disk.empty()
    assert world.usage(*world.submit("exit 3"))["3.1"].reason == "exit code 3"


def test_the_end_of_a_job_is_known_though_the_disk_is_full(
    full_world: tuple[World, SmallDisk], tmp_path: Path
) -> None:
    world, disk = full_world
    ids = world.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo much output; exit 3", count=2)
    disk.fill()
    (tmp_path / "go").touch()
    assert {usage.reason for usage in world.usage(*ids).values()} == {"exit code 3"}


def test_a_job_is_cancelled_though_the_disk_is_full(full_world: tuple[World, SmallDisk]) -> None:
    world, disk = full_world
    ids = world.submit("exec sleep 1000")
    disk.fill()
    world.cancel(*ids)
    assert world.usage(*ids)[ids[0]].reason in ("cancelled", "killed by SIGTERM")
