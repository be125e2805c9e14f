"""What an error of the file system means for the user: what is missing, how much of it, and what to do.

``OSError`` says "No space left on device" and no more. The functions here add what was measured at that moment:
the space and the inodes that are free, the limits of the process, the first directory on the path that is gone or
closed. Both halves use this module; it imports nothing of either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT}


def in_words(error: OSError, path: str | os.PathLike[str] | None = None) -> str:
    """Return an error as one clause: ``no space left on device: /path (0 B of 1.0 MiB are free)``.

    :param path: the file or directory concerned; None is the one that the error names.
    """
    where = path if path is not None else error.filename
    words = error.strerror or str(error)
    words = words[:1].lower() + words[1:]
    if where is None:
        return words
    place = Path(os.fsdecode(where))
    detail = _DETAILS.get(error.errno or 0, _no_detail)(place)
    return f"{words}: {place}" + (f" ({detail})" if detail else "")


def advice(error: OSError) -> str:
    """Return what the user does next, a sentence; empty if that is not known."""
    return _ADVICE.get(error.errno or 0, "")


def told(error: OSError, path: str | os.PathLike[str] | None = None) -> str:
    """Return :func:`in_words` and :func:`advice` as sentences."""
    return f"{in_words(error, path).removesuffix('.')}. {advice(error)}".strip()


def is_full(error: OSError) -> bool:
    """Say whether the disk or the user's quota is used up."""
    return error.errno in _FULL


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have errors of a block name a file: what fails in ``write`` and ``close`` names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


def space(path: Path) -> str:
    """Return the space that is free where a path is or would be, in words; empty if that can't be told."""
    try:
        info = os.statvfs(_existing(path))
    except OSError:
        return ""
    if not info.f_blocks:
        return ""
    free, size = info.f_bavail * info.f_frsize, info.f_blocks * info.f_frsize
    text = f"{_rounded(free)} of {_rounded(size)} are free"
    if info.f_files and not info.f_favail:
        text += f", and none of {info.f_files} inodes: there are too many files"
    return text


def note_of_full_disk(path: Path, least: int = 64 << 10) -> str:
    """Return a sentence if fewer than ``least`` bytes, or no inodes, are free where a path is; else nothing."""
    try:
        info = os.statvfs(_existing(path))
    except OSError:
        return ""
    has_inodes = bool(info.f_favail) or not info.f_files
    if not info.f_blocks or (info.f_bavail * info.f_frsize >= least and has_inodes):
        return ""
    return f"The file system of {path} is full ({space(path)}). {_ADVICE[errno.ENOSPC]}"


def _rounded(size: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size} B"


def _existing(path: Path) -> Path:
    """Return the nearest directory above a path, or the path itself, that is there."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            os.stat(place)
            return place
    return Path("/")


def _open_files(path: Path) -> str:
    try:
        count = len(os.listdir("/proc/self/fd"))
    except OSError:  # the listing needs a descriptor, too
        return f"this process may have {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files open, and has them"
    return f"this process has {count} files open of at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"


def _file_size(path: Path) -> str:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return "" if limit == resource.RLIM_INFINITY else f"files may have {limit} bytes"


def _missing(path: Path) -> str:
    """Return the first directory on the way that is gone."""
    missing = [place for place in reversed(path.parents) if not os.path.lexists(place)]
    return f"there is no {missing[0]}" if missing else ""


def _closed(path: Path) -> str:
    """Return owner and mode of the first directory on the way that this user can't pass, or of the last one."""
    closed, info = Path("/"), os.stat("/")
    for place in reversed((path, *path.parents)):
        try:
            info = os.stat(place)
        except OSError:
            break
        closed = place
        if stat.S_ISDIR(info.st_mode) and not os.access(place, os.X_OK):
            break
    mode = stat.S_IMODE(info.st_mode)
    return f"{closed} has owner {info.st_uid} and mode {mode:04o}, and you are user {os.geteuid()}"


def _no_detail(path: Path) -> str:
    return ""


_DETAILS: dict[int, Callable[[Path], str]] = {
    errno.ENOSPC: space,
    errno.EDQUOT: space,
    errno.EMFILE: _open_files,
    errno.EFBIG: _file_size,
    errno.ENOENT: _missing,
    errno.EACCES: _closed,
}
_ADVICE = {
    errno.ENOSPC: "Remove files there, or choose another file system.",
    errno.EDQUOT: "Your quota is used up (`quota -s` or your site's command shows it): remove files, or choose "
    "another file system.",
    errno.EROFS: "The file system is mounted read-only: choose another directory, or ask the administrator.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "The whole host has too many files open: ask the administrator.",
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f).",
    errno.EACCES: "Change its mode (chmod), or choose a directory of yours.",
    errno.EPERM: "Choose a directory of yours.",
    errno.ENOENT: "Was it removed, or is its file system not mounted on this host?",
    errno.ESTALE: "Its file server does not know it any more: it was removed, or must be mounted again.",
    errno.EIO: "The disk or the file server has failed: ask the administrator.",
}
