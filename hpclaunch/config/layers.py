"""Configuration from all its layers, merged, with the origin of each value; then typed and checked.

Layers, lowest first: ``configs/defaults.yaml`` < ``/etc/hpclaunch/*.yaml`` < ``~/.config/hpclaunch/*.yaml`` <
``$HPCLAUNCH_CONFIG`` < environment variables < arguments. Within a layer's merged tree a section is read as
``default`` < its batch system's section < itself. All mistakes of one reading are reported together.

What this machine has (for the ``local`` batch system) comes in at the edge, as a :class:`~.machine.Machine`.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import stat
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hpclaunch import extensions, file_errors, homes
from hpclaunch.config import paths as paths_, readings, schema, worker_options
from hpclaunch.config.documents import Value, compose, construct, entries, parse_text
from hpclaunch.config.machine import Machine, this_machine
from hpclaunch.config.schema import KEYS, MEMORY_KEYS, JobConfig
from hpclaunch.data_files import data_path
from hpclaunch.errors import ConfigError, ConfigErrors
from hpclaunch.notes import warn

_ENV_PREFIXES = ("HPCLAUNCH_JOBQUEUE__", "HPCLAUNCH_DISTRIBUTED__")
_TOP = ("jobqueue", "distributed")


Section = dict[str, Value]


class Loaded(NamedTuple):
    """A section's configuration, typed, with the origin of each key."""

    job: JobConfig
    origins: dict[str, str]

    def origin(self, key: str) -> str:
        """Say where a key's value came from."""
        return self.origins[key.replace("-", "_")]


class Tree(NamedTuple):
    """All layers merged: sections by name, and the memory fractions."""

    sections: dict[str, Section]
    places: dict[str, str]  # where a section stands, in the highest layer that has it
    memory: Section
    errors: list[ConfigError]


def load(
    section: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    paths: Sequence[Path] | None = None,
    machine: Machine | None = None,
) -> Loaded:
    """Return the configuration of a section below ``jobqueue:``.

    :param section: "sge", "slurm", "local" or a site profile's name.
    :param overrides: constructor arguments; None stands for "not given".
    :param env: environment variables; those of this process if None.
    :param paths: configuration files instead of those of the machine and the user, lowest first.
    :param machine: what the local batch system can give out; this machine if None.
    :raises ConfigError: the one mistake found, or :class:`~hpclaunch.errors.ConfigErrors` with all of them.
    """
    environment = os.environ if env is None else env
    tree = read_tree(find_files(environment) if paths is None else paths, environment)
    errors = list(tree.errors)
    name = section.replace("_", "-")
    values = merged_section(tree, name, _arguments(overrides or {}, errors), errors)
    if not values:
        raise_all(errors)
    typed = _typed(values, errors)
    origins = {key: value.origin for key, value in values.items()}
    _expand_paths(typed, origins, environment, errors)
    _fill_in(name, typed, origins, machine or this_machine(), user_file(environment), errors)
    raise_all(errors)
    _say_what_has_no_effect(typed, origins)
    return Loaded(JobConfig(section=name, **typed), {"section": "", **origins})


def check_file(path: Path) -> list[ConfigError]:
    """Return every mistake in one configuration file, all its sections, read over the defaults alone."""
    tree = read_tree([path], {})
    errors = list(tree.errors)
    for name in tree.sections:
        if name == "default" or is_foreign(tree, name):
            continue
        values = merged_section(tree, name, {}, errors)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            _typed(values, errors)
    return _in_order(errors)


def find_files(env: Mapping[str, str]) -> list[Path]:
    """Return the configuration files of the machine and the user, lowest layer first."""
    own = _own_directory(env)
    files = _yaml_files(Path("/etc/hpclaunch")) + (_yaml_files(own) if own is not None else [])
    extra = env.get("HPCLAUNCH_CONFIG")
    if extra:
        path = homes.expanded(extra, "HPCLAUNCH_CONFIG")
        try:
            is_directory = stat.S_ISDIR(path.stat().st_mode)
        except FileNotFoundError:
            raise ConfigError(f"there is no {path}", origin="$HPCLAUNCH_CONFIG") from None
        except OSError as error:
            raise ConfigError(
                f"can't be read: {file_errors.told(error, path)}", origin="$HPCLAUNCH_CONFIG"
            ) from None
        files += _yaml_files(path) if is_directory else [path]
    return files


def _own_directory(env: Mapping[str, str]) -> Path | None:
    """Return where the user's own configuration is; None for a user who has no home directory."""
    if chosen := env.get("XDG_CONFIG_HOME"):
        return Path(chosen) / "hpclaunch"
    home = homes.home(env)
    return home / ".config" / "hpclaunch" if home is not None else None


