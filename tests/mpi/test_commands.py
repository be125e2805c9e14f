"""``hpclaunch mpi``, ``hpclaunch run`` and ``hpclaunch script --mpi``: what they start, print and refuse."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpclaunch import Client
from hpclaunch.cli.main import cli
from hpclaunch.errors import SiteError, UserError
from hpclaunch.mpi import nompi
from tests.mpi.ranks import OPTIONS, Launcher

DATA = Path(__file__).parents[1] / "data" / "golden"


# --- hpclaunch mpi


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HPCLAUNCH_RUN_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def cluster(tmp_path: Path, run_directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A cluster of three ranks that others find by its name, or by a file."""
    mpirun = start_mpi(tmp_path, 3, "--name", "mine", "--scheduler-file", str(tmp_path / "scheduler.json"))
    yield mpirun
    mpirun.terminate()
    mpirun.wait(30)


def start_mpi(tmp_path: Path, ranks: int, *options: str) -> subprocess.Popen[bytes]:
    directory = tmp_path / f"launch{ranks}"
    directory.mkdir()
    launcher = Launcher("mpich", directory)
    site = next(Path(sys.prefix).glob("lib/python3*/site-packages"))
    command = [str(Path(launcher.python).parent / "mpiexec"), "-n", str(ranks), *OPTIONS["mpich"]]
    return subprocess.Popen(
        [*command, launcher.python, "-m", "hpclaunch", "mpi", *options],
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{site}"},
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.mpi
def test_a_cluster_for_others_and_ranks_that_join_it(
    cluster: subprocess.Popen[bytes], tmp_path: Path, run_directory: Path
) -> None:
    file = tmp_path / "scheduler.json"
    wait_for(file, cluster)
    with Client(str(file)) as client:
        client.wait_for_workers(2, 60)
        guests = start_mpi(tmp_path, 2, "--no-scheduler", "--scheduler-file", str(file))
        client.wait_for_workers(4, 60)
        assert client.gather(client.map(abs, range(-20, 0))) == list(range(20, 0, -1))
    with Client("mine") as client:
        assert client.submit(sum, [1, 2]).result(20) == 3
    assert "PRIVATE" not in file.read_text()
    down = CliRunner().invoke(cli, ["down", "mine"])
    assert down.exit_code == 0, down.output
    assert cluster.wait(30) == 0
    assert guests.wait(30) == 0, "guests end with the cluster"
    assert list(run_directory.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["mpi", "--no-scheduler"], "needs scheduler_address or scheduler_file"),
        (["mpi", "--worker-options", "{"], "must be JSON"),
        (["mpi", "--worker-options", "[1]"], "must be a JSON object"),
        (["mpi", "unknown"], "no running cluster is named 'unknown'"),
        (["mpi", "--protocol", "ucx"], "others are not spoken here"),
        (["mpi", "--scheduler-rank", "3"], "ranks are 0 to 0"),
        (["run", "nothing.py"], "there is no script nothing.py"),
        (["script", "sge", "--mpi", "4"], "which program"),
        (["script", "sge", "--mpi", "4", "nothing.py"], "there is no program nothing.py"),
        (["script", "sge", "--submit"], "go with --mpi N"),
        (["script", "local", "--cores", "1", "x.py"], "go with --mpi N"),
        (["script", "mpi"], "for the ranks of a job that runs"),
    ],
)
def test_what_is_refused(run_directory: Path, arguments: list[str], text: str) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code != 0
    assert isinstance(done.exception, UserError), done.output
    assert text in str(done.exception)


# --- hpclaunch run


def test_the_hosts_that_grid_engine_grants() -> None:
    text = "sge4 2 all.q@sge4 UNDEFINED\nsge1.local 1 all.q@sge1 UNDEFINED\n"
    assert nompi.granted(text) == ["sge4", "sge4", "sge1.local"]
    with pytest.raises(SiteError, match="PE_HOSTFILE"):
        nompi.granted("no host file\n")


def test_a_script_without_other_ranks_has_all_in_one_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nfrom hpclaunch import Client\nprint(Client().submit(len, sys.argv).result())\n")
    command = [sys.executable, "-m", "hpclaunch", "run", str(script), "-n", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.slow
def test_what_a_script_raises_is_shown_as_python_would(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def f():\n    raise ValueError('mine')\nf()\n")
    command = [sys.executable, "-m", "hpclaunch", "run", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{script}", line 3, in <module>'
    assert lines[-1] == "ValueError: mine"


# --- hpclaunch script --mpi


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sge_ranks.sh", ["sge", "--mpi", "8", "--pe", "ib", "--job-script-prologue", "module load openmpi"]),
        ("slurm_ranks.sh", ["slurm", "--mpi", "8", "--memory", "2 GB", "--cores", "2", "--account", "physics"]),
        ("slurm_ranks_no_mpi.sh", ["slurm", "--mpi", "4", "--no-mpi"]),
        ("local_ranks.sh", ["local", "--mpi", "2", "--launcher", "mpiexec -n 2"]),
    ],
)
def test_the_submission_file(
    name: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As reviewed and kept in tests/data/golden; ``bash -n`` has seen it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("")
    done = CliRunner().invoke(
        cli, ["script", *arguments, "--python", "/opt/python", "script.py", "--", "-x", "a b"]
    )
    assert done.exit_code == 0, done.exception
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
    if os.environ.get("WRITE_GOLDEN"):
        (DATA / name).write_text(done.stdout)
    assert done.stdout == (DATA / name).read_text()


def test_a_parallel_environment_with_too_few_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("")
    extra = ["--job-extra-directives", "-pe smp 2"]
    done = CliRunner().invoke(cli, ["script", "sge", "--mpi", "4", *extra, "script.py"])
    assert "need 4 slots; -pe asks for 2" in str(done.exception)


def test_a_signal_goes_on_to_the_ranks_and_their_code_is_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("")
    launcher = "bash -c 'trap \"exit 7\" USR1; echo up; while :; do sleep 0.05; done'"
    done = CliRunner().invoke(cli, ["script", "local", "--mpi", "2", "--launcher", launcher, "script.py"])
    job = subprocess.Popen(["bash", "-c", done.stdout], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert job.stdout.readline() == "up\n"
    job.send_signal(10)
    assert job.wait(30) == 7
    job.stdout.close()
