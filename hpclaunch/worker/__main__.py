"""``python -m hpclaunch.worker``: what a job script runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpclaunch.worker.supervisor import Options


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line that the job script has."""
    parser = argparse.ArgumentParser(prog="python -m hpclaunch.worker", description="The workers of one job.")
    parser.add_argument("--directory", type=Path, required=True, help="the cluster's run directory")
    parser.add_argument("--job", required=True, help="this job's id in the batch system")
    parser.add_argument("--processes", type=int, default=1, help="worker processes")
    parser.add_argument("--threads", type=int, default=1, help="threads per worker process")
    parser.add_argument("--memory", type=int, default=0, help="bytes for the whole job; 0: no limit")
    parser.add_argument("--memory-limit", default=None, help="bytes of each worker, or its share of --memory")
    parser.add_argument("--death-timeout", type=_seconds, default=60.0, help="seconds to live without a head")
    parser.add_argument("--interface", default=None, help="network interface on which to offer results")
    parser.add_argument("--local-directory", type=Path, default=None, help="scratch directory of this node")
    parser.add_argument(
        "--resources", type=_resources, default={}, help='what tasks can ask each worker for: "GPU=1,BIG=2"'
    )
    parser.add_argument("--lifetime", type=_seconds, default=0.0, help="seconds after which the job ends in order")
    parser.add_argument("--lifetime-stagger", type=_seconds, default=0.0, help="seconds by which that may vary")
    parser.add_argument(
        "--preload", action="append", default=[], help="a module to import before the workers start"
    )
    parser.add_argument("--ends", type=float, default=0.0, help="unix time at which the job ends; 0: not known")
    parser.add_argument(
        "--no-security", action="store_true", help="the cluster was made with security: false: no TLS"
    )
    parser.add_argument("--secret", type=bytes.fromhex, default=b"", help=argparse.SUPPRESS)  # only with --ordered
    parser.add_argument("--own-directory", action="store_true", help="remove the directory at the end")
    parser.add_argument(
        "--ready-fd", type=int, default=None, help="file descriptor to tell when the head is reached"
    )
    parser.add_argument(
        "--rank-pid", type=int, default=None, help="the rank of a parallel job that this is a part of"
    )
    return parser.parse_args(argv)


# Values come ready from the login node, as a rule, and the parser of what people write is not imported for them.


def _resources(text: str) -> dict[str, float]:
    from hpclaunch.config.units import parse_resources

    return parse_resources(text)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        from hpclaunch.config.units import parse_duration

        return parse_duration(text)


def _use_local_directory(options: argparse.Namespace) -> None:
    """Make the scratch directory of this node, and have temporary files go there.

    :raises SiteError: it can't be made.
    """
    import tempfile

    from hpclaunch import file_errors, trusted
    from hpclaunch.errors import SiteError

    if options.rank_pid is not None:  # no shell has read it
        options.local_directory = Path(os.path.expandvars(options.local_directory.expanduser()))
    try:
        trusted.make_parents(options.local_directory)
    except OSError as error:
        why = file_errors.told(error, options.local_directory)
        raise SiteError(f"local-directory can't be made: {why}") from None
    os.environ["TMPDIR"] = tempfile.tempdir = str(options.local_directory)  # also if Python finds it full now


def _per_worker(text: str, job_memory: int) -> int:
    """Return a worker's bytes for --memory-limit: a size, or a share of the job's memory up to 1; 0: no limit."""
    try:
        number = float(text)
    except ValueError:
        from hpclaunch.config.units import parse_bytes

        return parse_bytes(text)
    return int(number * job_memory if number <= 1 else number)


def _end(options: argparse.Namespace, unix_now: float, now: float) -> float:
    """Return when the job is to be over, by the clock of ``now``, for its walltime or lifetime; 0: no end."""
    walltime_end: float = now + options.ends - unix_now if options.ends else 0.0
    if not options.lifetime:
        return walltime_end
    import random

    stagger = random.uniform(-options.lifetime_stagger, options.lifetime_stagger)
    end: float = now + max(1.0, options.lifetime + stagger)
    return min(end, walltime_end) if walltime_end else end


def main(argv: list[str] | None = None) -> int:
    """Run a job's supervisor; return the exit code.

    With ``--ordered`` alone the arguments come as a line of JSON on standard input: a program that will need a
    worker soon can have it import what it needs meanwhile.
    """
    words = sys.argv[1:] if argv is None else argv
    if words == ["--ordered"]:
        import json

        import hpclaunch.worker.supervisor  # noqa: F401  # what takes the time

        line = sys.stdin.readline()
        if not line:
            return 0  # none was needed
        words = json.loads(line)
    options = parse(words)
    from hpclaunch import marks
    from hpclaunch.errors import HPCLaunchError
    from hpclaunch.process_limits import no_core_dumps
    from hpclaunch.worker.process import end_with_parent
    from hpclaunch.worker.supervisor import Supervisor

    no_core_dumps()
    if options.rank_pid is not None:
        end_with_parent(options.rank_pid, signal.SIGTERM)
    try:
        if options.local_directory is not None:
            _use_local_directory(options)
        if options.memory_limit is not None:
            options.memory = options.processes * _per_worker(options.memory_limit, options.memory)
        marks.remove_dead(marks.scratch_directory())
        return Supervisor(_settings(options)).run()
    except HPCLaunchError as error:
        return _refuse(options, str(error))
    finally:
        marks.remove_dead(marks.scratch_directory())
        if options.own_directory:
            from hpclaunch import rundir

            rundir.remove(options.directory)
            marks.remove_dead(options.directory.parent)  # its rank may be gone, and the head with it


def _settings(options: argparse.Namespace) -> Options:
    """Return what the supervisor is to know."""
    from hpclaunch.worker.supervisor import Options

    return Options(
        options.directory,
        options.job,
        options.processes,
        options.threads,
        options.memory,
        options.death_timeout,
        options.interface,
        rank_pid=options.rank_pid,
        resources=options.resources,
        security=not options.no_security,
        ends=_end(options, time.time(), time.monotonic()),
        ready_fd=options.ready_fd,
        preload=tuple(options.preload),
        secret=options.secret,
    )


def _refuse(options: argparse.Namespace, why: str) -> int:
    """Say why there will be no workers, in the output and to a program that waits for the start."""
    print(f"hpclaunch worker, job {options.job}: {why}", file=sys.stderr, flush=True)
    if options.ready_fd is not None:
        os.write(options.ready_fd, why.encode())
    return 1


if __name__ == "__main__":
    sys.exit(main())
