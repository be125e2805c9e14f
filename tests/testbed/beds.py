"""A test bed as tests see it: commands run as an unprivileged user on the cluster's login host.

A bed owns the user's jobs and processes while a test uses it: :meth:`Bed.begin` and :meth:`Bed.end` frame each
test, and what a test leaves behind is a failure of that test and is cleaned up before the next. Test runs take
turns by a lock file, test by test, because queues, nodes, user and home directory are the same for all.

This module never ends a process by its name, only by an id that it looked up among the user's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from . import install

HERE = Path(__file__).resolve().parent
PATH = "/usr/local/bin:/usr/bin:/bin"
T = TypeVar("T")
PATIENCE = 30.0  # seconds that jobs and processes get to go away after a test


class BedError(RuntimeError):
    """A test bed does not do what it should; the text has the command and its output."""


class Result(NamedTuple):
    """A command that has ended."""

    exit_code: int
    stdout: str
    stderr: str


class Process(NamedTuple):
    """One process of the bed's user."""

    pid: int
    command_line: str


class Driver(subprocess.Popen[str]):
    """A long-running command of the bed's user.

    Signals go to the command itself: between it and us may stand the process that entered the namespace for it.
    """

    def __init__(self, argv: Sequence[str], *, forks: bool, **options: Any) -> None:
        super().__init__(argv, text=True, start_new_session=True, **options)
        self._forks = forks

    @property
    def command_pid(self) -> int:
        """The command's process id as this machine counts them."""
        if not self._forks:
            return self.pid
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        (pid,) = wait_until(lambda: children.read_text().split(), "the command to be started")
        return int(pid)

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command; do nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.command_pid, sig)

    def kill_session(self) -> None:
        """Kill the command and all that it started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def wait_until(condition: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
    """Return the first true value of ``condition()``; raise TimeoutError after ``timeout`` seconds."""
    end, pause = time.monotonic() + timeout, 0.002
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    return value


class Bed(ABC):
    """One cluster of the test beds. Its scripts are in the folder of its name."""

    name: str
    user_name: str  # of this bed alone: processes and files of that user belong to the bed
    nodes: tuple[str, ...]
    forks = False  # whether prefix() starts the command as a child

    def __init__(self) -> None:
        self.started_here = False
        self._users: IO[str]
        self._drivers: list[Driver] = []
        self._dark: set[str] = set()
        self._directories: list[Path] = []

    # Life of the bed

    def up(self) -> None:
        """Start what is not running; raise BedError if that fails."""
        self._users = Path(f"/run/lock/hpclaunch-{self.name}-users.lock").open("w")  # noqa: SIM115  # until down()
        fcntl.flock(self._users, fcntl.LOCK_SH)
        with self.alone():  # another run's test may have cut a node's power or frozen the master
            self.started_here = self._script("up.sh", "check", check=False).exit_code != 0
            self._script("up.sh")

    def down(self) -> None:
        """Stop the bed if this object started it and no other test run uses it."""
        with self._users:
            if self.started_here:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._script("down.sh")
            self.started_here = False

    def power_cut(self, node: str) -> None:
        """Kill everything on a node at once, as when its power fails."""
        self._dark.add(node)
        self._script("down.sh", node)

    def power_on(self, node: str) -> None:
        """Start a node again and wait until the batch system can use it."""
        self._script("up.sh")
        self._dark.discard(node)

    def _script(self, name: str, *arguments: str, check: bool = True) -> Result:
        argv = [str(HERE / self.name / name), *arguments]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=280
        )
        if check and done.returncode != 0:
            raise BedError(f"{' '.join(argv)}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")
        return Result(done.returncode, done.stdout, done.stderr)

    # The user

    @cached_property
    def user(self) -> pwd.struct_passwd:
        """The unprivileged user's entry in the password file."""
        return pwd.getpwnam(self.user_name)

    @property
    def home(self) -> Path:
        """The user's home directory, the same on all hosts."""
        return Path(self.user.pw_dir)

    @property
    def environment(self) -> dict[str, str]:
        """What a command gets as its environment, and nothing else."""
        return {
            "HOME": self.user.pw_dir,
            "USER": self.user_name,
            "LOGNAME": self.user_name,
            "SHELL": "/bin/bash",
            "PATH": PATH,
            "LANG": "C.UTF-8",
        }

    @cached_property
    def python(self) -> str:
        """A Python that has this checkout's project, NumPy and Dask, and that the user may run."""
        return str(install.environment() / "bin" / "python")

    @property
    def directory(self) -> Path:
        """This test's directory: the user's own, and the same on all hosts."""
        if not self._directories:
            self.new_directory()
        return self._directories[0]

    def new_directory(self, name: str = "test") -> Path:
        """Make another fresh directory of the user's; it is removed after the test."""
        parent = self.home / "hpclaunch-tests"
        number = len(self._directories)
        path = parent / f"{self.name}-{os.getpid()}-{time.monotonic_ns()}-{number}" / name
        for each in (parent, path.parent, path):
            each.mkdir(exist_ok=True, mode=0o755)
            os.chown(each, self.user.pw_uid, self.user.pw_gid)
        self._directories.append(path)
        return path

    # Commands

    @abstractmethod
    def prefix(self, env: Mapping[str, str] | None = None) -> list[str]:
        """Return the words that make root's command the user's on the login host."""

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a command to its end. ``env`` adds to the clean environment.

        :raises subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and has been killed.
        """
        driver = self.popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL)
        try:
            stdout, stderr = driver.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as late:
            driver.kill_session()
            stdout, stderr = driver.communicate()
            raise subprocess.TimeoutExpired(late.cmd, late.timeout, stdout, stderr) from None
        return Result(driver.returncode, stdout, stderr)

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[str] = subprocess.PIPE,
        stdout: int | IO[str] = subprocess.PIPE,
        stderr: int | IO[str] = subprocess.PIPE,
    ) -> Driver:
        """Start a command. ``kill()`` and ``send_signal()`` reach the command itself."""
        words = [*self.prefix(env), *map(str, argv)]
        driver = Driver(
            words, forks=self.forks, cwd=cwd or self.directory, stdin=stdin, stdout=stdout, stderr=stderr
        )
        self._drivers.append(driver)
        return driver

    def transport(self) -> BedTransport:
        """Return a transport that runs the batch system's commands as the user on the login host."""
        return BedTransport(self)

    # What is there

    @abstractmethod
    def jobs(self) -> list[str]:
        """Return the ids of all the user's jobs that are not over."""

    @abstractmethod
    def cancel_all(self) -> None:
        """Cancel all the user's jobs and wait until they are gone."""

    def processes(self, pattern: str = "") -> list[int]:
        """Return the ids of the user's processes, on all hosts, whose command line matches ``pattern``."""
        return [process.pid for process in self.process_table() if re.search(pattern, process.command_line)]

    def process_table(self) -> list[Process]:
        """Return the user's processes on all hosts of this bed; zombies are none."""
        found = []
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if path.stat().st_uid == self.user.pw_uid:
                    words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if words:
                        found.append(Process(int(path.name), words))
        return found

    def run_directories(self) -> list[Path]:
        """Return the directories of clusters that the user has."""
        return list((self.home / ".hpclaunch").glob("*/*"))

    # A test's frame

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other test runs off this bed: they share its queues, nodes and user."""
        with Path(f"/run/lock/hpclaunch-{self.name}-test.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def begin(self) -> None:
        """Have nothing of the user's running before a test; what there is, a run that was killed has left."""
        self._drivers.clear()
        self._directories.clear()
        if self.left_over():
            self.clean_up()
            wait_until(lambda: not self.left_over(), f"what was left on {self.name} by others to go away")

    def end(self) -> list[str]:
        """Return what the test left behind, one line each, and clean all of it up."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self.left_over(), "jobs and processes to end")
        found = self.left_over()
        for driver in self._drivers:
            driver.kill_session()
            for pipe in (driver.stdin, driver.stdout, driver.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            driver.wait(timeout=PATIENCE)
        if self._dark:
            self._script("up.sh")
            self._dark.clear()
        if found:
            self.clean_up()
        for path in self._directories:
            shutil.rmtree(path.parent, ignore_errors=True)
        return found

    def left_over(self) -> list[str]:
        """Return what there is of the user's, one line each."""
        lines = [f"process {pid}: {words}" for pid, words in self.process_table()]
        lines += [f"directory {path}" for path in self.run_directories()]
        if not lines:  # asking the batch system costs most, so last
            lines += [f"job {job}" for job in self.jobs()]
        return lines

    def clean_up(self) -> None:
        """Cancel, kill and remove all that there is of the user's, whether or not a test was to blame."""
        self.cancel_all()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in self.run_directories():
            shutil.rmtree(path, ignore_errors=True)


