"""What cluster classes are called with: arguments of the head itself, whole numbers, groups of jobs."""

from __future__ import annotations

import operator
from typing import Any

import msgspec

from hpclaunch.config.layers import load
from hpclaunch.config.schema import JobConfig
from hpclaunch.config.values import check_group_name
from hpclaunch.errors import ConfigError
from hpclaunch.inherited import inherit

#: Constructor arguments that go into scheduler_options.
_SCHEDULER_ARGUMENTS = ("host", "port", "dashboard_address")


def group_config(section: str, name: str, arguments: dict[str, Any]) -> JobConfig:
    """Return the configuration of a group of jobs.

    :raises ConfigError: a value can't be used.
    """
    try:
        check_group_name(name)
    except ValueError as error:
        raise ConfigError(f"groups: {error}", key="groups") from None
    config = inherit(load(section, with_scheduler_options(arguments)).job)
    return msgspec.structs.replace(config, group=name)


def with_scheduler_options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Move arguments of the head itself to where they belong."""
    given = {key: arguments.pop(key) for key in _SCHEDULER_ARGUMENTS if key in arguments}
    moved = {key: value for key, value in given.items() if value is not None}
    if moved:
        arguments["scheduler_options"] = {**(arguments.get("scheduler_options") or {}), **moved}
    return arguments


def whole(value: Any) -> int | None:
    """Return a whole number of whatever type, such as NumPy's; None if it is none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
