"""How ranks tell each other a little at the start: over MPI, through private files, or, for one rank, not at all.

A :class:`Gang` has two collective operations, which every rank calls in the same order, with a time limit. Waiting
ranks sleep between looks: MPI's own blocking calls would keep each waiting rank's core busy while the head starts.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from hpclaunch import trusted
from hpclaunch.errors import SiteError

#: Seconds between two looks while waiting: short at first.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02
#: Seconds that ranks wait for one another after a signal to end.
HURRIED_SECONDS = 10.0
#: Seconds that the others may take to read the last of what was said, before it is removed.
_CLOSE_SECONDS = 10.0


def _never() -> bool:
    return False


class RanksMissingError(SiteError):
    """Not all ranks have come in time."""


class Gang(Protocol):
    """The ranks of one launch, as one of them sees them."""

    rank: int
    size: int
    by: str  # what they talk over, for messages

    def allgather(self, mine: bytes, timeout: float, is_hurried: Callable[[], bool] = _never) -> list[bytes]:
        """Return what each rank has said, in their order.

        :param is_hurried: once this is true, ``HURRIED_SECONDS`` must do.
        :raises RanksMissingError: not all have come within ``timeout`` seconds.
        """

    def broadcast(self, data: bytes | None, root: int, timeout: float) -> bytes:
        """Return what rank ``root`` says; the others' ``data`` is not looked at.

        :raises RanksMissingError: it has not said it within ``timeout`` seconds.
        """

    def part(self, timeout: float, is_hurried: Callable[[], bool] = _never) -> bool:
        """The end: return True when all ranks have come to it, False after ``timeout`` seconds.

        :param is_hurried: once this is true, ``HURRIED_SECONDS`` must do.
        """

    def abort(self, code: int) -> None:
        """End all ranks at once if that can be done; else return."""

    def close(self) -> None:
        """The start is over: forget what was said."""


class Alone:
    """A single rank."""

    rank = 0
    size = 1
    by = "one process"

    def allgather(self, mine: bytes, timeout: float, is_hurried: Callable[[], bool] = _never) -> list[bytes]:
        """See :class:`Gang`."""
        return [mine]

    def broadcast(self, data: bytes | None, root: int, timeout: float) -> bytes:
        """See :class:`Gang`."""
        return data or b""

    def part(self, timeout: float, is_hurried: Callable[[], bool] = _never) -> bool:
        """There is no other rank."""
        return True

    def abort(self, code: int) -> None:
        """There is no other rank."""

    def close(self) -> None:
        """There is nothing to forget."""


class MPIGang:
    """Ranks of an MPI communicator.

    :param comm: an intracommunicator of mpi4py. Its ranks must not use it for anything else meanwhile.
    """

    by = "MPI"

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self._comm = comm
        self._byte = MPI.BYTE
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def allgather(self, mine: bytes, timeout: float, is_hurried: Callable[[], bool] = _never) -> list[bytes]:
        """See :class:`Gang`."""
        lengths = bytearray(8 * self.size)
        self._wait(
            self._comm.Iallgather(self._buffer(len(mine).to_bytes(8, "big")), self._buffer(lengths)),
            timeout,
            is_hurried,
        )
        sizes = [int.from_bytes(lengths[i : i + 8], "big") for i in range(0, len(lengths), 8)]
        starts = [sum(sizes[:i]) for i in range(self.size)]
        everything = bytearray(sum(sizes))
        self._wait(
            self._comm.Iallgatherv(self._buffer(mine), [everything, sizes, starts, self._byte]),
            timeout,
            is_hurried,
        )
        return [bytes(everything[start : start + size]) for start, size in zip(starts, sizes, strict=True)]

    def broadcast(self, data: bytes | None, root: int, timeout: float) -> bytes:
        """See :class:`Gang`."""
        said = (data or b"") if self.rank == root else b""
        length = bytearray(len(said).to_bytes(8, "big"))
        self._wait(self._comm.Ibcast(self._buffer(length), root), timeout)
        whole = bytearray(said) if self.rank == root else bytearray(int.from_bytes(length, "big"))
        self._wait(self._comm.Ibcast(self._buffer(whole), root), timeout)
        return bytes(whole)

    def part(self, timeout: float, is_hurried: Callable[[], bool] = _never) -> bool:
        """See :class:`Gang`. So ranks come to MPI's own end together, and none is killed for being late."""
        return _until(self._comm.Ibarrier().Test, timeout, is_hurried)

    def abort(self, code: int) -> None:
        """End all ranks."""
        self._comm.Abort(code)

    def close(self) -> None:
        """Nothing is kept; MPI itself is ended by mpi4py, when Python ends."""

    def _buffer(self, data: bytes | bytearray) -> list[Any]:
        return [data, self._byte]

    def _wait(self, request: Any, timeout: float, is_hurried: Callable[[], bool] = _never) -> None:
        if not _until(request.Test, timeout, is_hurried):
            raise RanksMissingError(
                f"not all of the {self.size} ranks have come to initialize() within {timeout:g} s. Has one ended "
                "before, or does it not call it? Raise start-timeout if they only need longer"
            )


