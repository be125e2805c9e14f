"""Results on disk and back: as they were, private, without copies, and gone in the end."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpclaunch import marks
from hpclaunch.comm.serialize import Payload, dump_call, dump_value, load_call, load_value
from hpclaunch.comm.sharing import open_shared
from hpclaunch.worker import spill
from hpclaunch.worker.spill import SpillDirectory, Spilled
from tests.small_disk import small_disk


@pytest.fixture
def directory(tmp_path: Path) -> Any:
    directory = SpillDirectory(tmp_path / "hpclaunch-spill-x")
    yield directory
    directory.close()


def test_a_result_comes_back_as_it_was(directory: SpillDirectory) -> None:
    arrays = [np.arange(10_001, dtype=np.int8), np.arange(30_000.0)]
    payload = dump_value({"a": arrays, "b": "text"})
    file = directory.write(payload)
    assert file.size == payload.size
    back = file.read()
    assert isinstance(back, Payload)
    value = load_value(*back)
    assert value["b"] == "text"
    assert all((a == b).all() for a, b in zip(value["a"], arrays, strict=True))
    assert value["a"][1].flags.aligned
    assert not value["a"][1].flags.owndata


def test_who_reads_it_has_it_for_himself(directory: SpillDirectory) -> None:
    file = directory.write(dump_value(np.zeros(100_000)))
    one, other = load_value(*file.read()), load_value(*file.read())
    one[:] = 1
    directory.delete(file)
    assert one.sum() == 100_000
    assert other.sum() == 0
    with pytest.raises(FileNotFoundError):
        file.read()


def test_a_task_gets_a_mapping_and_no_copy(directory: SpillDirectory) -> None:
    class Reference:
        def __reduce__(self) -> Any:
            from hpclaunch.comm.serialize import reduce_future

            return reduce_future("key")

    file = directory.write(dump_value(np.zeros(100_000)))
    call, _ = dump_call((Reference(),), None)
    (array,), _ = load_call(call, {"key": file.read()})
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(getattr(base, "obj", base)).__name__ == "OwnPages"
    array += 1  # and may change it


def test_files_are_private(directory: SpillDirectory) -> None:
    old = os.umask(0)
    try:
        file = directory.write(Payload(b"secret", [b"x" * 10]))
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.directory.stat().st_mode) == 0o700


def test_nothing_is_made_before_it_is_needed_and_nothing_is_left(directory: SpillDirectory) -> None:
    assert not directory.directory.exists()
    directory.write(Payload(b"p", [b"x" * 10]))
    assert directory.directory.exists()
    directory.close()
    assert not directory.directory.exists()


def test_a_full_disk_leaves_no_part_of_a_file(directory: SpillDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.write(Payload(b"p", []))
    before = sorted(directory.directory.iterdir())
    real = os.pwrite

    def full(fd: int, data: Any, at: int) -> int:
        if at:
            raise OSError(28, "No space left on device")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        directory.write(Payload(b"p", [b"x" * 100]))
    assert sorted(directory.directory.iterdir()) == before


def test_a_full_disk_of_another_host_is_heard_of_when_the_file_is_closed(
    directory: SpillDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.write(Payload(b"p", []))
    before = sorted(directory.directory.iterdir())
    real = os.close

    def full(fd: int) -> None:
        real(fd)
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(os, "close", full)
    with pytest.raises(OSError, match="Disk quota exceeded"):
        directory.write(Payload(b"p", [b"x" * 100]))
    monkeypatch.undo()
    assert sorted(directory.directory.iterdir()) == before


def test_a_file_that_was_cut_short_is_an_error(directory: SpillDirectory) -> None:
    file = directory.write(Payload(b"p", [b"x" * 100]))
    os.truncate(file.path, 10)
    with pytest.raises(OSError, match="cut short"):
        file.read()


def test_a_directory_that_another_has_put_in_its_place_is_neither_read_nor_written(
    directory: SpillDirectory, tmp_path: Path
) -> None:
    """What is read is unpickled, so another's file must never be."""
    file = directory.write(Payload(b"mine", [b"x"]))
    directory.directory.rename(tmp_path / "away")
    directory.directory.mkdir()
    (directory.directory / file.path.name).write_bytes((tmp_path / "away" / file.path.name).read_bytes())
    assert file.read() == Payload(b"mine", [b"x"])
    with pytest.raises(OSError, match="not the result that it was"):
        open_shared(file.place, file.inode, file.lengths)
    assert directory.write(Payload(b"new", [])).read() == Payload(b"new", [])
    directory.delete(file)
    assert len(list(directory.directory.iterdir())) == 1  # another's is left alone


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_not_opened_whatever_its_inode(directory: SpillDirectory) -> None:
    file = directory.write(Payload(b"mine", [b"x"]))
    os.chown(file.path, 54321, -1)
    with pytest.raises(OSError, match="not the file that was written"):
        file.read()
    with pytest.raises(OSError, match="not the result that it was"):
        open_shared(file.place, file.inode, file.lengths)


def test_a_file_under_the_same_name_is_not_taken_for_what_was_written(directory: SpillDirectory) -> None:
    file, other = (directory.write(Payload(word, [b"x"])) for word in (b"mine", b"that"))
    other.path.rename(file.path)
    with pytest.raises(OSError, match="not the file that was written"):
        file.read()


def test_what_the_dead_have_left_is_swept_and_what_the_living_have_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "scratch_directory", lambda: tmp_path)
    dead, living, new = (SpillDirectory(spill.new_directory()) for _ in range(3))
    left = dead.write(Payload(b"p", [b"x"]))
    os.close(dead._lock)  # as the kernel does when a process ends
    kept = living.write(Payload(b"p", [b"x"]))
    assert not left.path.exists()
    (tmp_path / "hpclaunch-spill-0-elsewhere").symlink_to(living.directory)
    new.write(Payload(b"p", [b"x"]))
    assert kept.read() == Payload(b"p", [b"x"])
    assert isinstance(kept, Spilled)
    living.close()
    new.close()


def test_a_result_for_which_there_is_no_room_stays_in_memory_and_leaves_no_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        directory = SpillDirectory(disk.path / "hpclaunch-spill-x")
        first = directory.write(dump_value(np.arange(1000.0)))
        disk.fill(free=8192)
        payload = dump_value(np.zeros(100_000))
        with pytest.raises(OSError, match="No space"):
            directory.write(payload)
        assert {path.name for path in directory.directory.iterdir()} == {"lock", first.path.name}
        assert load_value(*first.read())[-1] == 999
        assert load_value(*payload)[-1] == 0
        disk.empty()
        assert load_value(*directory.write(payload).read())[-1] == 0
        directory.close()


def test_a_directory_that_could_not_be_locked_is_made_at_the_next_try(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    name = tmp_path / "hpclaunch-spill-x"
    next_free = os.dup(0)
    os.close(next_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free + 1, hard))  # the directory can be opened, no lock in it
    try:
        with pytest.raises(OSError, match="Too many open files"):
            spill.make_directory(name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for descriptor in spill.make_directory(name):
        os.close(descriptor)
