"""``hpclaunch config``: show the merged configuration, write a starter file, check a file."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import yaml

from hpclaunch.config import schema
from hpclaunch.config.layers import Value, check_file, find_files, read_tree, user_file
from hpclaunch.data_files import data_path
from hpclaunch.errors import ConfigError, ConfigErrors, SiteError


@click.group()
def config() -> None:
    """Show, write and check configuration."""


@config.command()
@click.argument("section", required=False)
@click.option("--origin", is_flag=True, help="Show where each value came from.")
def show(section: str | None, origin: bool) -> None:
    """Print the configuration after all layers are merged, as YAML; of one SECTION, or of all."""
    tree = read_tree(find_files(os.environ), os.environ)
    if tree.errors:
        raise tree.errors[0] if len(tree.errors) == 1 else ConfigErrors(tree.errors)
    names = [section.replace("_", "-")] if section else list(tree.sections)
    for name in names:
        if name not in tree.sections:
            raise ConfigError(f"there is no section {name!r}; there are {', '.join(tree.sections)}")
    click.echo("jobqueue:")
    for name in names:
        click.echo(f"  {name}:")
        _print_values(_effective(tree.sections, name) if section else tree.sections[name], "    ", origin)
    click.echo("distributed:\n  worker:\n    memory:")
    memory = {key.removeprefix("memory_"): value for key, value in tree.memory.items()}
    _print_values(memory, "      ", origin)


def _effective(sections: dict[str, dict[str, Value]], name: str) -> dict[str, Value]:
    """Return what holds for a section, with what it is based on."""
    system = sections[name].get("batch_system")
    base = sections.get(system.value, {}) if system is not None else {}
    merged: dict[str, Value] = {}
    for layer in (sections["default"], base, sections[name]):
        merged.update(
            {k: v for k, v in layer.items() if v.value is not None or k not in merged or _may_be_null(k)}
        )
    return merged


def _may_be_null(key: str) -> bool:
    return key in schema.KEYS and schema.KEYS[key].optional


def _print_values(values: dict[str, Value], indent: str, origin: bool) -> None:
    lines = [(f"{indent}{key.replace('_', '-')}: {_yaml(v.value)}", v.origin) for key, v in values.items()]
    width = max((len(line) for line, _ in lines), default=0)
    for line, where in lines:
        click.echo(f"{line:<{width}}  # {where}" if origin else line)


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


@config.command()
@click.argument("section", default="sge")
def init(section: str) -> None:
    """Write a commented starter file for SECTION (sge, slurm or local); an existing file is left alone."""
    if section not in schema.BATCH_SYSTEMS:
        raise ConfigError(f"there is no starter for {section!r}; there are {', '.join(schema.BATCH_SYSTEMS)}")
    path = user_file(os.environ)
    text = (data_path("configs") / "starters" / f"{section}.yaml").read_text()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists and was left as it is; edit it, or move it away first") from None
    except OSError as error:
        raise SiteError(f"{path} can't be written: {error.strerror}") from None
    click.echo(f"Wrote {path}. Edit it, then run: hpclaunch config check {path}")
    old = path.parents[1] / "dask" / "jobqueue.yaml"
    if old.exists():
        click.echo(f"You also have {old}; hpclaunch reads such a file as it is: cp {old} {path}")


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Look for mistakes in FILE: unknown keys, wrong types and units, values that contradict each other."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        errors = check_file(file)
    for text in dict.fromkeys(str(note.message) for note in notes):
        click.echo(f"note: {text}")
    for error in errors:
        click.echo(str(error), err=True)
    if errors:
        click.echo(f"{len(errors)} mistake{'s' if len(errors) > 1 else ''} in {file}", err=True)
        sys.exit(1)
    click.echo(f"{file}: no mistakes")
