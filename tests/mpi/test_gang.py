"""Ranks that talk through files: threads here, each with a gang of its own, as processes have elsewhere."""

from __future__ import annotations

import concurrent.futures
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.errors import SiteError
from hpclaunch.mpi.gang import Alone, FileGang, RanksMissingError


def all_ranks(size: int, work: Callable[[int], Any]) -> list[Any]:
    """Call ``work(rank)`` for all ranks at once."""
    with concurrent.futures.ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, range(size)))


@pytest.mark.parametrize("size", [2, 5])
def test_what_each_says_all_hear(tmp_path: Path, size: int) -> None:
    def rank(number: int) -> tuple[list[bytes], bytes, list[bytes]]:
        gang = FileGang(tmp_path / "launch", number, size)
        first = gang.allgather(b"hello from %d" % number, 20)
        word = gang.broadcast(b"secret" if number == 1 else None, 1, 20)
        last = gang.allgather(b"" if number else b"\0bytes", 20)
        gang.close()
        gang.close()
        return first, word, last

    heard = all_ranks(size, rank)
    assert (
        heard
        == [([b"hello from %d" % i for i in range(size)], b"secret", [b"\0bytes"] + [b""] * (size - 1))] * size
    )
    assert not (tmp_path / "launch").exists(), "nothing is left, the secret least of all"


def test_files_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        gang = FileGang(tmp_path / "launches" / "one", 0, 2)
        gang.broadcast(b"secret", 0, 1)
    finally:
        os.umask(before)
    (file,) = (tmp_path / "launches" / "one").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_directory_that_another_has_put_in_its_place_is_not_read(tmp_path: Path) -> None:
    """It holds the keys of the cluster, and the address of the head."""
    directory = tmp_path / "launch"
    gang = FileGang(directory, 1, 2)
    directory.rename(tmp_path / "away")
    directory.mkdir(mode=0o700)
    (directory / "0.word").write_bytes(b"my head is yours")
    with pytest.raises(SiteError, match="did not come"):
        gang.broadcast(None, 0, 0.05)
    gang.close()
    assert (directory / "0.word").exists()


def test_a_parent_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(SiteError, match=r"chmod \+t"):
        FileGang(tmp_path / "open" / "launch", 0, 2)


def test_a_directory_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(SiteError, match="can be read by other users"):
        FileGang(tmp_path / "open", 0, 2)


def test_a_place_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SiteError, match="HPCLAUNCH_RUN_DIRECTORY"):
        FileGang(tmp_path / "file" / "launch", 0, 2)


def test_ranks_that_do_not_come_are_named(tmp_path: Path) -> None:
    def rank(number: int) -> str:
        gang = FileGang(tmp_path / "launch", number, 4)
        with pytest.raises(RanksMissingError) as caught:
            gang.allgather(b"", 0.3)
        return str(caught.value)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        said = list(pool.map(rank, [0, 2]))
    assert "ranks 1, 3 did not come within 0.3 s" in said[0]
    assert "the others did not come" in said[1]


def test_one_rank_is_all() -> None:
    gang = Alone()
    assert gang.allgather(b"x", 1) == [b"x"]
    assert gang.broadcast(b"y", 0, 1) == b"y"


def test_a_start_that_takes_too_long_is_ended() -> None:
    code = """
import time
from hpclaunch.mpi.gang import time_limit
with time_limit(30, "in time"):
    pass
with time_limit(0.1, "MPI has not started within 0.1 s"):
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -9
    assert done.stderr == "hpclaunch: MPI has not started within 0.1 s; has one ended before?\n"
