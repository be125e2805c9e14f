"""The local transport: answers whole, failures told, nothing left running."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from hpclaunch.batch.base import Completed
from hpclaunch.transport.local import LocalTransport
from tests.testbed.beds import wait_until


def run(*argv: str, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
    """Run one command."""
    return asyncio.run(LocalTransport().run(argv, timeout=timeout, cwd=cwd))


def is_alive(pid: int) -> bool:
    """Say whether a process is there and not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_output_and_exit_code() -> None:
    done = run("bash", "-c", "printf 'out\\n'; printf 'err\\n' >&2; exit 3")
    assert done == Completed(("bash", "-c", "printf 'out\\n'; printf 'err\\n' >&2; exit 3"), 3, "out\n", "err\n")


def test_words_are_not_read_by_a_shell(tmp_path: Path) -> None:
    words = ["$HOME", "a b", "*", ";ls", "'", '"', "\n", "", "-n", "über"]
    done = run("python3", "-c", "import sys; print(sys.argv[1:])", *words, cwd=tmp_path)
    assert eval(done.stdout) == words  # noqa: S307


def test_no_standard_input() -> None:
    assert run("cat", timeout=20).exit_code == 0


def test_much_output_and_odd_bytes() -> None:
    done = run("bash", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; printf '\\377' >&2")
    assert len(done.stdout) == 3_000_000
    assert done.stderr == "\ufffd"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["no-such-command-here"], "command not found on this machine"),
        (["/etc/passwd"], "Permission denied"),
        (["a\0b"], "null byte"),
    ],
)
def test_what_cannot_start_is_an_answer(argv: list[str], words: str) -> None:
    done = run(*argv)
    assert done.exit_code is None
    assert not done.is_late
    assert words in done.stderr


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run("true", cwd=tmp_path / "gone")
    assert done.exit_code is None
    assert str(tmp_path / "gone") in done.stderr


def test_a_killed_command_tells_by_which_signal() -> None:
    assert run("bash", "-c", "kill -9 $$").exit_code == -signal.SIGKILL


def test_what_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    done = run("bash", "-c", f"sleep 321 & echo $! > {pids}; echo $$ >> {pids}; echo said; wait", timeout=0.5)
    assert done.exit_code is None
    assert done.is_late
    assert done.stdout == "said\n"
    assert "no end within 0.5 s" in done.stderr
    wait_until(lambda: not any(map(is_alive, map(int, pids.read_text().split()))), "the processes to die")


def test_a_daemon_that_keeps_the_output_open_does_not_hold_up_the_answer(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    done = run("bash", "-c", f"setsid sleep 321 & echo $! > {pid}; echo 53", timeout=60)
    assert (done.exit_code, done.stdout) == (0, "53\n")
    assert is_alive(int(pid.read_text()))
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_cancelled_run_leaves_no_process(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def cancel_it() -> None:
        argv = ["bash", "-c", f"echo $$ > {pids}.part; mv {pids}.part {pids}; sleep 321"]
        task = asyncio.create_task(LocalTransport().run(argv))
        await asyncio.to_thread(wait_until, pids.exists, "the command to start")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_it())
    assert not is_alive(int(pids.read_text()))


def test_a_run_cancelled_at_once_leaves_no_process(tmp_path: Path) -> None:
    async def cancel_it() -> None:
        task = asyncio.create_task(LocalTransport().run(["sleep", "321.25"]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_it())
    left = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"321.25" in _bytes(path) and b"sleep" in _bytes(path)
    ]
    assert left == []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_many_at_once() -> None:
    async def many() -> list[Completed]:
        transport = LocalTransport()
        return await asyncio.gather(*(transport.run(["bash", "-c", f"echo {i}"]) for i in range(40)))

    before = len(os.listdir("/proc/self/fd"))
    assert [done.stdout for done in asyncio.run(many())] == [f"{i}\n" for i in range(40)]
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_loop_goes_on_meanwhile() -> None:
    async def tick() -> int:
        task = asyncio.create_task(LocalTransport().run(["sleep", "0.3"]))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert asyncio.run(tick()) >= 3
