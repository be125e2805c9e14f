"""Do something as soon as another package's module is imported, without importing it for that."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def when_imported(name: str, call: Callable[[ModuleType], None]) -> None:
    """Call ``call`` with a module: now if it is imported, else right after it is."""
    if name in sys.modules:
        call(sys.modules[name])
        return
    for finder in sys.meta_path:
        if isinstance(finder, _Finder):
            finder.calls[name] = call
            return
    sys.meta_path.insert(0, _Finder({name: call}))


def never_mind(name: str) -> None:
    """Undo :func:`when_imported` if the module has not been imported."""
    for finder in list(sys.meta_path):
        if isinstance(finder, _Finder):
            finder.calls.pop(name, None)
            if not finder.calls:
                sys.meta_path.remove(finder)


class _Finder:
    """Finds modules as Python does, and calls what waits for them."""

    def __init__(self, calls: dict[str, Callable[[ModuleType], None]]) -> None:
        self.calls = calls

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        call = self.calls.get(name)
        if call is None:
            return None
        never_mind(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute: Callable[[ModuleType], None] = loader.exec_module

            def execute_and_call(module: ModuleType) -> None:
                execute(module)
                call(module)

            loader.exec_module = execute_and_call
        return spec
