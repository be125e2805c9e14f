"""What an executor was given runs: at the end of a program, without a reader of its results, after a fork."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hpclaunch.client.client import Client
from hpclaunch.tasks.context import get_task
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import calls_outstanding, core_of, futures_kept
from tests.comm.minihead import MiniCluster

_BEGIN = """
import os, sys, time
from hpclaunch import Client
from tests.client import work
client = Client(sys.argv[1])
notes, gate = sys.argv[2:]
executor = client.get_executor()
"""


class Program:
    """A script on the shared cluster, whose calls leave notes and may wait for a gate."""

    def __init__(self, text: str, cluster: MiniCluster, path: Path) -> None:
        self.notes, self.gate = path / "notes", path / "gate"
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore::DeprecationWarning",
                "-c",
                _BEGIN + text,
                str(cluster.directory),
                str(self.notes),
                str(self.gate),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )

    def ends(self) -> tuple[int, str, str]:
        """Wait for its end; return its exit code and what it printed."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    @property
    def calls(self) -> int:
        return work.times_called(self.notes)


def test_the_end_of_a_script_waits_for_calls(cluster: MiniCluster, tmp_path: Path) -> None:
    program = Program(
        "def main():\n"
        "    executor.submit(work.note_and_wait, notes, gate)\n"
        "    client.get_executor().map(work.note_and_wait, [notes] * 5, [gate] * 5)\n"
        "    client.get_executor().submit(work.note, notes, 0).add_done_callback(lambda f: print(f.result()))\n"
        "main()\n"
        "print('the end', flush=True)\n",
        cluster,
        tmp_path,
    )
    until(lambda: program.calls >= 2, "the first calls", 30)
    assert program.process.poll() is None
    program.gate.touch()
    code, out, err = program.ends()
    assert (code, out, err) == (0, "the end\n0\n", "")
    assert program.calls == 7


@pytest.mark.slow
def test_an_exception_in_the_script_drops_no_call(cluster: MiniCluster, tmp_path: Path) -> None:
    program = Program(
        "future = executor.submit(work.note_and_wait, notes, gate)\nraise ValueError('wrong')", cluster, tmp_path
    )
    until(lambda: program.calls == 1, "the call", 30)
    program.gate.touch()
    code, _, err = program.ends()
    assert code == 1
    assert "wrong" in err
    assert "drop" not in err


@pytest.mark.slow
def test_interrupting_the_last_wait_says_what_is_dropped(cluster: MiniCluster, tmp_path: Path) -> None:
    program = Program(
        "futures = [executor.submit(work.note_and_wait, notes, gate) for _ in range(5)]", cluster, tmp_path
    )
    assert program.process.stderr is not None
    assert "waiting for 5 calls" in program.process.stderr.readline()
    program.process.send_signal(signal.SIGINT)
    _, _, err = program.ends()
    assert "interrupted; 5 calls" in err
    with Client(cluster.directory) as client:
        until(lambda: sum(map(len, client.processing().values())) <= 2, "cancelling of what has not begun")
        program.gate.touch()
        until(lambda: not client.scheduler_info()["tasks"])
    assert program.calls == 2  # one on each worker had begun


@pytest.mark.slow
def test_a_fork_does_not_wait_for_calls_of_its_parent(cluster: MiniCluster, tmp_path: Path) -> None:
    program = Program(
        "future = executor.submit(work.note_and_wait, notes, gate)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    own = Client(sys.argv[1])\n"
        "    own.get_executor().submit(work.note, notes, 1)\n"
        "    sys.exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "open(gate, 'w').close()\n",
        cluster,
        tmp_path,
    )
    code, out, err = program.ends()
    assert (code, out, err) == (0, "7\n", "")
    assert program.calls == 2


