"""Starting a head from the user's process: its run directory, the job script, the process.

Everything that can be wrong with a configuration is found here, before a process is started.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from hpclaunch import file_errors, homes, rundir, trusted
from hpclaunch.config.schema import JobConfig
from hpclaunch.engines import base as engines
from hpclaunch.errors import ConfigError, HeadError
from hpclaunch.head import options as head_options
from hpclaunch.notes import warn
from hpclaunch.transport.local import ends_within

#: Seconds in which a head must be ready; a slow file system may take a while over the imports.
START_SECONDS = 60.0
#: A head's exit code when it has said which jobs it could not cancel, and kept its directory for another try.
EXIT_JOBS_LEFT = 3
#: Seconds that a head may take to end after it has answered a close request.
END_SECONDS = 15.0
#: Seconds that it may take to cancel its jobs and see to it that they are gone: a busy batch system needs a while
#: for each command, and a head that is killed meanwhile would leave them.
CANCEL_SECONDS = 150.0
#: Seconds after which a user who waits for that is told so.
_TELL_SECONDS = 5.0


class Prepared(NamedTuple):
    """A run directory with all that a head needs."""

    directory: Path
    script: str
    command: list[str]


def prepare(config: JobConfig, name: str, *, python_path: list[str], owner_pid: int) -> Prepared:
    """Make a run directory, render the job script into it, and say how to start the head.

    :param owner_pid: the process whose end is the head's end; 0 for none.
    :raises ConfigError: a directory can't be made, or an option of the head is wrong.
    :raises ScriptError: the script can't be rendered from these values.
    """
    from hpclaunch import scripts  # templates take a while to import, and ranks have none

    engine = engines.by_name(config.engine)
    _check_scheduler_options(config)
    hosts = _hosts(config)
    work_directory = _work_directory()
    directory = rundir.choose(rundir.base_directory(config.shared_temp_directory), name)
    script = scripts.render(
        config,
        cluster_id=directory.name,
        directory=directory,
        work_directory=work_directory,
        worker_command=engine.worker_command(config, directory),
    )
    made = _make_log_directory(config)  # only now: a value that is refused leaves nothing behind
    try:
        rundir.create(directory)
    except ConfigError:
        trusted.unmake(made)
        raise
    try:
        rundir.write_file(directory / "job.sh", scripts.encoded(script), mode=0o700)
        head_options.write(
            directory,
            head_options.HeadOptions(
                cluster_id=directory.name,
                name=name,
                config=config,
                python_path=python_path,
                work_directory=str(work_directory),
                hosts=hosts,
                umask=_own_umask(),
                owner_pid=owner_pid,
                owner_start=rundir.process_start(owner_pid) if owner_pid else "",
            ),
        )
    except BaseException as error:
        rundir.remove(directory)
        if isinstance(error, OSError):
            raise _unwritable(directory, error) from None
        raise
    return Prepared(directory, script, engine.head_command(sys.executable, directory))


def prepare_group(config: JobConfig, directory: Path) -> str:
    """Write what the jobs of one more group need into a cluster's run directory; return their script.

    :param config: with the group's name.
    :raises ScriptError: the script can't be rendered from these values.
    """
    from hpclaunch import scripts

    engine = engines.by_name(config.engine)
    script = scripts.render(
        config,
        cluster_id=directory.name,
        directory=directory,
        work_directory=Path(head_options.read(directory).work_directory),
        worker_command=engine.worker_command(config, directory),
    )
    _make_log_directory(config)
    try:
        rundir.tickets_path(directory, config.group).mkdir(mode=0o700, exist_ok=True)
        rundir.write_file(rundir.script_path(directory, config.group), scripts.encoded(script), mode=0o700)
    except OSError as error:
        raise _unwritable(directory, error) from None
    return script


def prepare_ranks(
    config: JobConfig,
    name: str,
    base: Path,
    *,
    python_path: list[str],
    ranks: list[tuple[int, str]],
    hosts: tuple[str, ...] | None = None,
    script_client: str = "",
    owner_pid: int,
    is_listed: bool = False,
    prefix: str = "",
) -> Prepared:
    """As :func:`prepare`, for the ranks of a job that runs already: there is no script.

    :param ranks: number and host of those that have workers.
    :param hosts: addresses to listen on; None is what the configuration says.
    :param prefix: what the directory's name begins with, before the cluster's.
    :param script_client: name of the client whose end is the head's end; empty for none.
    :raises ConfigError: the directory can't be made, or an option of the head is wrong.
    """
    engine = engines.by_name(config.engine)
    _check_scheduler_options(config)
    options = head_options.HeadOptions(
        cluster_id="",
        name=name,
        config=config,
        python_path=python_path,
        work_directory=str(_work_directory()),
        hosts=hosts or _hosts(config),
        owner_pid=owner_pid,
        owner_start=rundir.process_start(owner_pid) if owner_pid else "",
        ranks=ranks,
        script_client=script_client,
    )
    directory = rundir.create(rundir.choose(base, prefix + name), is_listed=is_listed)
    try:
        head_options.write(directory, msgspec.structs.replace(options, cluster_id=directory.name))
    except BaseException as error:
        rundir.remove(directory)
        if isinstance(error, OSError):
            raise _unwritable(directory, error) from None
        raise
    return Prepared(directory, "", engine.head_command(sys.executable, directory))


def _check_scheduler_options(config: JobConfig) -> None:
    unknown = [key for key in config.scheduler_options if key not in head_options.SCHEDULER_OPTIONS]
    if unknown:
        known = ", ".join(head_options.SCHEDULER_OPTIONS)
        raise ConfigError(f"scheduler-options: unknown {unknown[0]!r}; there are {known}", key="scheduler-options")
    _check_number(config, "port", 0, 65535)
    _check_number(config, "allowed_failures", 0, 1_000_000)
    for key in ("host", "interface"):
        value = config.scheduler_options.get(key)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"scheduler-options: {key} must be a text, not {value!r}", key="scheduler-options")
    if config.scheduler_options.get("dashboard_address") is not None:
        warn("dashboard_address has no effect: this version has no dashboard yet")
    if not config.security:
        warn("security: false: anyone who can reach this cluster's ports can run code as you")


def _check_number(config: JobConfig, key: str, least: int, most: int) -> None:
    value = config.scheduler_options.get(key)
    if value is None:
        return
    text = str(value)
    is_number = not isinstance(value, bool) and text.isascii() and text.isdigit()
    if not is_number or not least <= int(text) <= most:
        raise ConfigError(
            f"scheduler-options: {key} must be a whole number, {least} to {most}, not {value!r}",
            key="scheduler-options",
        )


def _hosts(config: JobConfig) -> tuple[str, ...]:
    """Return the addresses to listen on; local jobs need none that others can reach."""
    wanted = config.scheduler_options
    interface, host = wanted.get("interface") or config.interface, wanted.get("host")
    if config.batch_system == "local" and not (interface or host):
        return ("127.0.0.1",)
    from hpclaunch.head.addresses import host_addresses  # psutil takes a moment to import

    return tuple(host_addresses(interface, host))


def _work_directory() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the current directory, from which jobs are submitted, is not there any more ({error.strerror}): "
            "change to another one (cd, os.chdir)"
        ) from None


def _unwritable(directory: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the cluster's files can't be written into {directory.parent}: {file_errors.told(error)} Or set "
        "shared-temp-directory to a directory of yours on a file system that the nodes share",
        key="shared-temp-directory",
    )


def _own_umask() -> int:
    """Return this process's umask; asking for it in the usual way would change it for other threads."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return -1
    words = [line.split() for line in status.splitlines() if line.startswith("Umask:")]
    return int(words[0][1], 8) if words else -1


