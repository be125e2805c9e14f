"""Batch systems of other packages: entry points of the group ``hpclaunch.batch_systems``, loaded by name.

Installed packages are searched only for a name that is none of hpclaunch's own, since that takes milliseconds, and
a package is imported only when its batch system is used. What is wrong with a package is told with its name.
"""

from __future__ import annotations

import functools
import inspect
from importlib import metadata
from typing import Any

from hpclaunch.errors import ConfigError

GROUP = "hpclaunch.batch_systems"


@functools.cache
def _providers() -> dict[str, list[metadata.EntryPoint]]:
    found: dict[str, list[metadata.EntryPoint]] = {}
    for one in metadata.entry_points(group=GROUP):
        known = found.setdefault(one.name, [])
        if (one.value, _package(one)) not in [(other.value, _package(other)) for other in known]:
            known.append(one)  # a directory that is on the path twice has each entry point twice
    return found


def names() -> list[str]:
    """Return the names of the batch systems that installed packages provide."""
    return sorted(_providers())


def package_of(name: str) -> str:
    """Return the package that provides a batch system, as pip names it; empty if none does."""
    found = _providers().get(name)
    return _package(found[0]) if found else ""


@functools.cache
def load(name: str) -> type[Any]:
    """Return the codec, a :class:`~hpclaunch.batch.base.BatchSystem`, that an installed package provides.

    :raises ConfigError: no package provides it, several do, or the one that does cannot be used.
    """
    found = _providers().get(name, [])
    if not found:
        raise ConfigError(f"no installed package provides the batch system {name!r} (entry points of {GROUP!r})")
    packages = sorted({_package(one) for one in found})
    if len(found) > 1:
        text = f"batch system {name!r} is provided {len(found)} times, by {' and by '.join(packages)}"
        raise ConfigError(f"{text}; uninstall all but one: pip uninstall {packages[-1]}")
    (entry,) = found
    try:
        loaded = entry.load()
    except Exception as error:  # a plug-in is a program of another's
        reason = f"{type(error).__name__}: {error}"
        raise _unusable(name, entry, f"{entry.value} could not be imported: {reason}") from error
    if problem := _problem(name, loaded):
        raise _unusable(name, entry, f"{entry.value} {problem}")
    assert isinstance(loaded, type)
    return loaded


def _problem(name: str, loaded: object) -> str:
    """Return what keeps an object from being the codec of this name; empty if nothing does."""
    from hpclaunch.batch.base import BatchSystem

    if not isinstance(loaded, type) or not issubclass(loaded, BatchSystem):
        return "is no subclass of hpclaunch.batch.base.BatchSystem"
    if inspect.isabstract(loaded):
        return f"lacks {', '.join(sorted(loaded.__abstractmethods__))}"
    missing = [one for one in ("name", "title", "template", "dialect", "max_array") if not hasattr(loaded, one)]
    if missing:
        return f"lacks {', '.join(missing)}"
    if loaded.name != name:
        return f"has name = {loaded.name!r}, and its entry point is {name!r}; they must be the same"
    if loaded.template_directory is None or not (loaded.template_directory / loaded.template).is_file():
        where = loaded.template_directory or "template_directory, which it does not set"
        return f"has the template {loaded.template!r}, and there is no such file in {where}"
    return ""


def _package(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]


def _unusable(name: str, entry: metadata.EntryPoint, problem: str) -> ConfigError:
    package = _package(entry)
    version = f" {entry.dist.version}" if entry.dist is not None else ""
    return ConfigError(
        f"batch system {name!r} comes from the package {package}{version}, which cannot be used: {problem}. "
        f"Repair it (pip install --force-reinstall {package}), or tell its authors; "
        f"`pip uninstall {package}` removes it"
    )