@pytest.mark.slow
def test_no_call_is_taken_while_the_program_ends(cluster: MiniCluster, tmp_path: Path) -> None:
    program = Program(
        "import atexit\n"
        "def late():\n"
        "    try:\n"
        "        executor.submit(work.note, notes, 1)\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
        "atexit.register(late)\n",
        cluster,
        tmp_path,
    )
    assert program.ends() == (0, "cannot schedule new futures after interpreter shutdown\n", "")


# --- in the program


def test_map_runs_all_though_its_results_are_not_read(client: Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with client.get_executor() as executor:
        executor.map(work.note, [str(notes)] * 20, range(20))
        executor.map(work.note, [str(notes)] * 20, range(20), chunksize=3)
    assert work.times_called(notes) == 40


def test_map_with_a_buffer_submits_no_more_than_that_unread(client: Client) -> None:
    items = iter(range(100))
    with client.get_executor() as executor:
        results = executor.map(work.inc, items, buffersize=4)
        assert next(results) == 1
    assert next(items) == 5  # the next is submitted before a result is waited for
    with pytest.raises(RuntimeError, match="after shutdown"):
        list(results)


def test_map_in_chunks_with_a_buffer_counts_chunks(client: Client) -> None:
    items = iter(range(100))
    with client.get_executor() as executor:
        results = executor.map(work.inc, items, buffersize=2, chunksize=3)
        assert next(items) == 6
        assert next(results) == 1


def test_map_with_a_buffer_and_an_error(client: Client) -> None:
    items = iter([1, 2, 3, 0, 4, 5, 6, 7])
    results = []
    with client.get_executor() as executor, pytest.raises(ZeroDivisionError):  # noqa: PT012
        for result in executor.map(work.reciprocal, items, buffersize=2):
            results.append(result)
    assert len(results) == 3
    assert list(items) == [6, 7]  # one of two in the buffer, and one for each result that was asked for


def test_map_with_a_buffer_that_is_no_number(client: Client) -> None:
    with pytest.raises(TypeError, match="buffersize"):
        client.get_executor().map(work.inc, [1], buffersize=2.0)  # type: ignore[arg-type]


def test_leaving_a_client_in_order_waits_for_calls(cluster: MiniCluster, tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    with Client(cluster.directory) as client:
        client.get_executor().map(work.note_and_wait, [str(notes)] * 4, [str(gate)] * 4)
        until(lambda: work.times_called(notes) == 2)
        opener = threading.Thread(
            target=lambda: (until(lambda: core_of(client).outstanding._is_awaited), gate.touch())
        )
        opener.start()
    opener.join()
    assert work.times_called(notes) == 4


def test_closing_a_client_says_which_calls_are_dropped(cluster: MiniCluster, tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    client = Client(cluster.directory)
    future = client.get_executor().submit(work.note_and_wait, str(notes), str(gate))
    until(lambda: work.times_called(notes) == 1)
    with pytest.warns(UserWarning, match=r"1 calls of an executor, among them note_and_wait-.* are dropped"):
        client.close()
    gate.touch()
    assert "closed" in str(future.exception(10))


def test_ended_calls_are_not_kept(client: Client) -> None:
    executor = client.get_executor()
    executor.submit(work.inc, 1).result(10)
    assert list(executor.map(work.inc, range(5))) == list(range(1, 6))
    until(lambda: not calls_outstanding(client))
    assert not futures_kept(client)


def test_calls_that_run_are_not_cancelled_when_an_iterator_is_left(client: Client, tmp_path: Path) -> None:
    gate, running, ended = (str(tmp_path / name) for name in ("gate", "running", "ended"))

    def call(number: int) -> int:
        if number:
            work.note_and_wait(running, gate)
            get_task().check()
            work.note(ended)
        return number

    with client.get_executor() as executor:
        results = executor.map(call, range(9))
        assert next(results) == 0
        until(lambda: work.times_called(running) == 2)
        results.close()  # type: ignore[attr-defined]
        until(lambda: sum(map(len, client.processing().values())) == 2, "cancelling of what has not begun")
        Path(gate).touch()
    assert work.times_called(running) == work.times_called(ended) == 2
    assert not calls_outstanding(client)
