"""``hpclaunch run``: ranks without MPI, for sites where an MPI rank's death is the whole job's.

Under srun every rank is this program, and finds its number in the environment. In a parallel environment of Grid
Engine, or with a number of ranks on this machine, the first process is the *starter*: it starts the ranks, by
``qrsh -inherit`` on the granted hosts, hands signals on to them, and ends when they have ended.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import secrets
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hpclaunch import notes, safepath
from hpclaunch.errors import SiteError, UserError
from hpclaunch.mpi import api
from hpclaunch.mpi.gang import Alone, Gang
from hpclaunch.mpi.launch import RANK_VARIABLES, Launch, detect
from hpclaunch.mpi.signals import END_SIGNALS
from hpclaunch.safepath import module_command

#: Where a traceback of the script's does not begin yet.
_NOT_THE_SCRIPT = (__file__, runpy.__file__, "<frozen runpy>")


def run(
    script: str, arguments: Sequence[str], *, ranks: int | None, is_module: bool, options: Mapping[str, Any]
) -> int:
    """Be a rank, or start the ranks; return the exit code.

    :param ranks: so many on this machine; None is what the environment says.
    :raises UserError: there is no such script.
    """
    if not is_module and not Path(script).is_file():
        raise UserError(f"there is no script {script}")
    launch = detect(os.environ)
    if ranks is not None and (launch is None or launch.by != "hpclaunch"):
        launch = None
    hosts = _hosts(ranks, os.environ) if launch is None else []
    if len(hosts) > 1:
        return _Starter(hosts).run()
    sys.argv = [script, *arguments]
    safepath.set_start_directory(os.getcwd() if is_module else str(Path(script).resolve().parent))
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)  # what the script starts is no rank of this launch
    seat = (0, 1) if launch is None else (launch.rank, launch.size)
    started, code = api.take_part(seat, lambda timeout: _gang(launch), lambda: api.wish_of(dict(options)))
    if started is None:
        return code
    api.go_on(started)
    return _run_script(script, is_module)


def _run_script(script: str, is_module: bool) -> int:
    """Run the user's program; what it raises is shown as Python itself would, without our own lines."""
    sys.path.insert(0, safepath.start_directory())  # as Python has it; before, nothing of ours looks there
    try:
        if is_module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except Exception as error:
        place = error.__traceback__
        while place is not None and place.tb_frame.f_code.co_filename in _NOT_THE_SCRIPT:
            place = place.tb_next
        sys.excepthook(type(error), error.with_traceback(place), place)
        return 1
    return 0


def _gang(launch: Launch | None) -> Gang:
    if launch is None or launch.size == 1:
        return Alone()
    return api.meet_by_files(launch)


def _hosts(ranks: int | None, environment: Mapping[str, str]) -> list[str]:
    """Return the host of each rank that is to be started; none, or one, if this process is all there is."""
    if ranks is not None:
        return [socket.gethostname()] * ranks
    if int(environment.get("SLURM_NTASKS", "1") or 1) > 1 and "SLURM_JOB_ID" in environment:
        notes.warn(
            f"this job has {environment['SLURM_NTASKS']} tasks, of which this is one process: "
            "`srun hpclaunch run ...` would use them all"
        )
    if "PE_HOSTFILE" not in environment:
        return []
    try:
        return granted(Path(environment["PE_HOSTFILE"]).read_text())
    except OSError as error:
        raise SiteError(f"$PE_HOSTFILE, {environment['PE_HOSTFILE']}, can't be read: {error.strerror}") from None


def granted(text: str) -> list[str]:
    """Return the host of each slot in a ``$PE_HOSTFILE`` (lines ``host slots queue processors``), in its order.

    :raises SiteError: it is none.
    """
    hosts: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or not words[1].isdigit():
            raise SiteError(f"$PE_HOSTFILE has a line that is none: {line!r}")
        hosts += [words[0]] * int(words[1])
    return hosts


class _Starter:
    """Starts ranks and waits for them."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._launch = f"{os.environ.get('JOB_ID', 'here')}-{secrets.token_hex(6)}"
        self._ranks: list[subprocess.Popen[bytes]] = []

    def run(self) -> int:
        """Start all ranks, and return the first exit code that is not 0."""
        for number in END_SIGNALS:
            signal.signal(number, self._forward)
        try:
            for rank, host in enumerate(self._hosts):
                self._ranks.append(self._start(rank, host))
            codes = [process.wait() for process in self._ranks]
        finally:
            for process in self._ranks:
                if process.poll() is None:
                    process.terminate()
        return next((code if code > 0 else 128 - code for code in self._by_guilt(codes) if code), 0)

    def _by_guilt(self, codes: list[int]) -> Iterable[int]:
        """Give the script's own exit code first: those of the others only follow from it."""
        script = 1 if len(codes) > 2 else 0
        return [codes[script], *codes]

    def _start(self, rank: int, host: str) -> subprocess.Popen[bytes]:
        values = (rank, len(self._hosts), self._launch)
        variables = {name: str(value) for name, value in zip(RANK_VARIABLES, values, strict=True)}
        command = [*module_command(sys.executable, "hpclaunch"), *sys.argv[1:]]
        if is_here(host):
            return subprocess.Popen(command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL)
        words = ["env", *(f"{name}={value}" for name, value in variables.items()), *command]
        line = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(words)}"
        try:
            return subprocess.Popen(
                ["qrsh", "-inherit", "-nostdin", "-V", host, "/bin/sh", "-c", shlex.quote(line)],
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise SiteError(f"rank {rank} can't be started on {host}: qrsh: {error.strerror}") from None

    def _forward(self, number: int, frame: FrameType | None) -> None:
        for process in self._ranks:
            with contextlib.suppress(OSError):
                process.send_signal(number)


def is_here(host: str) -> bool:
    """Say whether a host of the batch system's is this one, whichever of them has the domain in its name."""
    return host.partition(".")[0] == socket.gethostname().partition(".")[0]
