"""Real ranks under Open MPI and MPICH, and without MPI: every way to begin and to end, with all exit codes.

Each launch has a time limit, and what it leaves behind is looked for.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.mpi.ranks import Launcher

pytestmark = [pytest.mark.slow, pytest.mark.mpi]

BEGIN = """
import os, sys, time
from hpclaunch import Client, execute, initialize
RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or 0)

def say(*words):
    with open(os.path.join(os.environ["SAID"], str(RANK)), "a") as file:
        print(*words, file=file)
"""
COMPUTE = (
    BEGIN
    + """
initialize()
client = Client()
print("sum", sum(client.gather(client.map(lambda x: x + 1, range(100)))), "workers", len(client.cluster.workers()))
"""
)


@pytest.fixture(params=["openmpi", "mpich"])
def mpi(request: pytest.FixtureRequest, tmp_path: Path) -> Launcher:
    """Ranks under one MPI, then under the other."""
    return launcher(request.param, tmp_path)


@pytest.fixture(params=["openmpi", "mpich", "none"])
def ranks(request: pytest.FixtureRequest, tmp_path: Path) -> Launcher:
    """Ranks under each MPI, and without any."""
    return launcher(request.param, tmp_path)


def launcher(kind: str, directory: Path) -> Launcher:
    try:
        return Launcher(kind, directory)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{kind} can't be installed here: {error}")


@pytest.mark.parametrize(("count", "workers"), [(1, 1), (2, 1), (3, 1), (5, 3)])
def test_any_number_of_ranks_computes(ranks: Launcher, count: int, workers: int) -> None:
    done = ranks.run(COMPUTE, count)
    assert done.exit_code == 0, done
    assert done.output == f"sum 5050 workers {workers}\n"
    assert done.errors == ""
    assert ranks.kind == "none" or done.codes == dict.fromkeys(range(count), 0)
    assert not done.left


def test_workers_on_all_ranks(mpi: Launcher) -> None:
    done = mpi.run(COMPUTE.replace("initialize()", "initialize(exclusive_workers=False)"), 3)
    assert (done.exit_code, done.output) == (0, "sum 5050 workers 3\n"), done


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("raise ValueError('of the script')", 1, "ValueError: of the script"),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('with these words')", 1, "with these words"),
    ],
)
def test_the_scripts_end_is_everyones(ranks: Launcher, end: str, code: int, said: str) -> None:
    done = ranks.run(COMPUTE + end, 4)
    assert done.exit_code == code, done
    assert done.output == "sum 5050 workers 2\n"
    assert done.errors.count("Traceback") == ("raise" in end)
    assert said in done.errors
    assert ranks.kind == "none" or done.codes == {0: 0, 1: code, 2: 0, 3: 0}
    assert not done.left


def test_a_script_that_vanishes_takes_all_with_it(ranks: Launcher) -> None:
    ranks.may_leave = "rank1-"
    done = ranks.run(COMPUTE + "sys.stdout.flush(); os._exit(7)", 4)
    assert done.exit_code != 0, done
    assert all("rank1-" in one for one in done.left)
    ranks.may_leave = ""
    assert not ranks.run(COMPUTE, 1).left, "the next start has removed its files"


def test_a_task_that_kills_its_worker_does_not_end_the_job(ranks: Launcher) -> None:
    body = """
    client = Client()
    f = client.submit(os._exit, 5)
    print("error", type(f.exception()).__name__, "then", client.submit(sum, [1, 2]).result())
    """
    done = ranks.run(BEGIN + "initialize()\nif True:\n" + body, 3)
    assert done.output == "error KilledWorkerError then 3\n", done
    assert done.exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_that_the_job_is_to_end(ranks: Launcher, number: signal.Signals) -> None:
    if ranks.kind == "openmpi" and number == signal.SIGTERM:
        pytest.skip("this mpirun kills its ranks a quarter of a second after SIGTERM; SIGUSR1 is its way")
    body = """
    client = Client()
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("at the end", client.submit(sum, [20, 22]).result(10), flush=True)
    """
    process = ranks.start(BEGIN + "initialize()\nif True:\n" + body, 4)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    done = ranks.finish(process)
    assert done.output == "at the end 42\n", done
    assert done.exit_code == 128 + number
    assert ranks.kind == "none" or done.codes == {0: 0, 1: 128 + number, 2: 0, 3: 0}
    assert not done.left


@pytest.mark.slow
def test_a_frozen_head_is_ended_with_its_rank(tmp_path: Path) -> None:
    ranks = launcher("none", tmp_path)
    stop = "import signal\nos.kill(client.cluster.facts['pid'], signal.SIGSTOP)\n"
    done = ranks.run(COMPUTE + stop, 1)
    assert (done.exit_code, done.output) == (0, "sum 5050 workers 1\n"), done
    assert not done.left


def test_ctrl_c(ranks: Launcher) -> None:
    process = ranks.start(COMPUTE + "print('begun', flush=True); time.sleep(600)", 3)
    assert process.stdout is not None
    while process.stdout.readline() != "begun\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    ranks.may_leave = "rank1-"
    done = ranks.finish(process)
    assert done.exit_code != 0
    assert all("rank1-" in one for one in done.left)


# --- what goes wrong at the start


def test_a_worker_rank_that_cannot_start(mpi: Launcher) -> None:
    body = "\nif RANK == 2: sys.executable = '/nonexistent/python'\ninitialize()\nprint('not reached')"
    done = mpi.run(BEGIN + body, 4)
    assert done.exit_code == 1, done
    assert "1 of 4 ranks could not start its part" in done.errors
    assert "rank 2 on" in done.errors
    assert "/nonexistent/python" in done.errors
    assert done.errors.count("Traceback") == 1
    assert "not reached" not in done.output
    assert done.codes[1] == done.codes[2] == 1
    assert done.codes[0] == done.codes[3] == 0
    assert not done.left


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("execute(print, client_rank=5)", "start at least 6 (mpirun -np 6)"),
        ("initialize(memory_limit='lots')", "'lots' is not a size"),
        ("initialize(worker_options={'lifetime': 1})", "'lifetime' has no meaning here"),
        ("initialize(start_timeout='x')", "start_timeout must be seconds"),
        ("execute(print, scheduler=False)", "needs scheduler_address or scheduler_file"),
        ("execute(print, scheduler=False, scheduler_address='unknown')", "no running cluster is named 'unknown'"),
    ],
)
def test_a_mistake_is_told_by_one_rank(tmp_path: Path, call: str, text: str) -> None:
    done = launcher("mpich", tmp_path).run(BEGIN + call, 3)
    assert done.exit_code == 1, done
    assert text in done.errors
    assert done.errors.count("Traceback") == 1
    assert done.codes == {0: 1, 1: 0, 2: 0}
    assert not done.left


def test_a_rank_that_does_not_come(mpi: Launcher) -> None:
    body = "\nfrom mpi4py import MPI\nif RANK == 2: time.sleep(600)\ninitialize(start_timeout=1)"
    done = mpi.run(BEGIN + body, 3)
    assert done.exit_code != 0
    assert "not all of the 3 ranks have come to initialize() within 1 s" in done.errors
    assert not done.left


def test_a_rank_that_ends_before_mpi_has_started(mpi: Launcher) -> None:
    done = mpi.run(BEGIN + "\nif RANK == 2: raise ValueError('too early')\ninitialize(start_timeout=3)", 3)
    assert done.exit_code != 0
    assert "ValueError: too early" in done.errors
    assert not done.left


# --- execute and the with block


def test_execute_returns_on_all_ranks(mpi: Launcher) -> None:
    body = """