def _yaml_files(directory: Path) -> list[Path]:
    """Return the configuration files in a directory, which may not exist.

    :raises ConfigError: it can't be read, so what the user has set can't be known.
    """
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(
            f"the configuration can't be read: {file_errors.told(error, directory)} If yours is elsewhere, set "
            "HOME or XDG_CONFIG_HOME"
        ) from None
    return [directory / name for suffix in (".yaml", ".yml") for name in names if name.endswith(suffix)]


def user_file(env: Mapping[str, str]) -> Path:
    """Return the path of the user's own configuration file, which may not exist.

    It begins with ``~`` if there is no home directory.
    """
    own = _own_directory(env)
    return (own or Path("~/.config/hpclaunch")) / "jobqueue.yaml"


# --- reading the layers -------------------------------------------------------------------------------------


def read_tree(paths: Sequence[Path], env: Mapping[str, str]) -> Tree:
    """Read and merge the defaults, these files and the environment. Mistakes are collected in ``errors``."""
    tree = Tree({}, {}, {}, [])
    _read_file(data_path("configs") / "defaults.yaml", tree, is_ours=True)
    for path in paths:
        _read_file(path, tree)
    _read_environment(env, tree)
    return tree


def _read_file(path: Path, tree: Tree, *, is_ours: bool = False) -> None:
    before = len(tree.errors)
    try:
        root = compose(path, tree.errors, is_ours=is_ours)
        if root is not None:
            _read_root(root, str(path), tree)
    except RecursionError:
        del tree.errors[before:]
        text = "is nested too deeply; does an alias (*name) stand inside of what it names?"
        tree.errors.append(ConfigError(text, origin=str(path)))


def _read_root(root: yaml.Node, path: str, tree: Tree) -> None:
    for top, node, origin in entries(root, path, tree.errors):
        if top == "jobqueue":
            for name, inner, place in entries(node, path, tree.errors):
                section = {
                    key: Value(construct(value, path, tree.errors), where)
                    for key, value, where in entries(inner, path, tree.errors)
                }
                _merge_section(tree, name.replace("_", "-"), section, place)
        elif top == "distributed":
            _read_memory(node, path, tree)
        else:
            text = f"unknown name {top!r} at the top of the file{_nearest(top, _TOP)}"
            tree.errors.append(ConfigError(text, origin=origin, key=top))


def _read_memory(node: yaml.Node, path: str, tree: Tree) -> None:
    """Take ``distributed: worker: memory:``; the rest of that section is Dask's own business."""
    for name in ("worker", "memory"):
        if not isinstance(node, yaml.MappingNode):
            return
        inner = [entry.node for entry in entries(node, path, tree.errors) if entry.key == name]
        if not inner:
            return
        node = inner[0]
    for key, value, origin in entries(node, path, tree.errors):
        _merge_memory(tree, key, Value(construct(value, path, tree.errors), origin))


def _merge_memory(tree: Tree, key: str, value: Value) -> None:
    """Take one of our keys of Dask's memory section; leave its others, but not a slip of the pen."""
    plain = key.replace("-", "_")
    if plain in MEMORY_KEYS:
        tree.memory[f"memory_{plain}"] = value
    elif key.replace("_", "-") not in schema.FOREIGN_MEMORY_KEYS and (hint := _nearest(key, MEMORY_KEYS)):
        tree.errors.append(ConfigError(f"unknown key {key!r}{hint}", origin=value.origin, key=key))


def _read_environment(env: Mapping[str, str], tree: Tree) -> None:
    for variable in sorted(env):
        if not variable.startswith(_ENV_PREFIXES):
            continue
        parts = variable.removeprefix("HPCLAUNCH_").lower().split("__")
        value = Value(parse_text(env[variable]), f"${variable}")
        if len(parts) == 3 and parts[0] == "jobqueue":
            _merge_section(tree, parts[1].replace("_", "-"), {parts[2]: value}, value.origin)
        elif len(parts) == 4 and parts[:3] == ["distributed", "worker", "memory"]:
            _merge_memory(tree, parts[3], value)
        elif parts[0] == "jobqueue":
            text = "names no key; write HPCLAUNCH_JOBQUEUE__SECTION__KEY"
            tree.errors.append(ConfigError(text, origin=value.origin))


def _merge_section(tree: Tree, name: str, values: Mapping[str, Value], place: str) -> None:
    """Lay one layer's values of a section over those of the layers below, under today's names."""
    tree.places[name] = place
    target = tree.sections.setdefault(name, {})
    target.update(_rename(values, tree.errors))


