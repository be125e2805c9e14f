"""Private directories of processes of one host: removed once their process is gone, and not before."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

from hpclaunch import marks


def marked(base: Path, name: str, pid: int) -> Path:
    directory = base / f"{marks.PREFIX}{name}"
    directory.mkdir(mode=0o700)
    marks.mark(directory, pid)
    return directory


def test_what_ranks_leave_that_are_killed_one_after_the_other(tmp_path: Path) -> None:
    base = tmp_path / "tmp"
    base.mkdir(mode=0o700)
    with subprocess.Popen(["sleep", "100"]) as first, subprocess.Popen(["sleep", "100"]) as second:
        directories = [marked(base, str(process.pid), process.pid) for process in (first, second)]
        first.kill()
        first.wait()
        timer = threading.Timer(0.3, second.kill)
        timer.start()
        marks.remove_dying(base)
        timer.join()
    assert not any(directory.exists() for directory in directories)


def test_what_belongs_to_a_process_that_lives_stays(tmp_path: Path) -> None:
    base = tmp_path / "tmp"
    base.mkdir(mode=0o700)
    mine = marked(base, "mine", os.getpid())
    assert marks.remove_dead(base) == []
    assert mine.exists()
