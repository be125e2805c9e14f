"""Unpickling by several threads that import the same packages for the first time.

Pickle imports ``package.module`` in one go. Python then locks the module first and the package after, while a
plain ``import package`` locks them in the other order. Two threads that meet so are saved from the deadlock by
being given half a module, which breaks some packages (NumPy among them) for the rest of the process. Here a
package is always imported before what is in it.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any

_GLOBAL = b"\x93"  # the opcode that names something in a module
#: Bytes from which a view is not copied for this: it would cost memory, and is seldom the first that imports.
_MAX_COPY = 16 << 20

_imported: set[str] = set()  # modules that are known to be whole


def loads(data: Any, *, buffers: Iterable[Any] | None = None) -> Any:
    """Unpickle, as :func:`pickle.loads`, importing packages before their modules."""
    kind = type(data)
    if (kind is bytes or kind is bytearray) and _GLOBAL not in data:
        return pickle.loads(data, buffers=buffers)
    if kind is not bytes and memoryview(data).nbytes > _MAX_COPY:
        return pickle.loads(data, buffers=buffers)
    return _Unpickler(io.BytesIO(data), buffers=buffers).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if module not in _imported:
            self._import_from_top(module)
        found = super().find_class(module, name)
        if name == "subimport" and module.startswith("cloudpickle."):
            return functools.partial(self._subimport, found)
        return found

    def _import_from_top(self, module: str) -> None:
        """Import a module, and before it each of the packages that it is in; wait for other threads that do."""
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            super().find_class(".".join(parts[:count]), "__name__")
        _imported.add(module)

    def _subimport(self, found: Callable[[str], Any], module: str) -> Any:
        """Import a module that a function names."""
        self._import_from_top(module)
        return found(module)