class BedTransport:
    """The local transport, with each command made the user's on the bed's login host."""

    def __init__(self, bed: Bed) -> None:
        # Imported late: this file must load for tests that do without it.
        from hpclaunch.transport.local import LocalTransport

        self._bed = bed
        self._inner = LocalTransport()

    async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Any:
        """Run a command; return a :class:`hpclaunch.batch.base.Completed` with the argv as given here."""
        import msgspec

        words = [*self._bed.prefix(), *argv]
        done = await self._inner.run(words, timeout=timeout, cwd=cwd or self._bed.directory)
        return msgspec.structs.replace(done, argv=tuple(argv))


class SlurmBed(Bed):
    """Slurm: the login host is this machine; the nodes have process tables of their own."""

    name = "slurm"
    user_name = "hpcslurm"
    nodes = ("node1", "node2", "node3", "node4")

    def prefix(self, env: Mapping[str, str] | None = None) -> list[str]:
        """Return the words that make root's command the user's."""
        ids = ["--reuid", self.user_name, "--regid", str(self.user.pw_gid), "--init-groups"]
        return ["setpriv", *ids, *_env(self.environment, env)]

    def jobs(self) -> list[str]:
        """Return ids such as ``53`` and ``53_1``."""
        return _ask(["squeue", "--noheader", "--array", "--user", self.user_name, "--format", "%i"]).split()

    def cancel_all(self) -> None:
        """Cancel all the user's jobs and wait until they are gone."""
        _ask(["scancel", "--user", self.user_name])
        wait_until(lambda: not self.jobs(), "scancel to end all jobs")


