"""Files that are believed: opened below a directory that is this user's alone, and looked at by descriptor.

What a head says of itself, who may talk to a cluster, and results on disk are read by other processes of the same
user, which act on them. Wherever another user can write, he could put his own in their place. So:

* A *base* directory, in which private directories are made, is walked to from the root: only this user and the
  system may own a directory on the way, or be able to write to it, unless its sticky bit keeps others from what is
  not theirs.
* A *private* directory is this user's and has mode 0700. It is opened once, and its files are opened below that
  descriptor: a path could lead elsewhere a moment later.
* A *private* file is a regular file of this user's that no other user can read or write, and no link.

Every refusal names what to do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hpclaunch import file_errors
from hpclaunch.errors import SiteError

#: Symbolic links on the way to a base directory.
_MOST_LINKS = 40
#: Bytes of a file that is read whole; the largest holds the configuration of a head.
_MOST_BYTES = 16 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ELSEWHERE = (
    "or choose a directory of yours (shared-temp-directory, HPCLAUNCH_RUN_DIRECTORY; local-directory, TMPDIR)"
)


# --- base directories


def make_base(path: Path) -> list[Path]:
    """Make a base directory, if it is not there, and check it; what is made has mode 0700, whatever the umask.

    :return: the directories that were made, the uppermost first.
    :raises OSError: it can't be made.
    :raises SiteError: others could replace what is put there.
    """
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    check_base(there)  # before anything is made
    made = make_parents(path)
    try:
        check_base(path)
    except BaseException:
        unmake(made)
        raise
    return made


def make_parents(directory: Path, *, mode: int = 0o700) -> list[Path]:
    """Make a directory and those above it that are missing, all of them or none; return those that were made.

    :param mode: 0700 whatever the umask, or what the umask narrows.
    :raises OSError: one can't be made.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            try:
                path.mkdir(mode=mode)
            except FileExistsError:  # another process of ours was quicker
                continue
            made.append(path)
            if mode == 0o700:
                path.chmod(mode)
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    except OSError:
        unmake(made)
        raise
    return made


def unmake(made: list[Path]) -> None:
    """Remove directories that :func:`make_parents` has made, as far as nothing is in them."""
    for path in reversed(made):
        with contextlib.suppress(OSError):  # another process has put something there
            path.rmdir()


def check_base(path: Path) -> None:
    """Raise SiteError if another user could replace what this one has in a directory: he owns it or one above it,
    or may write there without a sticky bit.

    :raises OSError: the directory is not there, or can't be looked at.
    """
    todo = list(reversed(path.absolute().parts[1:]))
    here, links = "/", 0
    directory = os.open("/", _STEP)
    try:
        _check_step(here, os.fstat(directory))
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            step = os.open(name, _STEP, dir_fd=directory)
            info = os.fstat(step)
            where = os.path.join(here, name)
            if stat.S_ISLNK(info.st_mode):
                target = os.readlink("", dir_fd=step)
                os.close(step)
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(f"{path}: too many symbolic links")
                _check_owner(where, info)
                todo += reversed(target.split("/"))
                if target.startswith("/"):
                    os.close(directory)
                    directory, here = os.open("/", _STEP), "/"
                continue
            os.close(directory)
            directory, here = step, os.path.normpath(where) if name == ".." else where
            if not stat.S_ISDIR(info.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), where)
            _check_step(here, info)
    finally:
        os.close(directory)


def _check_step(where: str, info: os.stat_result) -> None:
    _check_owner(where, info)
    writers = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writers == stat.S_IWGRP and _is_own_group(info.st_gid):
        return
    if writers and not info.st_mode & stat.S_ISVTX:
        who = "all users" if writers & stat.S_IWOTH else f"group {_group_name(info.st_gid)}"
        mine = info.st_uid == os.geteuid()
        fix = f"Run: chmod +t {where}" if mine else f"Have {_user_name(info.st_uid)} run: chmod +t {where}"
        raise SiteError(
            f"{where} can be written by {who} (mode {stat.S_IMODE(info.st_mode):04o}) and has no sticky bit: "
            "others could put files of theirs in the place of yours, which would then run as you. "
            f"{fix}, {_ELSEWHERE}"
        )


def _check_owner(where: str, info: os.stat_result) -> None:
    if info.st_uid not in (os.geteuid(), *_system_users()):
        raise SiteError(
            f"{where} belongs to {_user_name(info.st_uid)}, who could put files of his own in the place of yours; "
            f"nothing is kept there. Have the administrator own it, {_ELSEWHERE}"
        )


