"""Deaths under a real mpirun: of workers between tasks, of their supervisors, of the head, of whole ranks.

The script's exit code is the job's, whatever died, unless a rank itself is killed: that is mpirun's to judge.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.mpi.ranks import Launcher
from tests.mpi.test_mpirun import launcher
from tests.testbed.beds import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.mpi]

BEGIN = """
import os, signal, sys, time
from pathlib import Path
from hpclaunch import Client, initialize

HERE = Path(__file__).parent
os.environ["PYTHONPATH"] = f"{HERE / 'site'}:{os.environ['PYTHONPATH']}"
initialize()
client = Client()

def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

def names():
    return {worker["name"] for worker in client.cluster.workers()}

def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
"""
#: A worker's process dies at once when it is forked, once the file is there that has its supervisor's number.
DIE_AT_START = """
import os
from pathlib import Path

def die():
    if (Path(__file__).parent / str(os.getppid())).exists():
        os._exit(9)

os.register_at_fork(after_in_child=die)
"""


@pytest.fixture(params=["openmpi", "mpich"])
def mpi(request: pytest.FixtureRequest, tmp_path: Path) -> Launcher:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DIE_AT_START)
    return launcher(request.param, tmp_path)


def test_workers_that_are_killed_between_tasks_are_replaced(mpi: Launcher) -> None:
    body = """
seen = set()
for _ in range(8):
    pid = client.submit(os.getpid).result(60)
    assert pid not in seen
    seen.add(pid)
    os.kill(pid, signal.SIGKILL)
print("sum", client.submit(sum, [1, 2]).result(60))
sys.exit(3)
"""
    done = mpi.run(BEGIN + body, 3)
    assert (done.exit_code, done.output) == (3, "sum 3\n"), done
    assert done.codes == {0: 0, 1: 3, 2: 0}
    assert done.errors.count("killed by signal 9 (SIGKILL)") == 8
    assert not done.left


def test_workers_that_are_killed_before_they_run_anything_are_replaced(mpi: Launcher) -> None:
    body = """
supervisor = parent(client.submit(os.getpid).result(60))
for _ in range(7):
    wait_until(lambda: names() and children(supervisor))
    before = names()
    os.kill(children(supervisor)[0], signal.SIGKILL)
    wait_until(lambda: names() != before)
print("sum", client.submit(sum, [1, 2]).result(60))
"""
    done = mpi.run(BEGIN + body, 3)
    assert (done.exit_code, done.output) == (0, "sum 3\n"), done
    assert set(done.codes.values()) == {0}
    assert not done.left


@pytest.mark.parametrize("count", [3, 4], ids=["the only rank", "one of two ranks"])
def test_workers_that_always_die_at_their_start(mpi: Launcher, count: int) -> None:
    body = """
pid = client.submit(os.getpid).result(60)
supervisor = parent(pid)
(HERE / "site" / str(supervisor)).touch()
os.kill(pid, signal.SIGKILL)
wait_until(lambda: any(row["state"] == "ended" for row in client.cluster.jobs()))
try:
    print("sum", client.submit(sum, [1, 2]).result(60))
except Exception as error:
    print(type(error).__name__, error)
sys.exit(4)
"""
    done = mpi.run(BEGIN + body, count)
    assert done.exit_code == 4, done
    assert done.codes == {rank: 4 if rank == 1 else 0 for rank in range(count)}
    assert (
        "no more workers are started on this rank: 6 workers in a row ended right after their start" in done.errors
    )
    if count == 3:
        assert "JobsFailedError no worker can come any more" in done.output
        assert "its process ended with exit code 9" in done.output
    else:
        assert done.output == "sum 3\n"
    assert not done.left


def test_a_supervisor_that_is_killed_is_replaced_with_its_workers(mpi: Launcher) -> None:
    body = """