def work(a, b=1):
    return Client().submit(lambda x: x * b, a).result()
say("it is", execute(work, (21,), {"b": 2}))
"""
    done = mpi.run(BEGIN + body, 4)
    assert done.exit_code == 0, done
    assert done.said == {0: "it is None\n", 1: "it is 42\n", 2: "it is None\n", 3: "it is None\n"}
    assert not done.left


def test_what_execute_runs_may_fail(mpi: Launcher) -> None:
    done = mpi.run(BEGIN + "\nexecute(lambda: 1 / 0)", 3)
    assert done.exit_code == 1, done
    assert done.errors.count("ZeroDivisionError") == 1
    assert done.codes == {0: 0, 1: 1, 2: 0}


def test_all_ranks_go_on_where_they_are_to(mpi: Launcher) -> None:
    done = mpi.run(BEGIN + "\nsay('client', initialize(exit=False))", 3)
    assert done.exit_code == 0, done
    assert done.said == {0: "client False\n", 1: "client True\n", 2: "client False\n"}


def test_a_given_communicator(mpi: Launcher) -> None:
    """Half of the ranks are a cluster, the others do something else."""
    body = """
from mpi4py import MPI
part = MPI.COMM_WORLD.Split(RANK % 2)
if RANK % 2:
    say("other", part.allreduce(RANK))
else:
    done = execute(lambda: Client().submit(sum, [1, 2]).result(), comm=part)
    say("cluster", done)
"""
    done = mpi.run(BEGIN + body, 6)
    assert done.exit_code == 0, done
    assert done.said == {
        **dict.fromkeys((0, 4), "cluster None\n"),
        2: "cluster 3\n",
        **dict.fromkeys((1, 3, 5), "other 9\n"),
    }


def test_the_with_block_runs_on_one_rank(mpi: Launcher) -> None:
    body = """
import hpclaunch.mpi
with hpclaunch.mpi.cluster() as client:
    print("in it", client.submit(sum, [1, 2]).result(), flush=True)
print("behind it", flush=True)
"""
    done = mpi.run(BEGIN + body, 3)
    assert (done.exit_code, done.output) == (0, "in it 3\nbehind it\n"), done


# --- secrets, and what a rank opens


def test_nothing_secret_is_in_arguments_environment_or_open_files(mpi: Launcher) -> None:
    body = """
import pathlib
initialize()
client = Client()
mine = os.environ["TMPDIR"]
found = []
for path in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
    except OSError:
        continue
    if mine.encode() in text and (b"PRIVATE KEY" in text or b"BEGIN CERT" in text):
        found.append(path.name)
modes = {oct(p.stat().st_mode & 0o777) for p in pathlib.Path(mine).glob("*mpi*-*/*.pem")}
homes = {oct(p.stat().st_mode & 0o777) for p in pathlib.Path(mine).glob("*mpi*-*")}
print(found, sorted(modes), sorted(homes))
"""
    done = mpi.run(BEGIN + body, 4)
    assert done.output == "[] ['0o600'] ['0o700']\n", done
