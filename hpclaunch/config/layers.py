"""Configuration from all its layers, merged, with the origin of each value; then typed and checked.

Layers, lowest first: ``configs/defaults.yaml`` < ``/etc/hpclaunch/*.yaml`` < ``~/.config/hpclaunch/*.yaml`` <
``$HPCLAUNCH_CONFIG`` < environment variables < arguments. Within a layer's merged tree a section is read as
``default`` < its batch system's section < itself. All mistakes of one reading are reported together.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hpclaunch.config import schema
from hpclaunch.config.schema import KEYS, MEMORY_KEYS, JobConfig
from hpclaunch.data_files import data_path
from hpclaunch.errors import ConfigError, ConfigErrors
from hpclaunch.notes import warn

_ENV_PREFIXES = ("HPCLAUNCH_JOBQUEUE__", "HPCLAUNCH_DISTRIBUTED__")
_TOP = ("jobqueue", "distributed")


class Value(NamedTuple):
    """A value and where it came from: ``file.yaml:7``, ``$HPCLAUNCH_…`` or ``argument cores``."""

    value: Any
    origin: str


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
    memory: Section
    errors: list[ConfigError]


def load(
    section: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    paths: Sequence[Path] | None = None,
) -> Loaded:
    """Return the configuration of a section below ``jobqueue:``.

    :param section: "sge", "slurm", "local" or a site profile's name.
    :param overrides: constructor arguments; None stands for "not given".
    :param env: environment variables; those of this process if None.
    :param paths: configuration files instead of those of the machine and the user, lowest first.
    :raises ConfigError: the one mistake found, or :class:`~hpclaunch.errors.ConfigErrors` with all of them.
    """
    environment = os.environ if env is None else env
    tree = read_tree(find_files(environment) if paths is None else paths, environment)
    errors = list(tree.errors)
    name = section.replace("_", "-")
    values = _merged_section(tree, name, _arguments(overrides or {}, errors), errors)
    _raise(errors)
    return _build(name, values, errors)


def check_file(path: Path) -> list[ConfigError]:
    """Return every mistake in one configuration file, all its sections, read over the defaults alone."""
    tree = read_tree([path], {})
    errors = list(tree.errors)
    for name in tree.sections:
        if name in ("default", *schema.FOREIGN_SECTIONS):
            continue
        some: list[ConfigError] = []
        values = _merged_section(tree, name, {}, some)
        if not some:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                _typed(values, some)
        errors += some
    seen: dict[str, ConfigError] = {}
    for error in errors:
        seen.setdefault(str(error), error)
    return list(seen.values())


def find_files(env: Mapping[str, str]) -> list[Path]:
    """Return the configuration files of the machine and the user, lowest layer first."""
    home = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~")).expanduser() / ".config")
    files = _yaml_files(Path("/etc/hpclaunch")) + _yaml_files(home / "hpclaunch")
    extra = env.get("HPCLAUNCH_CONFIG")
    if extra:
        path = Path(extra).expanduser()
        if not path.exists():
            raise ConfigError(f"there is no {path}", origin="$HPCLAUNCH_CONFIG")
        files += _yaml_files(path) if path.is_dir() else [path]
    return files


def _yaml_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.yaml")) + sorted(directory.glob("*.yml"))


def user_file(env: Mapping[str, str]) -> Path:
    """Return the path of the user's own configuration file, which may not exist."""
    home = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~")).expanduser() / ".config")
    return home / "hpclaunch" / "jobqueue.yaml"


# --- reading the layers -------------------------------------------------------------------------------------


def read_tree(paths: Sequence[Path], env: Mapping[str, str]) -> Tree:
    """Read and merge the defaults, these files and the environment. Mistakes are collected in ``errors``."""
    tree = Tree({}, {}, [])
    for path in [data_path("configs") / "defaults.yaml", *paths]:
        _read_file(path, tree)
    _read_environment(env, tree)
    return tree


