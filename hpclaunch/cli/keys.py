"""Every configuration key as an option of a command: ``--cores 4 --memory "8 GB"``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hpclaunch.config.documents import parse_text
from hpclaunch.config.schema import ALIASES, KEYS

F = TypeVar("F", bound=Callable[..., Any])

#: Keys that take several values: their option may be given several times.
_LISTS = tuple(
    key for key in KEYS if key.endswith(("_directives", "_skip", "_prologue", "_epilogue", "_extra", "_args"))
)


def config_options(command: F) -> F:
    """Decorate a command with an option for each configuration key, also under its older name."""
    old: dict[str, list[str]] = {}
    for alias, (today, _) in ALIASES.items():
        old.setdefault(today, []).append(alias)
    for key in reversed(KEYS):
        if key.startswith("memory_") and key != "memory_resource":
            continue  # fractions of memory belong into the file
        names = [f"--{name.replace('_', '-')}" for name in (key, *old.get(key, ()))]
        if key == "name":
            names = ["--job-name"]
        option = click.option(key, *names, default=None, multiple=key in _LISTS, help="see configs/defaults.yaml")
        command = option(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, as configuration values."""
    values: dict[str, Any] = {}
    for key, value in options.items():
        if value is None or value == ():
            continue
        values[key] = list(value) if isinstance(value, tuple) else _scalar(value)
    return values


def _scalar(text: str) -> Any:
    """Read an option's text as YAML would: whole numbers, mappings, true and false; the rest stays text."""
    value = parse_text(text)
    return value if isinstance(value, bool | int | dict) else text