for i in range(3):
    pid = client.submit(os.getpid).result(60)
    os.kill(parent(pid), signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    print(client.submit(sum, [i, 2]).result(60))
sys.exit(6)
"""
    done = mpi.run(BEGIN + body, 3)
    assert (done.exit_code, done.output) == (6, "2\n3\n4\n"), done
    assert "rank 2: the supervisor of its workers (process " in done.errors
    assert not done.left


@pytest.mark.parametrize("count", [2, 4])
def test_the_head_is_killed(mpi: Launcher, count: int) -> None:
    body = """
future = client.submit(time.sleep, 600)
os.kill(client.cluster.facts["pid"], signal.SIGKILL)
try:
    future.result(60)
except Exception as error:
    print(type(error).__name__)
sys.exit(7)
"""
    done = mpi.run(BEGIN + body, count)
    assert (done.exit_code, done.output) == (7, "CommClosedError\n"), done
    assert done.errors.count("rank 0: the head (process ") == 1
    assert "was killed by signal 9 (SIGKILL)" in done.errors
    assert "With it the cluster has ended" in done.errors
    assert "other ranks are missing" not in done.errors
    codes = sorted(done.codes.values())
    if mpi.kind == "openmpi" and 128 + signal.SIGTERM in codes:  # known, and open: it may not leave them the time
        pytest.xfail("Open MPI ended ranks that had not left yet, on a busy machine")
    assert codes == sorted([7] + [0] * (count - 1))
    assert not done.left


def test_a_script_that_needs_no_head_any_more_succeeds(mpi: Launcher) -> None:
    body = """
print("sum", client.submit(sum, [1, 2]).result(60), flush=True)
supervisor = parent(client.submit(os.getpid).result(60))
os.kill(client.cluster.facts["pid"], signal.SIGKILL)
wait_until(lambda: not Path(f"/proc/{supervisor}").exists())
"""
    done = mpi.run(BEGIN + body, 3)
    assert (done.exit_code, done.output) == (0, "sum 3\n"), done
    assert "the head is gone: nothing listens at" in done.errors
    assert "rank 0: the head (process " in done.errors
    assert not done.left


def test_a_rank_that_is_killed_ends_the_job(mpi: Launcher) -> None:
    """It is mpirun that ends all ranks; nothing of ours may stay behind."""
    body = """
pid = client.submit(os.getpid).result(60)
rank = parent(parent(pid))
print("killing", flush=True)
os.kill(rank, signal.SIGKILL)
time.sleep(600)
"""
    mpi.may_leave = "-rank"
    done = mpi.run(BEGIN + body, 4)
    assert done.exit_code != 0, done
    assert all("-rank" in one for one in done.left)


def test_a_signal_after_the_head_was_killed(mpi: Launcher) -> None:
    """Ranks that wait for the script's end hear signals; the script answers them."""
    body = """
supervisor = parent(client.submit(os.getpid).result(60))
os.kill(client.cluster.facts["pid"], signal.SIGKILL)
wait_until(lambda: not Path(f"/proc/{supervisor}").exists())
print("begun", flush=True)
time.sleep(600)
"""
    process = mpi.start(BEGIN + body, 3)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGUSR1)
    done = mpi.finish(process)
    assert done.exit_code == 128 + signal.SIGUSR1, done
    assert not done.left


def test_without_mpi_the_job_survives_a_worker_rank(tmp_path: Path) -> None:
    body = """
pid = client.submit(os.getpid).result(60)
os.kill(parent(parent(pid)), signal.SIGKILL)
print([client.submit(sum, [i, 1]).result(60) for i in range(3)])
sys.exit(5)
"""
    ranks = launcher("none", tmp_path)
    ranks.may_leave = "-rank"
    done = ranks.run(BEGIN + body, 4)
    assert (done.exit_code, done.output) == (5, "[1, 2, 3]\n"), done


def test_without_mpi_the_head_is_killed(tmp_path: Path) -> None:
    body = """
future = client.submit(time.sleep, 600)
os.kill(client.cluster.facts["pid"], signal.SIGKILL)
try:
    future.result(60)
finally:
    print("at the end")
"""
    done = launcher("none", tmp_path).run(BEGIN + body, 4)
    assert (done.exit_code, done.output) == (1, "at the end\n"), done
    assert done.errors.count("rank 0: the head (process ") == 1
    assert done.errors.count("Traceback") == 1
    assert not done.left


def test_a_rank_that_is_killed_with_the_head_leaves_no_keys(mpi: Launcher) -> None:
    """mpirun kills the other ranks; supervisors outlive them for a moment, and remove what all have left."""
    body = """
head = client.cluster.facts["pid"]
print("up", flush=True)
rank = parent(head)
os.kill(rank, signal.SIGKILL)
os.kill(head, signal.SIGKILL)
time.sleep(60)
"""
    done = mpi.run(BEGIN + body, 3)
    assert done.output.startswith("up\n"), done
    assert done.exit_code != 0
    directories = mpi.directory / "tmp"
    wait_until(lambda: not list(directories.glob("hpclaunch-*")), f"private directories of {directories} to go")
