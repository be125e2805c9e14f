"""No Python of ours runs what lies in the current directory; tasks still find the user's own modules there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpclaunch import safepath
from tests import hostile
from tests.mpi.ranks import Launcher
from tests.mpi.test_mpirun import launcher

TASK = f"""
def own(x):
    import os, subprocess, sys
    import {hostile.OWN}
    import queue, wsgiref.util, colorsys  # the last two, no worker has imported before
    inherited = subprocess.run([sys.executable, "-c", "import sys; print(sys.flags.safe_path)"], cwd="/",
                               capture_output=True, text=True).stdout.strip()
    return {hostile.OWN}.ANSWER, inherited, os.environ.get("PYTHONSAFEPATH")
"""
ANSWER = "(42, 'False', None)"
LOCAL = f"""{TASK}
from hpclaunch import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        print(client.submit(own, 0).result(60))
"""
RANKS = f"""{TASK}
from hpclaunch import Client, initialize
initialize()
print(Client().submit(own, 0).result(60))
"""


@pytest.fixture
def there(tmp_path: Path) -> Path:
    directory = tmp_path / "shared by all"
    directory.mkdir()
    return directory


def run(*argv: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in argv],
        cwd=cwd,
        env={**os.environ, **env},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_a_local_cluster(tmp_path: Path, there: Path) -> None:
    ran = hostile.fill(there)
    script = tmp_path / "script.py"
    script.write_text(LOCAL)
    done = run(sys.executable, script, cwd=there)
    assert (done.stdout.strip(), done.returncode) == (ANSWER, 0), done.stderr
    assert not ran.exists(), ran.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["console script", "python -P -m"])
def test_the_command_line_its_head_and_its_workers(tmp_path: Path, there: Path, how: str) -> None:
    ran = hostile.fill(there)
    command = [Path(sys.executable).with_name("hpclaunch")]
    if how != "console script":
        command = [sys.executable, "-P", "-m", "hpclaunch"]
    env = {"HPCLAUNCH_RUN_DIRECTORY": str(tmp_path / "run")}
    script = tmp_path / "script.py"
    script.write_text(f"{TASK}\nfrom hpclaunch import Client\nprint(Client('mine').submit(own, 0).result(60))")
    try:
        done = run(*command, "up", "local", "--name", "mine", "--jobs", "1", cwd=there, **env)
        assert done.returncode == 0, done.stderr
        assert run(*command, "ps", cwd=there, **env).stdout.count("mine") >= 1
        done = run(sys.executable, script, cwd=there, **env)
        assert done.stdout.strip() == ANSWER, done.stderr
    finally:
        done = run(*command, "down", "mine", cwd=there, **env)
    assert done.returncode == 0, done.stderr
    assert not ran.exists(), ran.read_text()


def test_python_m_drops_the_current_directory_before_it_imports_more(there: Path) -> None:
    """What Python itself imports before it comes to us is out of our hands: runpy and what that needs."""
    ran = hostile.fill(there)
    probe = "import runpy, sys; print(*(name for name in sys.modules if '.' not in name))"
    done = run(sys.executable, "-P", "-c", probe, cwd=there)
    for name in {*done.stdout.split(), "hpclaunch", "sitecustomize", "usercustomize"}:
        (there / f"{name}.py").unlink(missing_ok=True)
    done = run(sys.executable, "-m", "hpclaunch", "--version", cwd=there)
    assert done.returncode == 0, done.stderr
    assert not ran.exists(), ran.read_text()


def test_the_console_script_drops_its_own_directory(there: Path) -> None:
    ran = hostile.fill(there)
    (there / "hpclaunch.py").unlink()
    script = there / "hpclaunch-copy"
    script.write_text("import sys\nfrom hpclaunch.cli.entry import main\nmain()\n")
    loaded = run(sys.executable, "-P", "-c", "import importlib, sys; print(*sys.modules)", cwd=there).stdout
    for name in loaded.split():
        (there / f"{name}.py").unlink(missing_ok=True)
    done = run(sys.executable, script, "--version", cwd=there)
    assert done.returncode == 0, done.stderr
    assert not ran.exists(), ran.read_text()


def test_a_sweep_and_every_other_program_of_ours_has_a_safe_path() -> None:
    """There is one function that makes such a command; no module writes "-m" itself."""
    package = Path(safepath.__file__).parent
    found = [path.name for path in package.rglob("*.py") if '"-m", "hpclaunch' in path.read_text()]
    assert found == []
    assert safepath.module_command("python", "hpclaunch.head")[:3] == ["python", "-P", "-m"]


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.parametrize("kind", ["openmpi", "mpich", "none"])
def test_ranks(kind: str, tmp_path: Path, there: Path) -> None:
    ranks: Launcher = launcher(kind, tmp_path)
    ran = hostile.fill(there)
    ranks.current = there
    if kind == "none":  # the launcher's own `python -m` is not what this is about
        ranks.command = [str(Path(sys.executable).with_name("hpclaunch"))]
    done = ranks.run(RANKS, 3)
    assert (done.output.strip(), done.exit_code) == (ANSWER, 0), done
    assert not ran.exists(), ran.read_text()