class FileGang:
    """Ranks that share a private directory: for launches without MPI.

    :param directory: made by the rank that comes first, with mode 0700; removed by rank 0 in :meth:`close`. No
        other launch may use it.
    """

    by = "files"

    def __init__(self, directory: Path, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._directory = directory
        self._round = 0
        self._is_closed = False
        self._opened = _open_meeting_place(directory)

    def allgather(self, mine: bytes, timeout: float, is_hurried: Callable[[], bool] = _never) -> list[bytes]:
        """See :class:`Gang`."""
        names = [f"{self._round}.{rank}" for rank in range(self.size)]
        self._write(names[self.rank], mine)
        if self.rank == 0:  # one reads all, so that not all have to
            self._wait_for(names, timeout, is_hurried)
            self._write(f"{self._round}.all", _join([self._read(name) for name in names]))
        self._wait_for([f"{self._round}.all"], timeout, is_hurried)
        said = _split(self._read(f"{self._round}.all"))
        self._round += 1
        return said

    def broadcast(self, data: bytes | None, root: int, timeout: float) -> bytes:
        """See :class:`Gang`."""
        name = f"{self._round}.word"
        self._round += 1
        if self.rank == root:
            self._write(name, data or b"")
            return data or b""
        self._wait_for([name], timeout)
        return self._read(name)

    def part(self, timeout: float, is_hurried: Callable[[], bool] = _never) -> bool:
        """The program that started the ranks waits for all of them; there is nothing to be done together."""
        return True

    def abort(self, code: int) -> None:
        """There is no way to end the others; they have time limits."""

    def close(self) -> None:
        """Remove the directory, once every rank has read all in it. Again is no error."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._forget()
        finally:
            os.close(self._opened)

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            self._write(f"{self._round}.done.{self.rank}", b"")
        if self.rank == 0:
            names = [f"{self._round}.done.{rank}" for rank in range(self.size)]
            with contextlib.suppress(SiteError):
                self._wait_for(names, _CLOSE_SECONDS)
            with contextlib.suppress(OSError):
                if self._is_the_same():
                    shutil.rmtree(self._directory, ignore_errors=True)

    def _write(self, name: str, data: bytes) -> None:
        trusted.write_file(self._directory / name, data, below=self._opened)

    def _read(self, name: str) -> bytes:
        return trusted.read_below(self._opened, name, self._directory / name)

    def _names(self) -> set[str]:
        try:  # by its path, and not by the descriptor, for which a file server is not asked again
            return set(os.listdir(self._directory)) if self._is_the_same() else set()
        except OSError:
            return set()

    def _is_the_same(self) -> bool:
        """Say whether the directory under this path is still ours: names alone are taken from it, no content."""
        return os.path.samestat(os.stat(self._directory), os.fstat(self._opened))

    def _wait_for(self, names: list[str], timeout: float, is_hurried: Callable[[], bool] = _never) -> None:
        wanted = set(names)
        # Listing asks the file server; looking for one name may be answered by an old memory that it is not there.
        if not _until(lambda: wanted <= self._names(), timeout, is_hurried):
            missing = [name.rpartition(".")[2] for name in names if name not in self._names()]
            who = f"rank{'s' if len(missing) > 1 else ''} {', '.join(missing[:20])}"
            if not missing[0].isdigit():
                who = "the others"
            raise RanksMissingError(
                f"{who} did not come within {timeout:g} s (rank {self.rank} of {self.size} waited in "
                f"{self._directory}). Did they end, or see another file system? Raise start-timeout if they only "
                "need longer"
            )


def _open_meeting_place(directory: Path) -> int:
    """Make the directory in which ranks meet, if no other has, and return its descriptor.

    :raises SiteError: it can't be made, or others could put theirs in its place.
    """
    try:
        trusted.make_base(directory.parent)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        return trusted.open_directory(directory)
    except OSError as error:
        raise SiteError(
            f"{directory}, in which the ranks are to meet, can't be made: {error.strerror}. Set "
            "$HPCLAUNCH_RUN_DIRECTORY to a directory of yours on a file system that the nodes share"
        ) from None


@contextlib.contextmanager
def time_limit(seconds: float, text: str) -> Iterator[None]:
    """Kill this process, with a message, if the block takes longer: it waits inside a library, deaf to Python.

    MPI starts when it is imported, and waits for all ranks, also for one that has ended before it came so far.
    """
    reader, writer = os.pipe()
    watcher = os.fork()
    if not watcher:
        os.close(writer)
        if not select.select([reader], [], [], seconds)[0]:
            os.write(2, f"hpclaunch: {text}; has one ended before?\n".encode())
            os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    os.close(reader)
    try:
        yield
    finally:
        os.close(writer)
        os.waitpid(watcher, 0)


def _until(is_done: Callable[[], bool], timeout: float, is_hurried: Callable[[], bool] = _never) -> bool:
    """Wait until something holds; return whether it did within ``timeout`` seconds, fewer if that is hurried."""
    until = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while not is_done():
        now = time.monotonic()
        if now > until:
            return False
        if is_hurried():
            until, is_hurried = min(until, now + HURRIED_SECONDS), _never
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 1.3)
    return True


def _join(parts: list[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _split(data: bytes) -> list[bytes]:
    parts = []
    while data:
        size = 8 + int.from_bytes(data[:8], "big")
        parts.append(data[8:size])
        data = data[size:]
    return parts