@cache
def _system_users() -> tuple[int, ...]:
    """Return who may own directories above ours: root, whose files a container may show with another owner."""
    try:
        first, _, count = Path("/proc/self/uid_map").read_text().split()[:3]
        if int(first) or int(count) < 65536:  # not all users are to be seen here
            return (0, int(Path("/proc/sys/kernel/overflowuid").read_text()))
    except (OSError, ValueError):
        pass
    return (0,)


@cache
def _is_own_group(gid: int) -> bool:
    """Say whether a group is this user's alone: many systems give each user one of the same name."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return gid == 0 or (
        group.gr_name == user.pw_name and gid == user.pw_gid and set(group.gr_mem) <= {user.pw_name}
    )


# --- private directories and files


def open_directory(path: Path) -> int:
    """Open a private directory, and return its descriptor.

    :raises OSError: it is not there, or can't be opened.
    :raises SiteError: it is not this user's alone; the text says what to do.
    """
    directory = os.open(path, _DIRECTORY)
    try:
        _check_private(path, os.fstat(directory))
    except BaseException:
        os.close(directory)
        raise
    return directory


@contextlib.contextmanager
def private_directory(path: Path) -> Iterator[int]:
    """Open a private directory for the time of a block; see :func:`open_directory`."""
    directory = open_directory(path)
    try:
        yield directory
    finally:
        os.close(directory)


def make_directory(name: str, *, below: int | None = None) -> int:
    """Make a private directory that is not there yet, and return its descriptor.

    :param below: descriptor of the directory that it is made in; None: the name is a whole path.
    :raises OSError: it can't be made.
    :raises SiteError: what is there under its name, a moment later, is another's.
    """
    os.mkdir(name, 0o700, dir_fd=below)
    directory = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=below)
    try:
        info = os.fstat(directory)
        if info.st_uid == os.geteuid():
            os.fchmod(directory, 0o700)  # a strict umask may have narrowed it
        _check_private(Path(name), os.fstat(directory))
    except BaseException:
        os.close(directory)
        raise
    return directory


def open_file(directory: int, name: str, path: Path) -> int:
    """Open a private file below a directory's descriptor for reading, and return its descriptor.

    :param path: how errors call it.
    :raises OSError: it is not there, or can't be opened.
    :raises SiteError: it is not this user's alone, a symbolic link, or no file.
    """
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise SiteError(
            f"{path} is a symbolic link, which we never make; it will not be used. Remove it"
        ) from None
    try:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode):
            raise SiteError(f"{path} is no regular file; it will not be used. Remove it")
        _check_private(path, info)
    except BaseException:
        os.close(file)
        raise
    return file


def read_file(path: Path) -> bytes:
    """Return the content of a private file in a private directory.

    :raises OSError: it is not there, or can't be read.
    :raises SiteError: it, or its directory, is not this user's alone, or it is a symbolic link.
    """
    with private_directory(path.parent) as directory:
        return read_below(directory, path.name, path)


def read_below(directory: int, name: str, path: Path) -> bytes:
    """Return the content of a private file below a directory's descriptor; see :func:`open_file`."""
    with os.fdopen(open_file(directory, name, path), "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise SiteError(f"{path} is larger than {_MOST_BYTES >> 20} MiB; it is none of our files")
    return data


def write_file(path: Path, data: bytes, *, mode: int = 0o600, below: int | None = None) -> None:
    """Write a private file whole: another process sees all of it or nothing.

    :param below: descriptor of its directory; None: the path says where it is.
    :raises OSError: it can't be written; nothing of it is left.
    """
    final: str | Path = path if below is None else path.name
    part = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished: str | Path = part if below is None else part.name
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unfinished, dir_fd=below)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=below)
    try:
        with file_errors.naming(path), os.fdopen(fd, "wb") as file:
            file.write(data)
        os.rename(unfinished, final, src_dir_fd=below, dst_dir_fd=below)
    except BaseException:  # such as a full disk
        with contextlib.suppress(OSError):
            os.unlink(unfinished, dir_fd=below)
        raise


def _check_private(path: Path, info: os.stat_result) -> None:
    mode = stat.S_IMODE(info.st_mode)
    if info.st_uid != os.geteuid():
        raise SiteError(
            f"{path} belongs to {_user_name(info.st_uid)}, not to you ({_user_name(os.geteuid())}); nothing that "
            "it says is believed. Has another user put it there? If you have made it yourself, the file system "
            "gives what you make to another user (root_squash): set shared-temp-directory to a directory elsewhere"
        )
    if mode & 0o077:
        what = "written" if mode & 0o022 else "read"
        raise SiteError(
            f"{path} can be {what} by other users (mode {mode:04o}), so it will not be used: it must be yours "
            f"alone. Run: chmod go-rwx {path}"
        )


def _user_name(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"user {uid}"


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
