"""``hpclaunch config``: show the merged configuration, write a starter file, check a file."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import yaml

from hpclaunch import file_errors, homes
from hpclaunch.config import schema
from hpclaunch.config.documents import Value
from hpclaunch.config.layers import (
    Loaded,
    check_file,
    find_files,
    is_foreign,
    load,
    merged_section,
    raise_all,
    read_tree,
    user_file,
)
from hpclaunch.data_files import data_path
from hpclaunch.errors import ConfigError, ScriptError, SiteError
from hpclaunch.inherited import interference

#: What a file may leave open, for its scripts to be rendered.
_STAND_INS = {"cores": 1, "memory": "1 GB"}


@click.group()
def config() -> None:
    """Show, write and check configuration."""


@config.command()
@click.argument("section", required=False)
@click.option("--origin", is_flag=True, help="Show where each value came from.")
def show(section: str | None, origin: bool) -> None:
    """Print the configuration after all layers are merged, as YAML; of one SECTION, or of all."""
    tree = read_tree(find_files(os.environ), os.environ)
    errors = list(tree.errors)
    name = section.replace("_", "-") if section else None
    shown = {name: merged_section(tree, name, {}, errors)} if name else tree.sections
    raise_all(errors)
    click.echo("jobqueue:")
    for title, values in shown.items():
        click.echo(f"  {title}:")
        _print_values({key: value for key, value in values.items() if key not in tree.memory}, "    ", origin)
        if origin:
            _print_environment(title)
    click.echo("distributed:\n  worker:\n    memory:")
    memory = {key.removeprefix("memory_"): value for key, value in tree.memory.items()}
    _print_values(memory, "      ", origin)


def _print_values(values: dict[str, Value], indent: str, origin: bool) -> None:
    lines = [(f"{indent}{key.replace('_', '-')}: {_yaml(v.value)}", v.origin) for key, v in values.items()]
    width = max((len(line) for line, _ in lines), default=0)
    for line, where in lines:
        click.echo(f"{line:<{width}}  # {where}" if origin else line)


def _print_environment(section: str) -> None:
    """Print, as comments, what else the batch system would heed, and what becomes of it."""
    try:
        job = load(section, {"cores": 1, "memory": "1 GB"}).job  # where a file leaves them to arguments
        settings = interference(job, os.environ, Path.cwd())
    except (ConfigError, ScriptError, OSError):
        return  # a section that others build on
    for setting in settings:
        click.echo(f"    # {setting.fate}: {setting.text}")


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


@config.command()
@click.argument("section", default="sge")
def init(section: str) -> None:
    """Write a commented starter file for SECTION (sge, slurm or local); an existing file is left alone."""
    if section not in schema.BATCH_SYSTEMS:
        raise ConfigError(f"there is no starter for {section!r}; there are {', '.join(schema.BATCH_SYSTEMS)}")
    path = homes.expanded(user_file(os.environ), "XDG_CONFIG_HOME")
    text = (data_path("configs") / "starters" / f"{section}.yaml").read_text(encoding="utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if os.path.lexists(path):
            raise ConfigError(f"{path} exists and was left as it is; edit it, or move it away first") from None
        raise SiteError(f"the file can't be written: {file_errors.told(error, path)}") from None
    click.echo(f"Wrote {path}. Edit it, then run: hpclaunch config check {path}")
    old = path.parents[1] / "dask" / "jobqueue.yaml"
    if old.exists():
        click.echo(f"You also have {old}; hpclaunch reads such a file as it is: cp {old} {path}")


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Look for mistakes in FILE: unknown keys, wrong types and units, values that contradict each other.

    What can't stand in a job script is found too, since a script of each section is rendered.
    """
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        errors = check_file(file) or _script_mistakes(file)
    for text in dict.fromkeys(str(note.message) for note in notes):
        click.echo(f"note: {text}")
    for error in errors:
        click.echo(str(error), err=True)
    if errors:
        click.echo(f"{len(errors)} mistake{'s' if len(errors) > 1 else ''} in {file}", err=True)
        sys.exit(1)
    click.echo(f"{file}: no mistakes")


def _script_mistakes(file: Path) -> list[ConfigError]:
    """Return what is wrong with the job scripts of a file's sections, as `hpclaunch script` would say."""
    from hpclaunch import scripts

    tree = read_tree([file], {})
    env = {name: value for name, value in os.environ.items() if not name.startswith("HPCLAUNCH_")}
    found: list[ConfigError] = []
    for name, place in tree.places.items():
        if name == "default" or not place.startswith(f"{file}:"):
            continue
        if is_foreign(tree, name):
            continue
        values = merged_section(tree, name, {}, [])
        missing = {key: one for key, one in _STAND_INS.items() if values[key].value is None}
        try:
            loaded = load(name, missing, env=env, paths=[file])
        except ConfigError as error:
            found += getattr(error, "errors", [error])
            continue
        if loaded.job.batch_system == "mpi":
            continue
        try:
            directory = Path("/nowhere") / f"{loaded.job.name}-00000000"
            scripts.render(loaded.job, cluster_id=directory.name, directory=directory, work_directory=Path("/"))
        except ScriptError as error:
            key = _blamed(str(error), loaded)
            origin = loaded.origins[key] if key else place
            found.append(ConfigError(f"section {name}: {error}", origin=origin, key=key.replace("_", "-")))
    return found


def _blamed(text: str, loaded: Loaded) -> str:
    """Return the key that an error names or whose value it quotes; empty if it does neither."""
    named = text.partition(":")[0].replace("-", "_")
    if named in loaded.origins:
        return named
    values = {key: getattr(loaded.job, key, None) for key in loaded.origins}
    texts = {key: value for key, value in values.items() if isinstance(value, str) and value}
    return next((key for key, value in texts.items() if repr(value) in text), "")
