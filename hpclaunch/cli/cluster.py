"""``hpclaunch up``, ``ps``, ``jobs``, ``logs``, ``scale``, ``down``, ``clean``: clusters that outlive you."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from hpclaunch import heartbeat, remains, rundir
from hpclaunch.cli.keys import config_options, given
from hpclaunch.cluster.table import JobTable, count_states
from hpclaunch.config.layers import load
from hpclaunch.errors import ConfigError, HPCLaunchError, PeerError, SiteError, UserError
from hpclaunch.head.launch import HeadProcess, prepare, prepare_group
from hpclaunch.inherited import inherit
from hpclaunch.link.session import HeadSession
from hpclaunch.scheduler.why import WAITS_FOR_WORKER

T = TypeVar("T")

_END_SECONDS = 40.0


@click.command()
@click.argument("section")
@click.option("--name", "cluster_name", default=None, help="The cluster's name, for Client(NAME) and down.")
@click.option("--jobs", "count", type=click.IntRange(0), default=0, help="Jobs to start with.")
@click.option(
    "--adapt", "bounds", type=(int, int), default=None, metavar="MIN MAX", help="Jobs by the work there is."
)
@config_options
def up(section: str, cluster_name: str | None, count: int, bounds: tuple[int, int] | None, **options: Any) -> None:
    """Start a cluster of SECTION (sge, slurm, local or a site's own) that stays until `hpclaunch down`."""
    from hpclaunch.cluster.arguments import group_config
    from hpclaunch.jobs.policy import read_policy
    from hpclaunch.safepath import user_python_path

    config = inherit(load(section, given(options)).job)
    groups = {
        group: group_config(section, group, {**given(options), "groups": {}, **keys})
        for group, keys in config.groups.items()
    }
    policy = None
    if bounds is not None:
        if count:
            raise ConfigError("--jobs and --adapt contradict each other; give one of them", key="jobs")
        policy = read_policy({"minimum_jobs": bounds[0], "maximum_jobs": bounds[1]}, config)
    name = cluster_name or config.name
    for one in rundir.all_clusters():
        if one.name == name and one.is_alive:
            raise SiteError(
                f"a cluster named {name!r} runs already; choose another --name, or: hpclaunch down {name}"
            )
    prepared = prepare(config, name, python_path=user_python_path(), owner_pid=0)
    try:
        head = HeadProcess(prepared.command, prepared.directory, attached=False)
    except BaseException:
        rundir.remove(prepared.directory)
        raise
    facts = rundir.read_facts(prepared.directory)
    click.echo(
        f"Cluster {name!r} is up: process {head.pid} on {facts['host']}, at {', '.join(facts['addresses'])}"
    )
    try:
        for group, its in groups.items():
            prepare_group(its, prepared.directory)
            ask(prepared.directory, "add_group", name=group, config=msgspec.to_builtins(its))
        if policy is not None:
            ask(prepared.directory, "adapt", policy=msgspec.to_builtins(policy))
        if count:
            ask(prepared.directory, "scale", jobs=count)
    except HPCLaunchError:
        ask(prepared.directory, "close")
        raise
    if policy is not None:
        click.echo(f"{policy.minimum} to {policy.maximum} jobs, by the work there is (`hpclaunch adapt {name}`)")
    if count:
        click.echo(f"{count} job{'s' if count > 1 else ''} submitted (`hpclaunch jobs {name}`)")
    click.echo(f"In Python:  from hpclaunch import Client; client = Client({name!r})")
    click.echo(f"To end it:  hpclaunch down {name}")


@click.command()
def ps() -> None:
    """List your clusters, also those whose head has died."""
    clusters = rundir.all_clusters()
    if not clusters:
        click.echo("no clusters")
        return
    rows = [("name", "batch system", "head", "since", "id")]
    for one in clusters:
        state = {True: "running", False: "dead", None: "on another host"}[one.is_alive]
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.facts.get("started", 0)))
        head = f"{one.facts.get('host')}:{one.facts.get('pid')} ({state})"
        rows.append((one.name, str(one.facts.get("batch_system")), head, since, one.directory.name))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if any(one.is_alive is False for one in clusters):
        click.echo("`hpclaunch clean` cancels what dead heads have left and removes their files")