def _read_file(path: Path, tree: Tree) -> None:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        tree.errors.append(ConfigError(f"can't be read: {error.strerror}", origin=str(path)))
        return
    except UnicodeDecodeError as error:
        tree.errors.append(
            ConfigError(f"is not UTF-8 text: {error.reason} at byte {error.start}", origin=str(path))
        )
        return
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        tree.errors.append(ConfigError(f"is not YAML: {error.problem}", origin=f"{path}:{line}"))
        return
    except yaml.YAMLError as error:
        tree.errors.append(ConfigError(f"is not YAML: {error}", origin=str(path)))
        return
    if root is None:
        return
    for top, node, origin in _pairs(root, str(path), tree.errors):
        if top == "jobqueue":
            for name, inner, _ in _pairs(node, str(path), tree.errors):
                section = {
                    key: Value(_construct(value, str(path), tree.errors), where)
                    for key, value, where in _pairs(inner, str(path), tree.errors)
                }
                _merge_section(tree, name.replace("_", "-"), section)
        elif top == "distributed":
            _read_memory(node, str(path), tree)
        else:
            hint = _nearest(top, _TOP)
            tree.errors.append(
                ConfigError(f"unknown name {top!r} at the top of the file{hint}", origin=origin, key=top)
            )


def _read_memory(node: yaml.Node, path: str, tree: Tree) -> None:
    """Take ``distributed: worker: memory:``; the rest of that section is Dask's own business."""
    for name in ("worker", "memory"):
        if not isinstance(node, yaml.MappingNode):
            return
        inner = [value for key, value in node.value if key.value == name]
        if not inner:
            return
        node = inner[0]
    for key, value, origin in _pairs(node, path, tree.errors):
        if key in MEMORY_KEYS:
            tree.memory[f"memory_{key}"] = Value(_construct(value, path, tree.errors), origin)


def _pairs(node: yaml.Node, path: str, errors: list[ConfigError]) -> Iterable[tuple[str, yaml.Node, str]]:
    """Give the keys of a mapping with their values and origins; a key that stands twice is a mistake."""
    origin = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"):
        return
    if not isinstance(node, yaml.MappingNode):
        errors.append(ConfigError("a mapping of keys to values is expected here", origin=origin))
        return
    first: dict[str, int] = {}
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            errors.append(ConfigError("a key must be a plain word", origin=f"{path}:{line}"))
            continue
        key = str(key_node.value)
        same = key.replace("_", "-")
        if same in first:
            text = f"{key!r} stands here a second time; the first is in line {first[same]}"
            errors.append(ConfigError(text, origin=f"{path}:{line}", key=key))
            continue
        first[same] = line
        yield key, value, f"{path}:{line}"


def _construct(node: yaml.Node, path: str, errors: list[ConfigError]) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key: _construct(value, path, errors) for key, value, _ in _pairs(node, path, errors)}
    if isinstance(node, yaml.SequenceNode):
        return [_construct(one, path, errors) for one in node.value]
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and ":" in node.value:
        return str(node.value)  # YAML 1.1 reads 01:00:00 without quotes as a number in base 60
    try:
        constructor = yaml.SafeLoader("")
        return constructor.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        errors.append(ConfigError(f"can't be read: {error}", origin=f"{path}:{node.start_mark.line + 1}"))
        return None


def _read_environment(env: Mapping[str, str], tree: Tree) -> None:
    for variable in sorted(env):
        if not variable.startswith(_ENV_PREFIXES):
            continue
        parts = variable.removeprefix("HPCLAUNCH_").lower().split("__")
        origin = f"${variable}"
        try:
            value = yaml.safe_load(env[variable])
        except yaml.YAMLError:
            value = env[variable]
        if isinstance(value, int) and ":" in env[variable]:
            value = env[variable]
        if len(parts) == 3 and parts[0] == "jobqueue":
            _merge_section(tree, parts[1].replace("_", "-"), {parts[2]: Value(value, origin)})
        elif len(parts) == 4 and parts[:3] == ["distributed", "worker", "memory"] and parts[3] in MEMORY_KEYS:
            tree.memory[f"memory_{parts[3]}"] = Value(value, origin)
        elif parts[0] == "jobqueue":
            text = "names no key; write HPCLAUNCH_JOBQUEUE__SECTION__KEY"
            tree.errors.append(ConfigError(text, origin=origin))