class SgeBed(Bed):
    """Grid Engine: each host, the login host too, has a network and a process table of its own."""

    name = "sge"
    user_name = "hpcsge"
    nodes = ("sge1", "sge2", "sge3", "sge4")
    head = "sgehead"
    addresses = {"sgehead": "10.77.0.1", **{f"sge{i}": f"10.77.0.1{i}" for i in range(1, 5)}}
    forks = True  # entering a process namespace needs a child

    def prefix(self, env: Mapping[str, str] | None = None) -> list[str]:
        """Return the words that make root's command the user's on the login host."""
        return [*self.on(self.head), "-u", self.user_name, *_env(self.environment, env)]

    def on(self, host: str) -> list[str]:
        """Return the words that make a command root's on another host of this bed."""
        return [str(HERE / "sge" / "on.sh"), host]

    @property
    def environment(self) -> dict[str, str]:
        """The common environment and the two variables of Grid Engine."""
        return {**super().environment, "SGE_ROOT": "/var/lib/gridengine", "SGE_CELL": "default"}

    def jobs(self) -> list[str]:
        """Return ids such as ``4711`` and ``4711.1``."""
        return list(self.states())

    def states(self) -> dict[str, str]:
        """Return the master's letters for each of the user's jobs, such as "qw", "t" and "r"."""
        text = _ask(
            [*self.on(self.head), *_env(self.environment, None), "qstat", "-u", self.user_name, "-g", "d", "-xml"]
        )
        found = {}
        for job in ElementTree.fromstring(text).iter("job_list"):  # noqa: S314  # from our own qstat
            number, task = job.findtext("JB_job_number", ""), job.findtext("tasks")
            found[f"{number}.{task}" if task else number] = job.findtext("state", "")
        return found

    def cancel_all(self) -> None:
        """Cancel all the user's jobs and wait until they are gone; force those whose host is gone."""
        self._qdel()
        try:
            wait_until(lambda: not self.jobs(), "qdel to end all jobs")
        except TimeoutError:
            self._qdel("-f")
            wait_until(lambda: not self.jobs(), "qdel -f to end all jobs")

    def _qdel(self, *options: str) -> None:
        if self.jobs():
            argv = [*self.on(self.head), *_env(self.environment, None), "qdel", *options, "-u", self.user_name]
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)


def _env(base: Mapping[str, str], more: Mapping[str, str] | None) -> list[str]:
    return ["env", "-i", *(f"{key}={value}" for key, value in {**base, **(more or {})}.items())]


def _ask(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise BedError(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