def _rename(values: Mapping[str, Value], errors: list[ConfigError]) -> Section:
    """Bring keys to today's names. One thing under two names is a mistake, unless one of them is empty."""
    renamed: Section = {}
    spelt: dict[str, str] = {}
    for key, value in values.items():
        plain = key.replace("-", "_")
        today, is_old = schema.ALIASES.get(plain, (plain, False))
        empty = value.value in (None, [], "")
        if (today in renamed and today != plain) or (today in spelt and spelt[today] != plain):
            other = renamed[today]
            if empty:
                continue
            if other.value not in (None, [], ""):
                text = (
                    f"{key!r} and {spelt[today].replace('_', '-')!r} ({other.origin}) are the same thing; keep one"
                )
                errors.append(ConfigError(text, origin=value.origin, key=key))
                continue
        if is_old and not empty:
            new = today.replace("_", "-")
            warn(f"{value.origin}: {key!r} is read as {new!r}, its name today", FutureWarning)
        renamed[today] = value
        spelt[today] = plain
    return renamed


# --- from values to a JobConfig -----------------------------------------------------------------------------


def _arguments(overrides: Mapping[str, Any], errors: list[ConfigError]) -> Section:
    given = {key: Value(value, f"argument {key}") for key, value in overrides.items() if value is not None}
    return _rename(given, errors)


def is_foreign(tree: Tree, name: str) -> bool:
    """Say whether a section is of dask-jobqueue, for a batch system that neither hpclaunch nor a package knows."""
    is_named = "batch_system" in tree.sections[name]
    return name in schema.FOREIGN_SECTIONS and not is_named and name not in extensions.names()


def merged_section(tree: Tree, name: str, arguments: Section, errors: list[ConfigError]) -> Section:
    """Return a section's values over those that it is based on; none if that can't be told."""
    if name not in tree.sections and name not in extensions.names():
        known = [one for one in tree.sections if one != "default"]
        hint = _nearest(name, known) or f"; there are {', '.join(known)}"
        errors.append(ConfigError(f"there is no section {name!r} below jobqueue{hint}", key=name))
        return {}
    own = tree.sections.get(name, {})
    system = _batch_system(tree, name, arguments, errors)
    if system is None:
        return {}
    merged: Section = {}
    for layer in (tree.sections["default"], tree.sections.get(system.value, {}), own, tree.memory, arguments):
        for key, value in layer.items():
            if value.value is None and key in merged and not (key in KEYS and KEYS[key].optional):
                continue  # null: as if it were not there
            merged[key] = value
    merged["batch_system"] = system
    return merged


def _batch_system(tree: Tree, name: str, arguments: Section, errors: list[ConfigError]) -> Value | None:
    """Return what a section says of its batch system; None, and a mistake, if that is none of ours."""
    none = Value(None, tree.places.get(name, ""))
    said = [layer.get("batch_system", none) for layer in (arguments, tree.sections.get(name, {}))]
    system = next((one for one in said if one.value is not None), none)
    if system.value in schema.KINDS:
        return system
    others = extensions.names()
    if system.value is None and name in others:
        system = Value(name, none.origin or f"the package {extensions.package_of(name)}")
    if system.value in others:
        try:
            extensions.load(system.value)
        except ConfigError as error:
            errors.append(ConfigError(error.message, origin=system.origin, key="batch-system"))
            return None
        return system
    known = ", ".join((*schema.BATCH_SYSTEMS, *others))
    if name in schema.FOREIGN_SECTIONS and system.value is None:
        text = f"batch system {name!r} is not supported; there are {known}"
    elif system.value is None:
        text = f"section {name!r} must say batch-system: {known}{_nearest(name, schema.BATCH_SYSTEMS)}"
    else:
        text = f"section {name!r} must say batch-system: {known}, not {system.value!r}"
    errors.append(ConfigError(text, origin=system.origin, key="batch-system"))
    return None


def _typed(values: Section, errors: list[ConfigError]) -> dict[str, Any]:
    """Read each value by its key's rule, then check them against each other."""
    typed: dict[str, Any] = {}
    origin: str | None
    for key, (value, origin) in values.items():
        shown = schema.written(key)
        if key in schema.FOREIGN_KEYS:
            harmless, text = schema.FOREIGN_KEYS[key]
            if value not in harmless:
                errors.append(ConfigError(f"{shown} {text}", origin=origin, key=shown))
            continue
        known = KEYS.get(key)
        if known is None:
            names = [one.replace("_", "-") for one in (*KEYS, *schema.ALIASES)]
            hint = _nearest(shown, names)
            errors.append(ConfigError(f"unknown key {shown!r}{hint}", origin=origin, key=shown))
            continue
        if value is None and known.optional:
            typed[key] = None
            continue
        if key == "python" and isinstance(value, str) and Path(value).is_file():
            value = shlex.quote(value)  # one word, whatever is in it
        try:
            typed[key] = known.read(value)
        except ValueError as error:
            errors.append(ConfigError(f"{shown}: {error}", origin=origin, key=shown))
        else:
            if said := readings.two_readings(key, value, values["batch_system"].value):
                warn(f"{origin}: {shown}: {said}")
    for key, text in schema.rules(typed):
        origin = values[key].origin if key in values else None
        shown = schema.written(key)
        errors.append(ConfigError(f"{shown}: {text}", origin=origin, key=shown))
    _take_worker_options(typed, values, errors)
    return typed