def _merge_section(tree: Tree, name: str, values: Mapping[str, Value]) -> None:
    """Lay one layer's values of a section over those of the layers below, under today's names."""
    target = tree.sections.setdefault(name, {})
    target.update(_rename(values, tree.errors))


def _rename(values: Mapping[str, Value], errors: list[ConfigError]) -> Section:
    """Bring keys to today's names. An old and a new name with two different values is a mistake."""
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


def _merged_section(tree: Tree, name: str, arguments: Section, errors: list[ConfigError]) -> Section:
    """Return a section's values over those that it is based on."""
    own = tree.sections.get(name)
    if own is None:
        known = [one for one in tree.sections if one != "default"]
        hint = _nearest(name, known) or f"; there are {', '.join(known)}"
        errors.append(ConfigError(f"there is no section {name!r} below jobqueue{hint}", key=name))
        return {}
    system = arguments.get("batch_system") or own.get("batch_system")
    if name in schema.FOREIGN_SECTIONS and system is None:
        known_systems = ", ".join(schema.BATCH_SYSTEMS)
        errors.append(ConfigError(f"batch system {name!r} is not supported; there are {known_systems}", key=name))
        return {}
    if system is None or system.value not in schema.BATCH_SYSTEMS:
        said = f", not {system.value!r}" if system is not None else ""
        text = f"section {name!r} must say batch-system: {', '.join(schema.BATCH_SYSTEMS)}{said}"
        origin = system.origin if system else next((v.origin for v in own.values()), None)
        errors.append(ConfigError(text, origin=origin, key="batch-system"))
        return {}
    merged: Section = {}
    for layer in (tree.sections["default"], tree.sections[system.value], own, tree.memory, arguments):
        for key, value in layer.items():
            if value.value is None and key in merged and not (key in KEYS and KEYS[key].optional):
                continue  # null: as if it were not there
            merged[key] = value
    merged["batch_system"] = system
    return merged


def _typed(values: Section, errors: list[ConfigError]) -> dict[str, Any]:
    """Read each value by its key's rule, then check them against each other."""
    typed: dict[str, Any] = {}
    origin: str | None
    for key, (value, origin) in values.items():
        shown = key.replace("_", "-")
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
        try:
            typed[key] = known.read(value)
        except ValueError as error:
            errors.append(ConfigError(f"{shown}: {error}", origin=origin, key=shown))
    for key, text in schema.rules(typed):
        origin = values[key].origin if key in values else None
        errors.append(ConfigError(f"{key.replace('_', '-')}: {text}", origin=origin, key=key.replace("_", "-")))
    return typed


def _build(name: str, values: Section, errors: list[ConfigError]) -> Loaded:
    typed = _typed(values, errors)
    origins = {key: value.origin for key, value in values.items()}
    _fill_in(name, typed, origins, errors)
    _raise(errors)
    if not typed["nanny"]:
        warn(f"{origins['nanny']}: nanny: false has no effect, workers are watched over")
    job = JobConfig(section=name, **typed)
    return Loaded(job, {"section": "", **origins})


def _fill_in(name: str, typed: dict[str, Any], origins: dict[str, str], errors: list[ConfigError]) -> None:
    """Give values to keys that were left to us, and report those that only the user can give."""
    for key, example in (("cores", "4"), ("memory", "8 GB")):
        if typed.get(key) is None and not any(error.key == key for error in errors):
            if key == "memory" and typed.get("batch_system") == "local":
                typed[key] = _memory_of_machine() * (typed.get("cores") or 1) // (os.cpu_count() or 1)
                origins[key] = "this machine's memory per core"
                continue
            text = (
                f"{key} must be given: write `{key}: {example}` below jobqueue.{name} in {user_file(os.environ)}, "
                f"or pass {key}={example!r}"
            )
            errors.append(ConfigError(text, key=key))
    if typed.get("processes") is None and typed.get("cores"):
        typed["processes"] = schema.default_processes(typed["cores"])
        origins["processes"] = "computed: about the square root of cores"
    if typed.get("python") is None:
        typed["python"] = sys.executable
        origins["python"] = "the interpreter that runs now"


def _memory_of_machine() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _nearest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _raise(errors: list[ConfigError]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigErrors(errors)
