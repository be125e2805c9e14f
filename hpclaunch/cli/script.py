"""``hpclaunch script``: the job script of a section, without submitting anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpclaunch import rundir, scripts
from hpclaunch.cli.keys import config_options, given
from hpclaunch.config.layers import load
from hpclaunch.engines import base as engines

#: Stands where a cluster that is started has eight random digits.
_NUMBER = "00000000"


@click.command()
@click.argument("section")
@config_options
def script(section: str, **options: Any) -> None:
    """Print the job script of SECTION (sge, slurm, local or a site's own) and submit nothing.

    It is what a cluster submits, but for the cluster's number, which is 00000000 here.
    """
    config = load(section, given(options)).job
    directory = rundir.base_directory(config.shared_temp_directory) / f"{config.name}-{_NUMBER}"
    text = scripts.render(
        config,
        cluster_id=directory.name,
        directory=directory,
        work_directory=Path.cwd(),
        worker_command=engines.by_name(config.engine).worker_command(config, directory),
    )
    click.echo(text, nl=False)