@click.command()
@click.argument("name")
@click.option("--story", is_flag=True, help="Show all that happened to each job.")
def jobs(name: str, story: bool) -> None:
    """Show the jobs of cluster NAME."""
    directory = rundir.find_cluster(name)
    table = JobTable(ask(directory, "jobs"), ask(directory, "job_notes"))
    click.echo(table.stories() if story else str(table))
    click.echo(count_states(table))


@click.command()
@click.argument("name")
@click.argument("what", metavar="KEY|JOB")
def why(name: str, what: str) -> None:
    """Say why a task (by its KEY) or a JOB of cluster NAME is where it is."""
    directory = rundir.find_cluster(name)
    said = ask(directory, "why", key=what)
    table = [job for job in ask(directory, "jobs") if job["id"] == what]
    if not said and not table:
        raise UserError(f"cluster {name!r} knows no task and no job {what!r}; `hpclaunch jobs {name}` lists jobs")
    if said:
        click.echo(said)
        if WAITS_FOR_WORKER in said:
            click.echo("".join(f"  {note}\n" for note in ask(directory, "job_notes")), nl=False)
    for job in JobTable(table).told():
        click.echo(job)


@click.command()
@click.argument("name")
@click.argument("job", required=False)
def logs(name: str, job: str | None) -> None:
    """Print the output of one JOB of cluster NAME, or of all its jobs."""
    for job_id, text in ask(rundir.find_cluster(name), "logs", job_id=job).items():
        click.echo(f"==> job {job_id} <==\n{text.rstrip()}")


@click.command()
@click.argument("name")
@click.argument("count", metavar="JOBS", type=click.IntRange(0))
@click.option("--group", default="", help="The group of jobs; without it, the cluster's own.")
def scale(name: str, count: int, group: str) -> None:
    """Have JOBS jobs in cluster NAME."""
    ask(rundir.find_cluster(name), "scale", jobs=count, **({"group": group} if group else {}))
    click.echo(f"cluster {name!r} is to have {count} job{'' if count == 1 else 's'}")


@click.command()
@click.argument("name")
def down(name: str) -> None:
    """Cancel the jobs of cluster NAME, see to it that they are gone, and end its head."""
    directory = rundir.find_cluster(name)
    ask(directory, "close")
    until = time.monotonic() + _END_SECONDS
    while directory.exists() and time.monotonic() < until:
        time.sleep(0.05)
    if directory.exists():
        raise SiteError(
            f"the head of {name!r} has cancelled its jobs but does not end; its log: {directory}/head.log"
        )
    click.echo(f"cluster {name!r} is down; no job of it is left")


@click.command()
def clean() -> None:
    """Cancel jobs whose head has died, and remove the files of dead clusters."""
    from hpclaunch.head.sweep import sweep

    clusters = rundir.all_clusters()
    elsewhere = [one for one in clusters if one.is_alive is None]
    gone = heartbeat.find_dead(elsewhere)
    for one in gone:
        remains.note_gone(one.directory, f"hpclaunch clean on {socket.gethostname()}")
    dead = [one.directory for one in clusters if one.is_alive is False or one in gone]
    failed = 0
    for directory in dead:
        try:
            left = _run(sweep(directory))
        except (HPCLaunchError, OSError) as error:  # the others are cleaned up all the same
            failed += 1
            click.echo(f"{directory.name}: {error}", err=True)
        else:
            click.echo(
                f"{directory.name}: {len(left)} job{'' if len(left) == 1 else 's'} cancelled, files removed"
            )
    abandoned = rundir.abandoned()
    for path in abandoned:
        rundir.remove(path)
        click.echo(f"{path.name}: never had a head; files removed")
    for one in elsewhere:
        if one not in gone:
            click.echo(
                f"{one.directory.name}: its head on {one.facts.get('host')} lives, or may live; clean up there if "
                "it is dead"
            )
    if not dead and not abandoned:
        click.echo("nothing to clean up")
    if failed:
        raise SiteError(f"{failed} of {len(dead)} dead clusters could not be cleaned up; try again later")


def ask(directory: Path, method: str, **params: Any) -> Any:
    """Ask the head of a run directory one thing.

    :raises SiteError: it does not answer.
    """

    async def question() -> Any:
        session = await HeadSession.open(directory, name=f"cli-{time.time_ns():x}")
        try:
            return await session.ask(method, **params)
        finally:
            session.close()

    try:
        return _run(question())
    except PeerError as error:
        raise SiteError(f"the head of {directory.name} does not answer: {error}") from None


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)
