"""Run directories: whose word is believed, which clusters there are, and that nothing of them stays."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import stat
import threading
from pathlib import Path

import pytest

from hpclaunch import rundir
from hpclaunch.errors import ClusterNotFoundError, ConfigError


def test_a_cluster_file_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    rundir.write_file(path, b'{"id": "x", "name": "x", "addresses": [], "security": false}')
    assert rundir.read_facts(tmp_path)["name"] == "x"
    path.chmod(0o666)
    with pytest.raises(ClusterNotFoundError, match="can be written by other users"):
        rundir.read_facts(tmp_path)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"id": 1}', b"\xff"])
def test_what_is_no_cluster_file(tmp_path: Path, text: bytes) -> None:
    rundir.write_file(tmp_path / "cluster.json", text)
    with pytest.raises(ClusterNotFoundError, match="is not a cluster file"):
        rundir.read_facts(tmp_path)


# --- finding clusters ---------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which all run directories of this test are."""
    monkeypatch.setenv("HPCLAUNCH_RUN_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


def make(base: Path, name: str, **facts: object) -> Path:
    """Make a run directory whose head is this very process."""
    directory = rundir.create(rundir.choose(base, name))
    me = {"pid": os.getpid(), "process_start": rundir.process_start(os.getpid()), "host": socket.gethostname()}
    told = {"id": directory.name, "name": name, "addresses": ["127.0.0.1:4711"], **me, **facts}
    rundir.write_file(directory / "cluster.json", json.dumps(told).encode())
    return directory


@pytest.mark.parametrize("how", ["name", "id", "path", "file", "address", "tls"])
def test_a_cluster_is_found_by(base: Path, how: str) -> None:
    directory = make(base, "mine")
    make(base, "other", addresses=["127.0.0.1:4712"])
    what = {
        "name": "mine",
        "id": directory.name,
        "path": directory,
        "file": directory / "cluster.json",
        "address": "127.0.0.1:4711",
        "tls": "tls://127.0.0.1:4711",
    }[how]
    assert rundir.find_cluster(what) == directory


def test_two_clusters_of_one_name_are_told_apart_by_their_ids(base: Path) -> None:
    ids = [make(base, "mine").name, make(base, "mine").name]
    with pytest.raises(ClusterNotFoundError, match="several clusters are named 'mine'") as caught:
        rundir.find_cluster("mine")
    assert all(one in str(caught.value) for one in ids)
    assert rundir.find_cluster(ids[1]).name == ids[1]


@pytest.mark.parametrize(
    "dead", [{"pid": 2**22 + 1}, {"process_start": "1"}], ids=["no process", "another process"]
)
def test_a_dead_head_is_no_running_cluster(base: Path, dead: dict[str, object]) -> None:
    directory = make(base, "mine", **dead)
    (one,) = rundir.all_clusters()
    assert (one.directory, one.is_alive) == (directory, False)
    with pytest.raises(ClusterNotFoundError, match=r"has died; its log is .*head\.log. `hpclaunch clean`"):
        rundir.find_cluster("mine")
    assert rundir.find_cluster(make(base, "mine").name).parent == base  # and does not hide one that lives


def test_of_a_head_on_another_host_we_know_nothing(base: Path) -> None:
    directory = make(base, "mine", host="elsewhere")
    assert [one.is_alive for one in rundir.all_clusters()] == [None]
    assert rundir.find_cluster("mine") == directory


def test_a_cluster_in_an_unusual_place_is_found_by_name(base: Path, tmp_path: Path) -> None:
    directory = make(tmp_path / "scratch", "mine")
    assert directory.parent == tmp_path / "scratch"
    assert rundir.find_cluster("mine") == directory
    assert [one.directory for one in rundir.all_clusters()] == [directory]
    rundir.remove(directory)
    assert not list(base.iterdir())
    assert not list((tmp_path / "scratch").iterdir())


def test_what_others_can_write_is_not_listed(base: Path) -> None:
    make(base, "loose").chmod(0o777)
    (make(base, "odd") / "cluster.json").write_text("{")
    assert rundir.all_clusters() == []


def test_an_owner_is_told_from_a_later_process_with_its_number(base: Path) -> None:
    make(base, "attached", owner_pid=os.getpid(), owner_start=rundir.process_start(os.getpid()))
    make(base, "late", owner_pid=os.getpid(), owner_start="1")
    make(base, "detached", owner_pid=0, owner_start="")
    assert {one.name: one.has_owner for one in rundir.all_clusters()} == {
        "attached": True,
        "late": False,
        "detached": False,
    }


def test_what_never_got_a_head_is_abandoned_after_a_while(base: Path, tmp_path: Path) -> None:
    young, old = rundir.create(rundir.choose(base, "young")), rundir.create(rundir.choose(base, "old"))
    for directory in (young, old):
        rundir.write_file(directory / "head.json", b"{}")
    os.utime(old, (0, 0))
    make(base, "alive")
    gone = make(tmp_path / "scratch", "gone")
    shutil.rmtree(gone)
    assert set(rundir.abandoned()) == {old, base / gone.name}


# --- making and removing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../etc", "a/b", "x" * 300, "two\nlines", "", "ü", "-rf", ". ."])
def test_hostile_names_stay_in_their_place(base: Path, name: str) -> None:
    directory = rundir.create(rundir.choose(base, name))
    assert directory.parent == base
    assert re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*-[0-9a-f]{8}", directory.name)
    assert len(directory.name) < 60


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_run_directories_are_private_whatever_the_umask(base: Path, mask: int) -> None:
    base.mkdir()
    before = os.umask(mask)
    try:
        directory = rundir.create(rundir.choose(base, "mine"))
        rundir.write_file(directory / "a", b"secret")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [directory, *directory.iterdir()]}
    assert modes == {directory.name: 0o700, "jobs": 0o700, "logs": 0o700, "a": 0o600 & ~mask}


def test_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Set shared-temp-directory"):
        rundir.create(rundir.choose(tmp_path / "file" / "run", "mine"))


def test_last_words_do_not_keep_a_directory(base: Path) -> None:
    """A job may write while its cluster's directory is being removed."""
    directory = rundir.create(rundir.choose(base, "mine"))
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                (directory / "jobs" / "1.1.exit").write_text("0")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        rundir.remove(directory)
        assert not directory.exists()
    finally:
        ended.set()
        writer.join()
