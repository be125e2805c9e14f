"""What one rank has started, and how it waits for the end of it.

A rank never runs tasks or the scheduler itself: it starts the head, a supervisor of workers, or both, as processes
of their own. So a task that crashes does not take its rank down, which under ``mpirun`` would end the whole job;
nothing of MPI is in a worker; and the rank is free to hear signals. It imports next to nothing for that.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpclaunch import rundir
from hpclaunch.errors import SiteError
from hpclaunch.marks import PREFIX, mark, remove_dead
from hpclaunch.mpi.launch import without_rank
from hpclaunch.mpi.signals import EndSignals
from hpclaunch.safepath import module_command
from hpclaunch.worker.restarts import pause

if TYPE_CHECKING:
    from hpclaunch.head.launch import HeadProcess
    from hpclaunch.mpi.roles import Role

#: Seconds that a rank which was told to end by a signal waits for the script's rank to end the cluster in order.
GRACE_SECONDS = 10.0
#: Seconds that processes may take to end after they were told to.
_END_SECONDS = 10.0

#: Seconds in which workers that are started again must have reached the head.
_RESTART_SECONDS = 60.0


class _Waiting(NamedTuple):
    """A process that was started before it was known what it is to do."""

    process: subprocess.Popen[bytes]
    ready: int  # file descriptor at which it says that it is ready
    its_end: int  # the number of the other end, in that process


class Part:
    """The processes and files that this rank has for the cluster."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self._told: set[int] = set()  # the process ids of those of which it was told how they ended
        self._order: tuple[Path, str, list[str], float] | None = None  # what the supervisor was started with
        self._restarts = 0  # of it
        self._secret = os.urandom(16).hex()  # this rank's pass, which all its supervisors show
        self.head: HeadProcess | None = None
        self.supervisor: subprocess.Popen[bytes] | None = None
        self._waiting: dict[str, _Waiting] = {}  # started early, not yet told what to do
        self._directories: list[Path] = []
        self.signals = EndSignals()

    def keep(self, name: str, files: dict[str, bytes]) -> Path:
        """Put files into a private directory of this node, and return it; it is removed at the end.

        What ranks have left here that were killed is removed now.
        """
        import tempfile

        base = Path(tempfile.gettempdir())
        remove_dead(base)
        directory = rundir.create(rundir.choose(base, PREFIX + name), is_listed=False)
        self._directories.append(directory)
        mark(directory, os.getpid())
        for file, data in files.items():
            rundir.write_file(directory / file, data)
        return directory

    def start_early(self, role: Role) -> None:
        """Start the processes that this role will need: they import what they need while the ranks meet."""
        for what, is_wanted in (("head", role.head), ("worker", role.worker)):
            if is_wanted:
                with contextlib.suppress(OSError):  # then it fails when it is needed, and that is told
                    self._waiting[what] = self._start_waiting(what)

    def _start_waiting(self, what: str) -> _Waiting:
        reader, writer = os.pipe()
        try:
            process = subprocess.Popen(
                [*module_command(sys.executable, f"hpclaunch.{what}"), "--ordered"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if what == "head" else None,
                pass_fds=(writer,),
                env=without_rank(os.environ),
                start_new_session=True,  # signals come to the rank, which decides
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return _Waiting(process, reader, writer)

    def take_waiting_head(self) -> subprocess.Popen[bytes] | None:
        """Return a head that was started early, if there is one."""
        head = self._waiting.pop("head", None)
        if head is None:
            return None
        os.close(head.ready)
        return head.process

    def dismiss(self) -> None:
        """End what was started early and is not needed."""
        while self._waiting:
            _, (process, ready, _) = self._waiting.popitem()
            os.close(ready)
            assert process.stdin is not None
            process.stdin.close()
            process.kill()
            process.wait()

    def start_supervisor(self, directory: Path, job: str, arguments: list[str], timeout: float) -> str:
        """Start this rank's workers; return why that failed, empty if they reached the head.

        :param directory: holds ``cluster.json`` and the worker's credentials.
        """
        self._order = directory, job, arguments, timeout
        try:
            waiting = self._waiting.pop("worker", None) or self._start_waiting("worker")
        except OSError as error:
            return f"its workers can't be started: {error}"
        self.supervisor, reader, its_end = waiting
        words = ["--directory", str(directory), "--job", job, *arguments, "--own-directory"]
        words += ["--ready-fd", str(its_end), "--rank-pid", str(os.getpid()), "--secret", self._secret]
        assert self.supervisor.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, which is seen below
            self.supervisor.stdin.write(json.dumps(words).encode() + b"\n")
            self.supervisor.stdin.close()
        with os.fdopen(reader, "rb") as pipe:
            ready, _, _ = select.select([pipe], [], [], timeout)
            said = pipe.read().decode(errors="replace") if ready else ""
        if not ready:
            return f"its workers did not reach the head within {timeout:g} s"
        if said == "ready":
            return ""
        return said or f"its workers ended with exit code {self.supervisor.wait()}"

    # --- the end

    def serve(self) -> int:
        """Wait until all that this rank has started has ended; return the rank's exit code.

        What has ended by itself is told, and 1 is returned then, once the rank's other part has ended too.

        A signal to end does not end it at once: the script's rank has heard it too, and ends the cluster in order.
        If that takes longer than ``GRACE_SECONDS``, this rank ends its own part.
        """
        code = self._serve()
        self.remove_files()
        return code

    def _serve(self) -> int:
        self.signals.hear()
        deadline: float | None = None
        while self.is_alive or self._can_restart():
            self.tell_of_lost_parts()
            if self._can_restart():
                self._restart_supervisor()
            if self.signals.number and deadline is None:
                deadline = time.monotonic() + GRACE_SECONDS
            elif deadline is not None and time.monotonic() >= deadline:
                self.stop()
                return 128 + self.signals.number
            self.signals.wait(self._pids(), None if deadline is None else max(0.0, deadline - time.monotonic()))
        self.tell_of_lost_parts()
        return max(abs(code) and 1 for code in self._exit_codes())

    def _can_restart(self) -> bool:
        """Say whether a supervisor that was killed can have a successor."""
        code = self.supervisor.poll() if self.supervisor is not None else None
        has_head = self.head is None or self.head.exit_code() is None
        return self._order is not None and code is not None and code < 0 and has_head and not self.signals.number

    def _restart_supervisor(self) -> None:
        """Start the workers of this rank again, after a pause that grows."""
        assert self._order is not None
        order, self._order = self._order, None
        self._restarts += 1
        self.signals.wait([], pause(self._restarts))
        if self.signals.number:
            return
        directory, job, arguments, timeout = order
        if failure := self.start_supervisor(directory, job, arguments, min(timeout, _RESTART_SECONDS)):
            self._order = None
            if not failure.startswith("the head is gone"):  # it has said that, at the job's end perhaps
                self._say(f"its workers can't be started again, so it has none any more: {failure}")

    def tell_of_lost_parts(self, patience: float = 0.0) -> None:
        """Say, once each, what of this rank has ended that was not told to: who, how, and what that means.

        :param patience: seconds in which the head's process may end.
        """
        if self.head is not None and patience:
            self.head.wait(patience)
        head = self.head.exit_code() if self.head is not None else None
        if self.head is not None and head and self.head.pid not in self._told:
            from hpclaunch.head.launch import log_tail

            self._told.add(self.head.pid)
            log = log_tail(self.head.directory, 5)
            rundir.remove(self.head.directory)  # its keys are in it
            self._say(
                f"the head (process {self.head.pid} on {socket.gethostname()}) {_how_it_ended(head)}. With it the "
                "cluster has ended: what tasks were to do is lost, and the script can't compute any more. "
                f"The last lines of its log:\n{log}"
            )
        supervisor = self.supervisor
        code = supervisor.poll() if supervisor is not None else None
        if supervisor is not None and code is not None and code < 0 and supervisor.pid not in self._told:
            self._told.add(supervisor.pid)
            self._say(
                f"the supervisor of its workers (process {supervisor.pid} on {socket.gethostname()}) "
                f"{_how_it_ended(code)}, and its workers have ended with it. What they ran is run again"
            )

    def _say(self, text: str) -> None:
        print(f"hpclaunch: rank {self.rank}: {text}", file=sys.stderr, flush=True)

    @property
    def is_alive(self) -> bool:
        """True while anything runs that this rank has started."""
        return any(code is None for code in self._all_codes())

    def _all_codes(self) -> list[int | None]:
        codes = [] if self.head is None else [self.head.exit_code()]
        return codes if self.supervisor is None else [*codes, self.supervisor.poll()]

    def _exit_codes(self) -> list[int]:
        return [code for code in self._all_codes() if code is not None] or [0]

    def _pids(self) -> list[int]:
        pids = [] if self.head is None or self.head.exit_code() is not None else [self.head.pid]
        if self.supervisor is not None and self.supervisor.poll() is None:
            pids.append(self.supervisor.pid)
        return pids

    def stop(self) -> None:
        """End what this rank has started, in order if that is possible, and remove its files."""
        self.dismiss()
        self.signals.release()
        if self.head is not None and self.head.exit_code() is None:
            self.head.end(_END_SECONDS)
        supervisor = self.supervisor
        if supervisor is not None and supervisor.poll() is None:
            supervisor.send_signal(signal.SIGINT)  # SIGTERM may come from others, and is left to us
            try:
                supervisor.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                supervisor.kill()
                supervisor.wait()
        self.remove_files()

    def wait(self, timeout: float = _END_SECONDS) -> None:
        """Wait for the end of what was told to end by the head; end what does not."""
        until = time.monotonic() + timeout
        if self.head is not None:
            self.head.end(timeout)
        if self.supervisor is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.supervisor.wait(max(0.1, until - time.monotonic()))
        self.stop()

    def remove_files(self) -> None:
        """Remove this rank's private directories, and what ranks have left beside them that were killed."""
        while self._directories:
            directory = self._directories.pop()
            rundir.remove(directory)
            remove_dead(directory.parent)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    text = f"was killed by signal {-code} ({name})"
    if code == -signal.SIGKILL:
        text += ", by a person or a program, or by the operating system or the batch system for want of memory"
    return text


def failed_to_start(reasons: dict[int, tuple[str, str]], count: int) -> SiteError:
    """Return the error for ranks that could not start their part.

    :param reasons: host and reason by rank.
    :param count: how many ranks there are.
    """
    by_reason: dict[tuple[str, str], list[int]] = {}
    for rank, what in reasons.items():
        by_reason.setdefault(what, []).append(rank)
    lines = []
    for (host, reason), ranks in list(by_reason.items())[:10]:
        who = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks[:20]))}"
        lines.append(f"  {who} on {host}: {reason}")
    verb = "could not start its part" if len(reasons) == 1 else "could not start their part"
    return SiteError(f"{len(reasons)} of {count} ranks {verb}:\n" + "\n".join(lines))
