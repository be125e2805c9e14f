"""Ways to turn a user's own types into bytes and back, where pickle has none or would copy large data.

A registered type is taken apart into a small header, which is pickled, and buffers, which travel as they are and
are not copied. What puts it together again travels with each value, and registers the type where it arrives: so
a process that was given a value can pass it on. Pickling elsewhere (``pickle.dumps``, ``copy``) is not changed.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from hpclaunch.comm.buffers import Buffer

Dump = Callable[[Any], tuple[Any, Sequence[Any]]]
Load = Callable[[Any, list[memoryview]], Any]

#: What reduces values of the registered types, for a pickler.
table: dict[type, Callable[[Any], Any]] = {}


def register_serialization(cls: type, dump: Dump, load: Load) -> None:
    """Have values of a type sent in a way of your own, between clients and workers.

    Values of subclasses are not meant. The last registration of a type counts. A value that was sent registers its
    type where it arrives; where a task makes the first one itself, registration has to have happened there: write
    the call beside the class, in a module that the workers import.

    :param dump: takes a value, gives a header (anything that can be pickled) and a list of its buffers: bytes, or
        whatever has the buffer protocol and is contiguous. They are not copied.
    :param load: takes such a header and a list of memoryviews, gives the value. These may be written to if the
        buffer could be, and belong to the value.
    :raises TypeError: ``cls`` is no class, or one of the others can't be called.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_serialization takes a class first, not {cls!r}")
    for name, function in (("dump", dump), ("load", load)):
        if not callable(function):
            raise TypeError(f"{name} of {cls.__name__} is a function, not {function!r}")

    def reduce(value: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        parts = dump(value)
        if not isinstance(parts, tuple) or len(parts) != 2:
            raise TypeError(
                f"dump of {cls.__name__} gives a header and a list of buffers, not a {type(parts).__name__}"
            )
        header, buffers = parts
        return _rebuild, (cls, dump, load, header, *map(pickle.PickleBuffer, buffers))

    table[cls] = reduce


def _rebuild(cls: type, dump: Dump, load: Load, header: Any, *buffers: Buffer) -> Any:
    """Put a value together, and know its type from now on."""
    if cls not in table:
        register_serialization(cls, dump, load)
    return load(header, [memoryview(buffer) for buffer in buffers])


def dumps(value: Any, protocol: int, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """As ``pickle.dumps``, with the registered types."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol, buffer_callback=buffer_callback)
    pickler.dispatch_table = {**copyreg.dispatch_table, **table}
    pickler.dump(value)
    return file.getvalue()


def cloudpickle_dumps(value: Any, protocol: int, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """As ``cloudpickle.dumps``, with the registered types."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = {**cloudpickle.Pickler.dispatch_table, **table}

    file = io.BytesIO()
    Pickler(file, protocol, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()