def _make_log_directory(config: JobConfig) -> list[Path]:
    """Make the log directory; better an error now than jobs that can't open their output. Return what was made."""
    if config.log_directory is None:
        return []
    path = homes.expanded(config.log_directory, "log-directory")
    try:
        made = trusted.make_parents(path, mode=0o777)
    except OSError as error:
        raise ConfigError(
            f"log-directory {path} can't be made: {file_errors.told(error, path)}", key="log-directory"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"log-directory {path} can't be written by you; choose another", key="log-directory")
    return made


class HeadProcess:
    """A head that this process has started.

    :param argv: what the engine says starts a head.
    :param attached: the head ends when this process does.
    :param waiting: a head that was started early (``--ordered``); it is told the directory, ``argv`` is not used.
    :raises HeadError: it did not become ready; the text has its own words.
    """

    def __init__(
        self,
        argv: Sequence[str],
        directory: Path,
        *,
        attached: bool,
        waiting: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.directory = directory
        self.owner_pid = os.getpid()
        self.last_words = ""  # the end of its log, once the connection to it was lost
        if waiting is not None:
            self._process = waiting
            assert waiting.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has died; that is told below
                waiting.stdin.write(os.fsencode(directory) + b"\n")
                waiting.stdin.flush()
            self._wait_until_ready()
            return
        try:
            log = os.open(directory / "head.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise _unwritable(directory, error) from None
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE if attached else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            raise HeadError(
                f"the head can't be started: {file_errors.told(error)} (command: {' '.join(argv)})"
            ) from None
        finally:
            os.close(log)
        self._wait_until_ready()

    @property
    def pid(self) -> int:
        """The head's process id."""
        return self._process.pid

    def _wait_until_ready(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        said = _read_line(pipe, START_SECONDS)
        pipe.close()
        if said == "ready":
            return
        if not ends_within(self._process, 5):
            self.kill()
            raise HeadError(
                f"the head was not ready within {START_SECONDS:g} s; its log:\n{log_tail(self.directory)}"
            )
        why = said.removeprefix("failed: ") if said.startswith("failed: ") else log_tail(self.directory)
        raise HeadError(f"the head could not start (exit code {self._process.returncode}): {why}")

    def keep_last_words(self, why: Exception) -> None:
        """Read the head's log while it is there: the last worker of a lost head removes it."""
        self.last_words = log_tail(self.directory)

    def exit_code(self) -> int | None:
        """Return the head's exit code; None while it lives."""
        return self._process.poll()

    def wait(self, timeout: float = END_SECONDS) -> bool:
        """Wait for the head to end; return whether it did."""
        if not ends_within(self._process, timeout):
            return False
        self._close_pipe()
        return True

    def let_go(self) -> None:
        """Tell an attached head that its owner does not need it any more, and wait for its end."""
        self._close_pipe()
        if not self.wait(_TELL_SECONDS):
            print(f"hpclaunch: cancelling the jobs of {self.directory.name} ...", file=sys.stderr, flush=True)
        if not self.wait(CANCEL_SECONDS):
            self._process.send_signal(signal.SIGTERM)
            if not self.wait():
                self.kill()

    def end(self, timeout: float) -> None:
        """Have a head end that has no jobs to cancel; one that does not within ``timeout`` seconds is killed."""
        self._close_pipe()
        if not self.wait(timeout):
            self.kill()
            rundir.remove(self.directory)

    def kill(self) -> None:
        """End the head at once; its workers find out by themselves."""
        self._process.kill()
        self._process.wait()
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._process.stdin is not None and os.getpid() == self.owner_pid:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


def _read_line(pipe: IO[bytes], timeout: float) -> str:
    """Return the first line that comes within ``timeout`` seconds; what there is of it otherwise."""
    until = time.monotonic() + timeout
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not data.endswith(b"\n") and selector.select(max(0.0, until - time.monotonic())):
            piece = os.read(pipe.fileno(), 65536)
            if not piece:
                break
            data += piece
    return data.decode(errors="replace").strip()


def log_tail(directory: Path, lines: int = 15) -> str:
    """Return the last lines of a head's log."""
    try:
        return "\n".join((directory / "head.log").read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(there is no log)"
