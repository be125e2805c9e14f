"""``hpclaunch doctor``: one small job, and everything that goes wrong at a new site."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import msgspec

from hpclaunch import rundir, scripts, trusted
from hpclaunch.cli.keys import config_options, given
from hpclaunch.config.layers import load, user_file
from hpclaunch.config.schema import JobConfig
from hpclaunch.config.units import parse_duration
from hpclaunch.doctor.findings import Finding, Grade
from hpclaunch.doctor.login import of_batch_system, of_this_host
from hpclaunch.doctor.page import is_well, page
from hpclaunch.engines import base as engines
from hpclaunch.errors import ConfigError, HPCLaunchError, SiteError, UserError
from hpclaunch.head.addresses import host_addresses, interfaces
from hpclaunch.inherited import inherit
from hpclaunch.transport.local import LocalTransport

#: What is asked for where the configuration leaves it open, and what the page advises then.
_OPEN: dict[str, Any] = {"cores": 1, "memory": "1 GB"}


@click.command()
@click.argument("section", required=False)
@click.option(
    "--timeout",
    default="5m",
    show_default=True,
    help="How long the job may wait in the queue, such as 90s or 10m.",
)
@config_options
def doctor(section: str | None, timeout: str, **options: Any) -> None:
    """Submit one small job of SECTION (sge, slurm, local or a site's own); say what does not work, and why.

    Without SECTION it is that of the batch system whose commands are here. Nothing is left behind. The exit code
    is 0 if jobs work, and 1 if not.
    """
    try:
        seconds = parse_duration(timeout)
    except ValueError as error:
        raise UserError(f"--timeout: {error}") from None
    name = (section or _guess()).replace("_", "-")
    findings: list[Finding] = []
    try:
        asyncio.run(_interruptible(_examine(name, given(options), seconds, findings)))
    except asyncio.CancelledError:
        click.echo("hpclaunch: doctor: interrupted; its job and files are gone", err=True)
        sys.exit(130)
    title = f"hpclaunch doctor {name}"
    file = str(user_file(os.environ))
    is_coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    click.echo(
        page(title, findings, section=name, file=file, is_coloured=is_coloured), nl=False, color=is_coloured
    )
    sys.exit(0 if is_well(findings) else 1)


def _guess() -> str:
    for section, command in (("slurm", "sbatch"), ("sge", "qsub")):
        if shutil.which(command):
            return section
    return "local"


async def _interruptible(work: Any) -> None:
    """Run it; the first signal that would end this process has it clean up and end."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    heard: list[int] = []

    def on_signal(number: int) -> None:
        if not heard:  # the next ones would end the cleaning up
            click.echo("hpclaunch: doctor: cancelling its job ...", err=True)
            task.cancel()
        heard.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)
    await task


async def _examine(section: str, options: dict[str, Any], seconds: float, findings: list[Finding]) -> None:
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        config = _configuration(section, options, findings)
    for text in dict.fromkeys(str(note.message) for note in notes):
        findings.append(Finding("configuration", Grade.NOTE, text))
    if config is None:
        return
    base = rundir.base_directory(config.shared_temp_directory)
    findings += of_this_host(config, base)
    if any(one.grade is Grade.BAD and one.subject in ("commands", "disk and quota") for one in findings):
        return
    await _try(config, base, seconds, findings)


def _configuration(section: str, options: dict[str, Any], findings: list[Finding]) -> JobConfig | None:
    """Return the configuration as it would be used; None if there is none, which is a finding."""
    missing: dict[str, Any] = {}
    try:
        try:
            config = load(section, options).job
        except ConfigError as error:
            wrong = {one.key for one in getattr(error, "errors", [error])}
            if not wrong <= set(_OPEN):
                raise
            missing = {key: value for key, value in _OPEN.items() if key in wrong}
            config = load(section, {**options, **missing}).job
        if config.batch_system == "mpi":
            raise ConfigError(f"section {section!r} is for ranks of a job that runs; name that of a batch system")
        directory = rundir.choose(rundir.base_directory(config.shared_temp_directory), config.name)
        scripts.render(
            config,
            cluster_id=directory.name,
            directory=directory,
            work_directory=Path.cwd(),
            worker_command=engines.by_name(config.engine).worker_command(config, directory),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is told with the rest of the environment
            config = inherit(config)
    except (HPCLaunchError, OSError) as error:
        for one in getattr(error, "errors", [error]):
            findings.append(Finding("configuration", Grade.BAD, str(one)))
        return None
    if missing:
        text = f"{' and '.join(missing)} of a job are not said; the trial asks for 1 core and 1 GB"
        findings.append(Finding("configuration", Grade.NOTE, text, "Say what your jobs need.", missing))
    else:
        findings.append(
            Finding("configuration", Grade.OK, f"section {section} is whole, for {config.batch_system}")
        )
    return config


async def _try(config: JobConfig, base: Path, seconds: float, findings: list[Finding]) -> None:
    from hpclaunch.doctor.trial import Trial

    wanted = config.scheduler_options
    try:
        addresses = _addresses(config, wanted)
        if config.batch_system != "local" and all(ipaddress.ip_address(one).is_loopback for one in addresses):
            findings.append(Finding("addresses", Grade.NOTE, "this host offers only loopback to workers"))
        made = trusted.make_base(base)
        directory = rundir.create(rundir.choose(base, "doctor"), is_listed=False)
    except (ConfigError, OSError, SiteError) as error:
        findings.append(
            Finding(
                "shared directory" if isinstance(error, OSError | SiteError) else "addresses",
                Grade.BAD,
                str(error),
            )
        )
        return
    transport = LocalTransport()
    try:
        rundir.write_file(
            directory / "head.json", b"{}"
        )  # `hpclaunch clean` knows by it what a killed doctor left
        configured = directory / "configured.sh"
        text = scripts.render(
            config, cluster_id="0", directory=directory, work_directory=Path.cwd(), worker_command=["true"]
        )
        rundir.write_file(configured, text.encode(), mode=0o700)
        async for finding in of_batch_system(config, configured, transport):
            findings.append(finding)
        if any(one.grade is Grade.BAD and one.subject in ("batch system", "queue") for one in findings):
            return
        allowed = [one.write["walltime"] for one in findings if "walltime" in one.write]
        if allowed:  # the trial is to run all the same
            config = msgspec.structs.replace(config, walltime=int(parse_duration(allowed[0])))
        names = {address: name for name, found in interfaces().items() for address in found}
        trial = Trial(
            config, directory, transport, seconds=seconds, addresses=addresses, interfaces=names, say=_teller()
        )
        async with aclosing(trial.run()) as found:
            async for finding in found:
                findings.append(finding)
    finally:
        rundir.remove(directory)
        trusted.unmake(made)


def _addresses(config: JobConfig, wanted: dict[str, Any]) -> list[str]:
    """Return the addresses that a head of this configuration would offer to workers, the first first."""
    interface, host = wanted.get("interface") or config.interface, wanted.get("host")
    if config.batch_system == "local" and not (interface or host):
        return ["127.0.0.1"]
    found = host_addresses(interface, host)
    beyond = [one for one in found if not ipaddress.ip_address(one).is_loopback]
    return beyond or found


def _teller() -> Callable[[str], None]:
    def say(text: str) -> None:
        click.echo(f"hpclaunch: {text}", err=True)

    return say