def _take_worker_options(typed: dict[str, Any], values: Section, errors: list[ConfigError]) -> None:
    """Have worker-extra-args say what our worker takes, and the keys that they stand for."""
    lines = typed.get("worker_extra_args")
    if not lines:
        return
    origin = values["worker_extra_args"].origin
    try:
        found = worker_options.translate(lines)
    except ValueError as error:
        errors.append(ConfigError(f"worker-extra-args: {error}", origin=origin, key="worker-extra-args"))
        return
    values.update({key: Value(value, origin) for key, value in found.keys.items() if key in KEYS})
    resources = {**typed.get("resources", {}), **found.keys.get("resources", {})}
    typed.update(found.keys, worker_extra_args=found.words, resources=resources)
    if found.ignored:
        reasons: dict[str, list[str]] = {}
        for option, why in found.ignored.items():
            reasons.setdefault(why, []).append(option)
        text = "; ".join(f"{', '.join(options)} ({why})" for why, options in reasons.items())
        warn(f"{origin}: worker-extra-args: without effect here: {text}")


def _expand_paths(
    typed: dict[str, Any], origins: Mapping[str, str], env: Mapping[str, str], errors: list[ConfigError]
) -> None:
    """Replace the variables of paths that are used here; those of the job's own paths are the job's."""
    for key in paths_.LOGIN_KEYS:
        if typed.get(key) is None:
            continue
        shown = schema.written(key)
        try:
            typed[key] = paths_.expand(typed[key], env)
        except ValueError as error:
            errors.append(ConfigError(f"{shown}: {error}", origin=origins.get(key), key=shown))


def _fill_in(
    name: str,
    typed: dict[str, Any],
    origins: dict[str, str],
    machine: Machine,
    file: Path,
    errors: list[ConfigError],
) -> None:
    """Give values to keys that were left to us, and report those that only the user can give."""
    wrong = {error.key for error in errors}
    if typed.get("batch_system") in ("local", "mpi"):
        if typed.get("cores") is None and "cores" not in wrong:
            typed["cores"], origins["cores"] = 1, "computed: one core"
        if typed.get("memory") is None and "memory" not in wrong:
            typed["memory"] = machine.memory_of(typed.get("cores") or 1)
            origins["memory"] = "computed: this machine's memory per core"
    for key, example in (("cores", "4"), ("memory", "8 GB")):
        if typed.get(key) is None and key not in wrong:
            shown = example if key == "cores" else repr(example)
            text = (
                f"must be given: write `{key}: {example}` below jobqueue.{name} in {file}, or pass {key}={shown}"
            )
            errors.append(ConfigError(f"{key} {text}", key=key))
    if typed.get("processes") is None and typed.get("cores"):
        typed["processes"] = schema.default_processes(typed["cores"])
        origins["processes"] = "computed: about the square root of cores"
    if typed.get("python") is None:
        typed["python"] = shlex.quote(sys.executable)
        origins["python"] = "computed: the interpreter that runs now"


def _say_what_has_no_effect(typed: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    if not typed["nanny"]:
        warn(f"{origins['nanny']}: nanny: false has no effect, workers are watched over")
    if typed["security"] and typed["protocol"] == "tcp":
        text = "protocol: tcp:// has no effect, connections are TLS; security: false would change that"
        warn(f"{origins['protocol']}: {text}")


def _nearest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.lower(), list(words), 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _in_order(errors: Iterable[ConfigError]) -> list[ConfigError]:
    """Return mistakes as they stand in their files, each once."""
    once = list({str(error): error for error in errors}.values())
    places = [re.fullmatch(r"(.*):(\d+)", error.origin or "") for error in once]
    files = list(dict.fromkeys(place[1] if place else "" for place in places))
    order = sorted(
        range(len(once)),
        key=lambda i: (files.index(place[1]), int(place[2])) if (place := places[i]) else (len(files), i),
    )
    return [once[i] for i in order]


def raise_all(errors: Iterable[ConfigError]) -> None:
    """Raise the one mistake, or all of them as one; return if there is none."""
    found = _in_order(errors)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ConfigErrors(found)
