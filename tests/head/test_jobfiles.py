"""What jobs and the job manager write for each other, when the disk is full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpclaunch.head.jobfiles import RunFiles

from ..small_disk import small_disk


def test_the_journal_has_all_ids_once_there_is_room_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        files = RunFiles(disk.path / "jobs", disk.path / "logs")
        files.write_journal("submitted", ["1.1", "1.2"])
        disk.fill()
        many = [f"2.{element}" for element in range(2000)]
        with pytest.raises(OSError, match=r"No space left on device: '.*ledger\.jsonl'"):
            files.write_journal("submitted", many)  # a page of it fits at most
        with pytest.raises(OSError, match="No space"):
            files.write_journal("ended", ["1.1"])
        with pytest.raises(OSError, match="No space"):
            files.finish_journal()
        disk.empty()
        files.finish_journal()
        assert files.leftovers() == ["1.2", *many]
        written = (disk.path / "jobs" / "ledger.jsonl").read_text()
        files.finish_journal()
        assert (disk.path / "jobs" / "ledger.jsonl").read_text() == written
        assert json.loads(written.splitlines()[0]) == {"submitted": ["1.1", "1.2"]}


def test_an_empty_log_on_a_full_disk_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk.path / "logs").mkdir()
        files = RunFiles(disk.path / "jobs", disk.path / "logs")
        assert files.log_tail("1.1") == ""
        (disk.path / "logs" / "1.1.log").write_text("a line\n")
        disk.fill()
        assert files.log_tail("1.1").startswith("a line\nhpclaunch: The file system of ")
        assert "is full (0 B of 2.0 MiB are free)" in files.log_tail("1.2")
