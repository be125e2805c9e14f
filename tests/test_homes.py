"""A user id without a name and without a home directory, as in containers: it works, or says what to set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpclaunch import homes
from hpclaunch.config.layers import find_files
from hpclaunch.errors import ConfigError

UID = 54321
Run = Callable[..., "subprocess.CompletedProcess[str]"]
COMPUTE = """
from hpclaunch import Client, LocalCluster
with LocalCluster(1) as cluster, Client(cluster) as client:
    print(client.submit(pow, 6, 2).result())
"""


@pytest.fixture
def nameless(tmp_path: Path) -> Run:
    """Run Python as a user id that the user database does not know, in a user namespace of its own."""
    enter = ["unshare", "--user", f"--map-user={UID}", f"--map-group={UID}", "--"]
    done = subprocess.run([*enter, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HPCLAUNCH_TEST_RUN")}

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        argv = [*enter, sys.executable, *words]
        return subprocess.run(
            argv, cwd=tmp_path, env=kept | environment, capture_output=True, text=True, check=False, timeout=120
        )

    return run


def test_a_home_directory_is_that_of_the_environment_or_of_the_user_database(tmp_path: Path) -> None:
    assert homes.home({"HOME": str(tmp_path)}) == tmp_path
    assert homes.home({}) == homes.home({"HOME": "relative"}) != Path("relative")
    assert homes.expanded("/a/~b", "key") == Path("/a/~b")
    with pytest.raises(ConfigError, match=r"~no-such-name/x .*no user 'no-such-name'. Set log-dir"):
        homes.expanded("~no-such-name/x", "log-directory")


def test_a_user_without_a_home_is_told_what_to_set(nameless: Run) -> None:
    for words in (["ps"], ["clean"], ["up", "local"], ["script", "local"], ["config", "init", "local"]):
        done = nameless("-m", "hpclaunch", *words)
        assert done.returncode == 2, done
        assert f"user id {UID} has no home directory here" in done.stderr
        assert "Set HOME to a directory of yours" in done.stderr
        assert "Traceback" not in done.stderr
    assert nameless("-m", "hpclaunch", "config", "show", "local").returncode == 0


@pytest.mark.slow
def test_a_user_without_a_name_and_a_home_computes(nameless: Run, tmp_path: Path) -> None:
    runs = str(tmp_path / "run")
    for environment in ({"HPCLAUNCH_RUN_DIRECTORY": runs}, {"HOME": str(tmp_path)}):
        done = nameless("-c", COMPUTE, **environment)
        assert (done.stdout, done.stderr) == ("36\n", "")


def test_a_home_that_cannot_be_read(nameless: Run, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    for words in (["up", "local"], ["script", "local"], ["ps"], ["clean"], ["down", "x"]):
        done = nameless("-m", "hpclaunch", *words, HOME=str(closed))
        assert done.returncode in (1, 2)
        assert f"permission denied: {closed}/" in done.stderr
        assert f"({closed} has owner {UID} and mode 0000, and you are user {UID})" in done.stderr
        assert "Traceback" not in done.stderr
        assert "should not happen" not in done.stderr
    own = {"XDG_CONFIG_HOME": str(tmp_path), "HPCLAUNCH_RUN_DIRECTORY": str(tmp_path / "run")}
    assert nameless("-m", "hpclaunch", "ps", HOME=str(closed), **own).stdout == "no clusters\n"


def test_a_home_that_cannot_be_written(nameless: Run, tmp_path: Path) -> None:
    tmp_path.joinpath("home").mkdir(mode=0o500)
    done = nameless("-m", "hpclaunch", "up", "local", HOME=str(tmp_path / "home"))
    assert done.returncode == 2
    assert f"can't be put into {tmp_path}/home/.hpclaunch/run: permission denied" in done.stderr
    assert f"{tmp_path}/home has owner {UID} and mode 0500" in done.stderr
    assert "Set shared-temp-directory" in done.stderr


def test_a_configuration_file_that_cannot_be_read(nameless: Run, tmp_path: Path) -> None:
    file = tmp_path / "hpclaunch" / "jobqueue.yaml"
    file.parent.mkdir()
    file.touch(mode=0)
    done = nameless("-m", "hpclaunch", "config", "show", "local", XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 2
    assert f"{file}: can't be read: permission denied: {file} ({file} has owner {UID} and mode 0000" in done.stderr


def test_no_configuration_where_there_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "hpclaunch").touch()  # a file in its place
    assert find_files({"XDG_CONFIG_HOME": str(tmp_path)}) == find_files(
        {"XDG_CONFIG_HOME": str(tmp_path / "none")}
    )
