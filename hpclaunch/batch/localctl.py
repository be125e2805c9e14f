"""A batch system for one machine, as a program: ``localctl.py SPOOL COMMAND ...``.

It has no daemon. Each job has a directory ``SPOOL/<number>/<element>`` and a *shepherd*, a small process in a
session of its own that runs the job's script, waits for it and writes down how it ended. A user who may write the
spool directory owns the jobs. Commands:

    submit COUNT SECONDS SCRIPT   start COUNT elements, each for at most SECONDS (0: no limit); prints the number
    list                          a JSON object with the id of each job that has not ended
    status|usage JOB...           a JSON object for each job that there is (or for each that has ended)
    cancel JOB...                 end jobs; those that are not there or have ended are passed over

Uses the standard library's quickest modules only: it is started for every command.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to import than all the rest
    from typing import Any

#: Seconds between SIGTERM and SIGKILL when a job is cancelled or its time is up.
GRACE_SECONDS = 5
FULL = os.strerror(errno.ENOSPC)
#: Bytes in which it is written how a job ended.
RESERVED_BYTES = 1000


def submit(spool: str, count: int, seconds: int, script: str) -> None:
    """Start ``count`` elements of a job and print its number."""
    if not os.access(script, os.R_OK):
        sys.exit(f"{script} can't be read")
    os.makedirs(spool, mode=0o700, exist_ok=True)
    number = 1 + max((int(name) for name in os.listdir(spool) if name.isdigit()), default=0)
    while True:
        try:
            os.mkdir(os.path.join(spool, str(number)), 0o700)
            break
        except FileExistsError:  # another process submitted at the same time
            number += 1
    try:
        for element in range(1, count + 1):
            directory = os.path.join(spool, str(number), str(element))
            os.mkdir(directory, 0o700)
            start_shepherd(directory, f"{number}.{element}", seconds, script)
    except OSError:  # all of them or none
        for element in range(1, count + 1):
            cancel(os.path.join(spool, str(number), str(element)))
        raise
    print(number)


def start_shepherd(directory: str, job_id: str, seconds: int, script: str) -> None:
    """Start a job's shepherd; return when both can be told to end.

    Raise OSError if the shepherd could not write down who it is: the job has not begun.
    """
    ready_read, ready_write = os.pipe()
    if os.fork():
        os.close(ready_write)
        with open(ready_read) as pipe:
            failure = pipe.read()  # ends when the shepherd and the job have closed their ends, or died
        os.wait()
        if failure:
            number, _, path = failure.partition(" ")
            raise OSError(int(number), os.strerror(int(number)), path)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    code = 1
    try:
        os.close(ready_read)
        write(os.path.join(directory, "pid"), f"{os.getpid()} {start_time(os.getpid())}")
        null = os.open(os.devnull, os.O_RDWR)
        output = os.open(os.path.join(directory, "output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, ready_write)
        os.closerange(ready_write + 1, 4096)
        code = shepherd(directory, job_id, seconds, script, ready_write)
    except OSError as error:
        with contextlib.suppress(OSError):  # it is closed: the job has begun
            os.write(ready_write, f"{error.errno} {error.filename or directory}".encode())
    except BaseException as error:
        os.write(2, f"localctl: {error!r}\n".encode())
    finally:
        os._exit(code)


def shepherd(directory: str, job_id: str, seconds: int, script: str, ready: int) -> int:
    """Run a job's script, pass a cancellation on to it, and write down how it ended."""
    began = time.time()
    go_read, go_write = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        os.close(go_write)
        os.read(go_read, 1)  # until the shepherd has written down who we are, or died
        os.close(go_read)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and bash could not change that
        os.close(ready)
        number, _, element = job_id.partition(".")
        environment = {**os.environ, "HPCLAUNCH_JOB_ID": number, "HPCLAUNCH_TASK_ID": element}
        os.execvpe("bash", ["bash", script], environment)  # noqa: S606

    def end(sign: int, frame: object) -> None:
        """Ask the job to end, and make it end a little later."""
        if sign == signal.SIGALRM:
            with contextlib.suppress(OSError):  # a full disk must not save the job
                write(os.path.join(directory, "late"), "yes")
        kill_group(child, signal.SIGTERM)
        signal.signal(signal.SIGALRM, lambda *_: kill_group(child, signal.SIGKILL))
        signal.alarm(GRACE_SECONDS)

    os.close(go_read)
    try:
        write(os.path.join(directory, "child"), f"{child} {start_time(child)}")
        reserve(os.path.join(directory, "end"))
    except OSError:  # what can't be written down is not started
        kill_group(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    os.close(go_write)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    os.close(ready)
    _, status, usage = os.wait4(child, 0)
    kill_group(child, signal.SIGKILL)  # what the script left in the background
    code = os.waitstatus_to_exitcode(status)
    write(
        os.path.join(directory, "end"),
        json.dumps(
            {
                "exit_code": code if code >= 0 else None,
                "signal": -code if code < 0 else None,
                "wall_seconds": time.time() - began,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "max_memory_bytes": usage.ru_maxrss * 1024,
            }
        ),
    )
    return 0


def kill_group(pid: int, number: int) -> None:
    """Send a signal to all processes of a job."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def start_time(pid: int) -> str:
    """Return what tells a process from a later one with its number; empty if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def write(path: str, text: str) -> None:
    """Write a private file whole."""
    part = path + ".part"
    flags = os.O_WRONLY | os.O_CREAT  # not truncated: what was reserved is written over
    try:
        with open(os.open(part, flags, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        error.filename = error.filename or path  # a full disk is told of by no file's name
        raise
    os.rename(part, path)


def reserve(path: str) -> None:
    """Have room for what :func:`write` will write there: how a job ended is known also when the disk is full."""
    try:
        with open(os.open(path + ".part", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(" " * RESERVED_BYTES)
    except OSError as error:
        error.filename = error.filename or path
        raise


def read(directory: str, name: str) -> str:
    """Return a small file's text; empty if it is not there."""
    try:
        with open(os.path.join(directory, name)) as file:
            return file.read()
    except OSError:
        return ""


def find_process(directory: str, name: str) -> int:
    """Return the process id of a job's shepherd ("pid") or of its script ("child"); 0 if it has ended."""
    pid, _, started = read(directory, name).partition(" ")
    return int(pid) if pid and start_time(int(pid)) == started != "" else 0


def look(directory: str) -> tuple[str, dict[str, Any]]:
    """Return a job's state and, if it has ended, how. A script whose shepherd was killed still runs."""
    alive = find_process(directory, "pid") or find_process(directory, "child")
    end = read(directory, "end")  # after the look at the process, which may end in between
    if end:
        return "ended", json.loads(end)
    if alive:
        is_ending = read(directory, "cancelled") or read(directory, "late")
        return ("ending" if is_ending else "running"), {}
    lost: dict[str, Any] = {
        "exit_code": None,
        "signal": 9,
        "wall_seconds": None,
        "cpu_seconds": None,
        "max_memory_bytes": None,
    }
    return "ended", lost


def describe(directory: str, end: dict[str, Any]) -> str:
    """Say in words how a job ended."""
    if read(directory, "cancelled"):
        return "cancelled"
    if read(directory, "late"):
        return "walltime reached"
    if end["wall_seconds"] is None:
        info = os.statvfs(directory)
        if info.f_bavail and (info.f_favail or not info.f_files):
            return "its shepherd was killed"
        return f"how it ended could not be written down: {complain(OSError(errno.ENOSPC, FULL), directory)}"
    if end["signal"]:
        return f"killed by {signal.Signals(end['signal']).name}"
    return f"exit code {end['exit_code']}" if end["exit_code"] else "finished (exit code 0)"


def cancel(directory: str) -> None:
    """End a running job; at once, if it has no shepherd who would see to its end."""
    with contextlib.suppress(OSError):  # a full disk must not save the job, nor a directory that was never made
        write(os.path.join(directory, "cancelled"), "yes")
    with contextlib.suppress(ProcessLookupError):  # it ended this very moment
        if shepherd_pid := find_process(directory, "pid"):
            os.kill(shepherd_pid, signal.SIGTERM)
        elif child := find_process(directory, "child"):
            os.killpg(child, signal.SIGKILL)


def list_jobs(spool: str) -> None:
    """Print the ids of jobs that have not ended."""
    if not os.path.isdir(spool):
        return  # nothing was ever submitted
    for number in sorted((name for name in os.listdir(spool) if name.isdigit()), key=int):
        for element in sorted(os.listdir(os.path.join(spool, number)), key=int):
            if look(os.path.join(spool, number, element))[0] != "ended":
                print(json.dumps({"id": f"{number}.{element}"}))


def main() -> None:
    """Carry out one command."""
    spool, command, *rest = sys.argv[1:]
    if command == "submit":
        submit(spool, int(rest[0]), int(rest[1]), os.path.abspath(rest[2]))
        return
    if command == "list":
        list_jobs(spool)
        return
    host = os.uname().nodename
    for job_id in rest:
        directory = os.path.join(spool, *job_id.split("."))
        if not os.path.isdir(directory):
            continue
        state, end = look(directory)
        reason = describe(directory, end) if state == "ended" else ""
        if command == "status":
            print(json.dumps({"id": job_id, "state": state, "reason": reason, "host": host}))
        elif command == "usage" and state == "ended":
            print(json.dumps({"id": job_id, "reason": reason, "host": host, **end}))
        elif command == "cancel" and state == "running":
            cancel(directory)


def complain(error: OSError, spool: str) -> str:
    """Return what an error of the file system means: which file, and how much room there is."""
    text = f"{error.strerror}: {error.filename or spool}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            info = os.statvfs(os.path.dirname(spool))
            text += f" ({info.f_bavail * info.f_frsize} bytes and {info.f_favail} inodes are free)"
    return text


if __name__ == "__main__":
    try:
        main()
    except OSError as problem:
        sys.exit(complain(problem, sys.argv[1]))
