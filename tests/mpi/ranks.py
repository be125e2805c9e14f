"""Runs programs as ranks, under a real mpirun or without MPI, and notes the exit code of each rank."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.testbed import install

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
#: Environments with one MPI each, beside that of the project; they never change once they are there.
BASE = ROOT / ".venv-mpi"
#: Options that make mpirun start more ranks than there are cores, also as root.
OPTIONS = {"openmpi": ["--allow-run-as-root", "--oversubscribe"], "mpich": []}


class Outcome(NamedTuple):
    """A launch that has ended."""

    exit_code: int
    codes: dict[int, int]  # exit code by rank; of those that lived to have one
    said: dict[int, str]  # by rank, each in a file of its own: what several ranks print may come mixed
    output: str
    errors: str
    left: list[str]  # files and processes that are still there


def mpi_environment(kind: str) -> Path:
    """Return an environment with mpi4py and an MPI ("openmpi", "mpich") from the package index."""
    path = BASE / f"{kind}-{sys.version_info[0]}.{sys.version_info[1]}"
    BASE.mkdir(exist_ok=True)
    with (BASE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", path], check=True)
            pip = [sys.executable, "-m", "pip", "--python", path / "bin" / "python", "install", "--quiet"]
            environment = {**os.environ, "HOME": install.HOME}
            subprocess.run([*pip, "mpi4py>=4.0", kind], check=True, env=environment, timeout=600)
            (path / "complete").touch()
    return path


class Launcher:
    """Starts programs on several ranks, in a directory of their own.

    :param kind: "openmpi", "mpich", or "none": `hpclaunch run`.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.may_leave = ""
        self.command = [sys.executable, "-m", "hpclaunch"]
        self.current: Path | None = None  # the current directory of the ranks, if it is not that of the script
        self.directory = directory
        self.python = str(mpi_environment(kind) / "bin" / "python") if kind != "none" else sys.executable
        (directory / "tmp").mkdir()
        for name in ("codes", "said"):
            (directory / name).mkdir()

    def start(self, body: str, ranks: int, arguments: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start a program; it runs in a session of its own, as a batch system would have it."""
        for path in [*(self.directory / "codes").iterdir(), *(self.directory / "said").iterdir()]:
            path.unlink()
        script = self.directory / "program.py"
        script.write_text(textwrap.dedent(body))
        note = [self.python, "-I", str(HERE / "note_exit.py"), str(self.directory / "codes")]
        if self.kind == "none":
            command = [*self.command, "run", "-n", str(ranks), str(script), *arguments]
        else:
            mpirun = str(Path(self.python).parent / "mpiexec")
            command = [mpirun, "-n", str(ranks), *OPTIONS[self.kind], *note, self.python, str(script), *arguments]
        site = next(Path(sys.prefix).glob("lib/python3*/site-packages"))
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{site}",
            "TMPDIR": str(self.directory / "tmp"),
            "SAID": str(self.directory / "said"),
            "HPCLAUNCH_RUN_DIRECTORY": str(self.directory / "run"),
            "OMPI_MCA_mpi_yield_when_idle": "1",
        }
        return subprocess.Popen(
            command,
            cwd=self.current or self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 90.0) -> Outcome:
        """Wait for the end of a launch; one that does not come to it is killed, and the test fails."""
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            raise AssertionError(f"it hangs; so far it said\n{output}\n{errors}") from None
        codes = {int(path.name): int(path.read_text()) for path in (self.directory / "codes").iterdir()}
        said = {int(path.name): path.read_text() for path in (self.directory / "said").iterdir()}
        return Outcome(process.returncode, codes, said, output, errors, self.left_over())

    def run(self, body: str, ranks: int, arguments: Sequence[str] = (), timeout: float = 90.0) -> Outcome:
        """Run a program to its end."""
        return self.finish(self.start(body, ranks, arguments), timeout)

    def left_over(self, patience: float = 10.0) -> list[str]:
        """Return what is still there of our files and processes, after they had some time to go.

        The files of a rank that was killed are for the next start on its node to remove.
        """
        until = time.monotonic() + patience
        while (left := self._left_over()) and time.monotonic() < until:
            if self.may_leave and all(self.may_leave in one for one in left):
                break
            time.sleep(0.05)
        return left

    def _left_over(self) -> list[str]:
        found = [str(path) for path in (self.directory / "tmp").glob("*mpi*-*") if path.is_dir()]
        found += [str(path) for path in self.directory.glob("launches/*")]
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.directory) in words:
                found.append(words)
        return found
