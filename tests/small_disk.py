"""A file system that is small enough to be filled, for tests of full disks; root only, as mount(2) is."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted tmpfs, whose space tests use up and free again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, *, free: int = 0) -> None:
        """Use up all space but so many bytes, in whole pages."""
        with self._filler.open("ab", buffering=0) as file:
            while (count := self.free() - free) > 0:
                try:
                    file.write(b"x" * min(count, 1 << 20))
                except OSError:
                    return

    def empty(self) -> None:
        """Free what :meth:`fill` has used up."""
        self._filler.unlink(missing_ok=True)

    def free(self) -> int:
        """Return how many bytes are free."""
        info = os.statvfs(self.path)
        return info.f_bavail * info.f_frsize


@contextlib.contextmanager
def small_disk(path: Path, *, size: int = 2 << 20) -> Iterator[SmallDisk]:
    """Mount a small file system at a path for the time of a block; skip the test where that is not allowed."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
