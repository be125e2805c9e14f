"""``hpclaunch adapt``: have a running cluster's jobs follow the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec

from hpclaunch import rundir
from hpclaunch.cli.cluster import ask
from hpclaunch.cluster.table import AdaptLog
from hpclaunch.config.documents import parse_text
from hpclaunch.errors import ConfigError
from hpclaunch.head import options as head_options
from hpclaunch.jobs.policy import ARGUMENTS, read_policy


def _policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with an option for each argument of ``cluster.adapt()``."""
    for key in reversed(ARGUMENTS):
        command = click.option(f"--{key.replace('_', '-')}", key, default=None, help="see docs/adaptive.md")(
            command
        )
    return command


@click.command()
@click.argument("name")
@click.option("--group", default="", help="The group of jobs; without it, the cluster's own.")
@click.option("--log", "is_log", is_flag=True, help="Show what was decided and why; change nothing.")
@_policy_options
def adapt(name: str, group: str, is_log: bool, **options: str | None) -> None:
    """Have as many jobs in cluster NAME as the work is worth; `hpclaunch scale` ends that."""
    directory = rundir.find_cluster(name)
    named = {"group": group} if group else {}
    if is_log:
        click.echo(str(AdaptLog(ask(directory, "adapt_log", **named))))
        return
    given = {key: _value(text) for key, text in options.items() if text is not None}
    config = head_options.read(directory).config
    if group:
        config = _group_config(ask(directory, "groups"), group)
    policy = read_policy(given, config)
    ask(directory, "adapt", policy=msgspec.to_builtins(policy), **named)
    most = "any number of" if policy.maximum is None else f"{policy.maximum}"
    click.echo(f"cluster {name!r} is to have {policy.minimum} to {most} jobs, by the work there is")


def _group_config(groups: dict[str, Any], name: str) -> Any:
    from hpclaunch.config.schema import JobConfig

    if name not in groups:
        raise ConfigError(f"there is no group {name!r}; there are {', '.join(groups) or 'none'}", key="group")
    return msgspec.convert(groups[name], JobConfig)


def _value(text: str) -> Any:
    """Read an option's text: a number if it is one."""
    value = parse_text(text)
    return value if isinstance(value, int | float) else text
