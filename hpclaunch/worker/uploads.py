"""Modules that clients upload: where they lie, and how those that are loaded already come to be the new ones.

Each upload lies at a path of its own: the caches of the import system, zipimport's most of all, go by the path.
A module that was loaded from an earlier version is loaded once more, and so are uploaded modules that import it.
In any other module, names that stand for the old module, its functions and its classes are bound to the new ones.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import os
import shutil
import socket
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from hpclaunch import file_errors, trusted
from hpclaunch.errors import SiteError
from hpclaunch.worker.spill import make_directory

_ARCHIVES = (".zip", ".egg", ".whl")


class Uploads:
    """The uploads of one worker.

    :param directory: where they go; made by the first :meth:`add`, and removed in the end.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: tuple[int, int] | None = None  # it, and its lock, which says that this worker lives
        self._numbers = itertools.count(1)
        self._places: dict[str, Path] = {}  # by the file's name

    def add(self, name: str, data: bytes) -> bool:
        """Make a module, or an archive of modules, importable; say whether anything has changed by that.

        :raises Exception: a module that is loaded already can't be loaded from this; nothing has changed then.
        :raises SiteError: another user could put his modules in the place of these, or the file can't be written;
            nothing has changed then.
        """
        name = Path(name).name
        before = self._places.get(name)
        if before is not None and before.read_bytes() == data:
            return False
        place = self._write(name, data)
        path = list(sys.path)
        _replace_entry(before, place)
        try:
            _load_again(self._outdated(before, _modules_in(place)))
        except BaseException:
            sys.path[:] = path
            importlib.invalidate_caches()
            shutil.rmtree(place.parent, ignore_errors=True)
            raise
        self._places[name] = place
        if before is not None:
            shutil.rmtree(before.parent, ignore_errors=True)
        return True

    def remove(self, name: str) -> None:
        """Forget an upload: its modules can't be imported any more; who has imported them keeps them."""
        place = self._places.pop(Path(name).name, None)
        if place is None:
            return
        _replace_entry(place, None)
        for module in self._outdated(place, set()):
            sys.modules.pop(module, None)
        shutil.rmtree(place.parent, ignore_errors=True)

    def close(self) -> None:
        """Remove the files."""
        for place in self._places.values():
            _replace_entry(place, None)
            shutil.rmtree(place.parent, ignore_errors=True)
        self._places.clear()
        if self._opened is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            for descriptor in self._opened:
                os.close(descriptor)
            self._opened = None

    def _write(self, name: str, data: bytes) -> Path:
        """Write a file into a directory of its own.

        :raises SiteError: the disk is full, or the like; nothing of it is left.
        """
        directory: Path | None = None
        try:
            directory = self._new_directory()
            (directory / name).write_bytes(data)
        except OSError as error:
            place = directory or self._directory
            why = file_errors.told(error, place)
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)
            raise SiteError(
                f"worker on {socket.gethostname()}: {name} ({len(data)} bytes) can't be written: {why} Workers "
                "put uploads into local-directory, or TMPDIR without it"
            ) from None
        return directory / name

    def _new_directory(self) -> Path:
        if self._opened is None:
            trusted.check_base(self._directory.parent)  # Python will look there by its path
            self._opened = make_directory(self._directory)
        directory = self._directory / f"upload-{next(self._numbers)}"
        directory.mkdir(mode=0o700)
        return directory

    def _outdated(self, before: Path | None, given: set[str]) -> set[str]:
        """Return the loaded modules that an upload replaces, and the uploaded ones that import these."""
        loaded = {name: module for name, module in list(sys.modules.items()) if isinstance(module, ModuleType)}
        old = {name for name in loaded if name.partition(".")[0] in given}
        if before is not None:
            old |= {name for name, module in loaded.items() if _lies_in(module, [before])}
        others = {
            name: _imports_of(name, module)
            for name, module in loaded.items()
            if old and name not in old and _lies_in(module, self._places.values())
        }
        while more := {name for name, imports in others.items() if imports & _tops(old)} - old:
            old |= more
        return old


def _replace_entry(before: Path | None, after: Path | None) -> None:
    """Have the import system look for an upload in another place."""
    if after is not None:
        sys.path.insert(0, _entry(after))
    if before is not None and _entry(before) in sys.path:
        sys.path.remove(_entry(before))
        sys.path_importer_cache.pop(_entry(before), None)
    importlib.invalidate_caches()


def _entry(place: Path) -> str:
    return str(place if place.suffix in _ARCHIVES else place.parent)


def _modules_in(place: Path) -> set[str]:
    """Return the names of the top-level modules that a file holds.

    :raises zipfile.BadZipFile: it is no archive, though its name says so.
    """
    if place.suffix not in _ARCHIVES:
        return {place.stem}
    with zipfile.ZipFile(place) as archive:
        heads = {name.partition("/")[0] for name in archive.namelist() if name.endswith((".py", ".pyc"))}
    return {head.partition(".")[0] for head in heads}


def _tops(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def _lies_in(module: ModuleType, places: Iterable[Path]) -> bool:
    spec = getattr(module, "__spec__", None)
    files = [getattr(module, "__file__", None), getattr(spec, "origin", None)]
    files += list(getattr(spec, "submodule_search_locations", None) or [])
    return any(
        isinstance(file, str) and (file == entry or file.startswith(entry + "/"))
        for entry in map(_entry, places)
        for file in files
    )


def _imports_of(name: str, module: ModuleType) -> set[str]:
    """Return the top-level names of what a module's code imports."""
    try:
        tree = ast.parse(module.__spec__.loader.get_source(name))  # type: ignore[union-attr]
    except Exception:  # no source, or none that can be read: what it holds is bound to the new modules
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= _tops(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0] if not node.level else name.partition(".")[0])
    return found


def _load_again(names: set[str]) -> None:
    """Import modules once more, and have them stand for the old ones everywhere.

    :raises Exception: one of them raises; the old ones are there as before.
    """
    old = {name: module for name in names if (module := sys.modules.pop(name, None)) is not None}
    try:
        for name in sorted(old):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name != name:  # else this version has no such module
                    raise
    except BaseException:
        for name in [name for name in sys.modules if name.partition(".")[0] in _tops(old)]:
            del sys.modules[name]
        sys.modules.update(old)
        raise
    if old:
        _bind_anew(old)


def _bind_anew(old: dict[str, ModuleType]) -> None:
    new: dict[int, Any] = {}  # by the identity of what it replaces
    for name, module in old.items():
        if (successor := sys.modules.get(name)) is None:
            continue
        new[id(module)] = successor
        for key, value in vars(module).items():
            is_own = isinstance(value, type | FunctionType) and getattr(value, "__module__", None) == name
            if is_own and key in vars(successor):
                new[id(value)] = vars(successor)[key]
    for module in list(sys.modules.values()):
        names: Any = getattr(module, "__dict__", None)
        for key, value in list(names.items()) if type(names) is dict else ():
            if id(value) in new:
                names[key] = new[id(value)]
