"""What the user is told of errors of the file system: which file, how much room there is, what to do."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hpclaunch import file_errors

from .small_disk import small_disk


def error_of(number: int, path: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        disk.fill()
        with pytest.raises(OSError, match="No space") as caught, file_errors.naming(disk.path / "file"):
            (disk.path / "file").write_bytes(b"x")
        told = file_errors.told(caught.value)
        assert told.startswith(
            f"no space left on device: {disk.path}/file (0 B of 2.0 MiB are free). Remove files"
        )
        assert f"The file system of {disk.path} is full" in file_errors.note_of_full_disk(disk.path)
        disk.empty()
        assert file_errors.note_of_full_disk(disk.path / "not" / "there") == ""


def test_the_space_is_that_of_the_nearest_directory_that_is_there(tmp_path: Path) -> None:
    assert "are free" in file_errors.space(tmp_path / "a" / "b")


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENFILE, errno.ESTALE, errno.EIO]
)
def test_each_kind_names_the_file_and_says_what_to_do(number: int, tmp_path: Path) -> None:
    told = file_errors.told(error_of(number), tmp_path)
    words = os.strerror(number)
    assert told.startswith(f"{words[0].lower()}{words[1:]}: {tmp_path}")
    assert file_errors.advice(error_of(number)) in told != ""


def test_too_many_open_files(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert f" files open of at most {limit}" in file_errors.told(error_of(errno.EMFILE, tmp_path))


def test_a_limit_of_file_sizes(tmp_path: Path) -> None:
    text = (
        "import pathlib, resource\nfrom hpclaunch import file_errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n"
        f"    with file_errors.naming({str(tmp_path / 'file')!r}):\n"
        f"        pathlib.Path({str(tmp_path / 'file')!r}).write_bytes(b'x' * 1000)\n"
        "except OSError as error:\n    print(file_errors.told(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"file too large: {tmp_path}/file (files may have 100 bytes). Raise the limit")


def test_a_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    told = file_errors.in_words(error_of(errno.ENOENT), tmp_path / "gone" / "deep" / "file")
    assert told.endswith(f"(there is no {tmp_path}/gone)")


def test_an_error_without_number_or_file_stays_as_it_is() -> None:
    assert file_errors.told(OSError("it is another file")) == "it is another file."
