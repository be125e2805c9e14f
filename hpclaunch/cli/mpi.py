"""``hpclaunch mpi`` and ``hpclaunch run``: a cluster on ranks that mpirun or srun has started."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from hpclaunch.errors import UserError


def _shared_options(command: Any) -> Any:
    """Decorate a command with what both have in common; the names are dask-mpi's."""
    for option in (
        click.option("--interface", default=None, help="Network interface, such as ib0."),
        click.option("--nthreads", type=click.IntRange(1), default=None, help="Threads of each worker."),
        click.option("--memory-limit", default=None, help='Memory of each rank\'s workers: "8 GB", or auto.'),
        click.option("--local-directory", default=None, help="Scratch directory on the nodes."),
        click.option("--protocol", default=None, help="tls or tcp."),
        click.option(
            "--exclusive-workers/--inclusive-workers",
            default=None,
            help="Whether the ranks of head and script have no workers.",
        ),
        click.option(
            "--start-timeout", type=float, default=None, help="Seconds in which all ranks must have come."
        ),
        click.option("--name", default=None, help="The cluster's name."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("scheduler_address", required=False)
@click.option(
    "--scheduler-file", type=click.Path(dir_okay=False), default=None, help="Where the cluster is told of."
)
@click.option("--scheduler/--no-scheduler", default=True, help="Whether to start a head, or to join one.")
@click.option("--scheduler-port", type=click.IntRange(0, 65535), default=None, help="The head's port.")
@click.option("--scheduler-rank", type=click.IntRange(0), default=None, help="The head's rank.")
@click.option("--nanny/--no-nanny", default=None, help="Accepted; workers are always watched over.")
@click.option("--worker-class", default=None, help="Accepted, with Dask's usual values.")
@click.option("--worker-options", default=None, help="Options of the workers, as JSON.")
@click.option("--dashboard/--no-dashboard", default=None, help="Accepted; there is no dashboard in this version.")
@click.option("--dashboard-address", default=None, help="Accepted; there is no dashboard in this version.")
@_shared_options
def mpi(scheduler_address: str | None, scheduler: bool, worker_options: str | None, **options: Any) -> None:
    """Be one rank of a cluster: `mpirun -np 8 hpclaunch mpi --name mine`, then Client("mine") elsewhere.

    Rank 0 is the head, the others run workers, until `hpclaunch down mine`. With SCHEDULER_ADDRESS (a cluster's
    name, directory or address), or --no-scheduler and --scheduler-file, all ranks are workers of that cluster.
    """
    from hpclaunch.mpi.api import execute

    options["worker_options"] = _json(worker_options) if worker_options else None
    execute(scheduler=scheduler and scheduler_address is None, scheduler_address=scheduler_address, **options)


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"--worker-options must be JSON, such as '{{\"nthreads\": 2}}': {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"--worker-options must be a JSON object, not {text!r}")
    return value


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-n", "--ranks", type=click.IntRange(1), default=None, help="Start so many ranks on this machine.")
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is a module's name.")
@_shared_options
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(script: str, arguments: tuple[str, ...], ranks: int | None, is_module: bool, **options: Any) -> None:
    """Run SCRIPT on one rank of a launch, with the others as its cluster, without MPI.

    Under srun each process finds its rank by itself: `srun hpclaunch run script.py`. In a job of a parallel
    environment of Grid Engine one is enough, which starts the others on the granted hosts: `hpclaunch run
    script.py`. A rank that dies does not end the job, as it would under mpirun. The script finds its cluster by
    Client(); a call of initialize() does no harm.
    """
    from hpclaunch.mpi import nompi

    sys.exit(nompi.run(script, arguments, ranks=ranks, is_module=is_module, options=options))
