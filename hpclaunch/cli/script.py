"""``hpclaunch script``: the job script of a section, printed, or, for a job of ranks, also submitted."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hpclaunch import batch, homes, rundir, scripts
from hpclaunch.batch.base import JobState, JobUsage
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.cli.keys import config_options, given
from hpclaunch.config.layers import load
from hpclaunch.config.schema import JobConfig
from hpclaunch.engines import base as engines
from hpclaunch.errors import StatusError, UserError
from hpclaunch.inherited import inherit
from hpclaunch.safepath import run_module
from hpclaunch.transport.local import LocalTransport

#: Stands where a cluster that is started has eight random digits.
_NUMBER = "00000000"
#: Seconds between two looks at a job that is waited for: the first, and the longest.
_LOOK_SECONDS = (0.5, 5.0)
#: Seconds that accounting may take to know of a job's end.
_ACCOUNTING_SECONDS = 60.0


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": True})
@click.argument("section")
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--mpi", "ranks", type=click.IntRange(1), default=None, help="A job of so many ranks that run PROGRAM."
)
@click.option("--pe", "parallel_environment", default=None, help="Grid Engine: the parallel environment.")
@click.option("--launcher", default=None, help="What starts the ranks; mpirun, on Slurm srun, unless you say so.")
@click.option("--no-mpi", is_flag=True, help="Start the ranks without MPI, by `hpclaunch run`.")
@click.option("--submit", is_flag=True, help="Submit it, and print the job's id.")
@click.option("--wait", is_flag=True, help="Submit it, and follow it to its end.")
@config_options
def script(
    section: str,
    program: tuple[str, ...],
    ranks: int | None,
    launcher: str | None,
    no_mpi: bool,
    submit: bool,
    wait: bool,
    **options: Any,
) -> None:
    """Print the job script of SECTION (sge, slurm, local or a site's own).

    Without --mpi it is what a cluster submits, but for the cluster's number, which is 00000000 here. With --mpi N
    it is a whole submission file for N ranks that run PROGRAM, a Python script and its arguments (after -- if they
    begin with a dash): --cores and --memory are then those of one rank.
    """
    if ranks is None:
        if program or submit or wait or launcher or no_mpi:
            raise UserError("a program, --launcher, --no-mpi, --submit and --wait go with --mpi N")
        _print(_worker_script(section, given(options)))
        return
    if not program:
        raise UserError(
            "which program are the ranks to run? hpclaunch script SECTION --mpi N script.py [ARGUMENTS]"
        )
    config, text = _ranks_script(section, given(options), ranks, program, launcher, no_mpi=no_mpi)
    if not submit and not wait:
        _print(text)
        return
    if config.batch_system == "local":
        raise UserError(
            "the local batch system has no queue for this: write the script to a file and run it by bash"
        )
    path = Path(f"{config.name}.job.sh").absolute()
    path.write_bytes(scripts.encoded(text))
    sys.exit(asyncio.run(_submit(config, path, follow=wait)))


def _print(script: str) -> None:
    """Print a script as it goes into a file, also with paths that are not UTF-8."""
    data = scripts.encoded(script)
    if data == script.encode(errors="replace"):
        click.echo(script, nl=False)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)


def _worker_script(section: str, options: dict[str, Any]) -> str:
    config = inherit(load(section, options).job)
    directory = rundir.base_directory(config.shared_temp_directory) / f"{config.name}-{_NUMBER}"
    return scripts.render(
        config,
        cluster_id=directory.name,
        directory=directory,
        work_directory=Path.cwd(),
        worker_command=engines.by_name(config.engine).worker_command(config, directory),
    )


def _ranks_script(
    section: str,
    options: dict[str, Any],
    ranks: int,
    program: Sequence[str],
    launcher: str | None,
    *,
    no_mpi: bool,
) -> tuple[JobConfig, str]:
    """Render the submission file of a job of ranks.

    What a section says of cores and memory is about a job of workers, so it does not count here.
    """
    has_memory = "memory" in options
    options.setdefault("memory", "1 GB")
    options.setdefault("cores", 1)
    options.setdefault("processes", 1)
    options.setdefault("name", Path(program[0]).stem.replace(" ", "-") or "ranks")
    config = inherit(load(section, options).job)
    if not Path(program[0]).is_file():
        raise UserError(f"there is no program {program[0]}")
    command = [*scripts.python_words(config), *program]
    if no_mpi:
        command = [*scripts.python_words(config), *run_module("hpclaunch"), "run", *program]
        launcher = launcher or batch.codec(config.batch_system).process_launcher
    text = scripts.render_ranks(config, count=ranks, command=command, launcher=launcher, has_memory=has_memory)
    return config, text


# --- submitting ---------------------------------------------------------------------------------------------


async def _submit(config: JobConfig, path: Path, *, follow: bool) -> int:
    """Submit a job, print its id, and perhaps wait for its end; return the exit code to end with."""
    queue = BatchQueue(batch.by_name(config.batch_system, config, Path()), LocalTransport())
    job_id = await queue.submit_one(path)
    click.echo(_number(job_id))
    log = _log_path(config, job_id)
    click.echo(f"submitted {path.name}; its output goes to {log}", err=True)
    return await _follow(queue, job_id, log) if follow else 0


def _log_path(config: JobConfig, job_id: str) -> Path:
    """Return where the templates have the batch system put a job's output."""
    return homes.expanded(config.log_directory or "", "log-directory") / f"{config.name}.{_number(job_id)}.log"


async def _follow(queue: BatchQueue, job_id: str, log: Path) -> int:
    """Print what a job does and says until it has ended; return its exit code."""
    shown, pause, said, is_silent = 0, _LOOK_SECONDS[0], "", False
    while True:
        try:
            status = (await queue.poll([job_id]))[job_id]
        except StatusError as error:
            if not is_silent:
                click.echo(f"hpclaunch: {error}", err=True)
            is_silent, pause = True, _LOOK_SECONDS[1]
        else:
            is_silent = False
            words = f"job {_number(job_id)} is {status.state}" + (f" on {status.host}" if status.host else "")
            words += f": {status.reason}" if status.reason and status.state is JobState.QUEUED else ""
            if words != said and status.state is not JobState.UNKNOWN:
                click.echo(f"hpclaunch: {words}", err=True)
                said, pause = words, _LOOK_SECONDS[0]
            shown = _show(log, shown)
            if status.state in (JobState.ENDED, JobState.UNKNOWN):
                break
        await asyncio.sleep(pause)
        pause = min(_LOOK_SECONDS[1], pause * 1.3)
    usage = await _usage(queue, job_id)
    _show(log, shown)
    click.echo(
        f"hpclaunch: job {_number(job_id)} has ended: {usage.reason if usage else 'it is not known how'}", err=True
    )
    return _exit_code(usage)


def _show(log: Path, shown: int) -> int:
    """Print what is new in a log; return how much has been shown."""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(shown)
        new = file.read()
        click.echo(new.decode(errors="replace"), nl=False)
        return shown + len(new)
    return shown


async def _usage(queue: BatchQueue, job_id: str) -> JobUsage | None:
    until = time.monotonic() + _ACCOUNTING_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(StatusError):
            found = await queue.usage([job_id])
            if job_id in found:
                return found[job_id]
        await asyncio.sleep(_LOOK_SECONDS[0])
    return None


def _exit_code(usage: JobUsage | None) -> int:
    if usage is None:
        return 1
    if usage.exit_code is not None:
        return usage.exit_code
    return 128 + usage.signal if usage.signal else 1


def _number(job_id: str) -> str:
    """Return a job's id as people write it: an array's single element goes by the job's number."""
    return job_id.partition(".")[0]
