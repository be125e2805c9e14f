"""A function that tasks of this worker call: one copy for all calls, or one for each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from hpclaunch.comm import serialize
from hpclaunch.comm.messages import DefineFunction
from hpclaunch.comm.serialize import Payload
from hpclaunch.comm.sharing import LEAST_BYTES, Shared, share
from hpclaunch.errors import SerializationError


class Callee:
    """A function on this worker.

    One that calls may share is unpickled by the first that needs it. Of any other each call unpickles a copy of
    its own; large buffers are kept in a file in memory, which each call maps privately: only pages that it writes
    to are copied.

    :ivar shared: the function, once it is unpickled, if calls may share it.
    """

    __slots__ = ("_file", "_source", "shared")

    def __init__(self, source: DefineFunction) -> None:
        self.shared: Callable[..., Any] | None = None
        self._source = source
        self._file: Shared | None = None
        if not source.is_shared and sum(map(len, source.buffers)) >= LEAST_BYTES:
            with contextlib.suppress(OSError):  # without the file, each call has copies of the buffers
                self._file = share(Payload(source.data, list(source.buffers)))
                source.data, source.buffers = b"", []

    @property
    def size(self) -> int:
        """Bytes that it takes while no task calls it."""
        return self._file.size if self._file is not None else self._source.size

    def load(self) -> Callable[..., Any]:
        """Return the function for one call, or for all if they may share it.

        :raises SerializationError: it can't be unpickled here.
        """
        source = self._source
        payload = self._file.read() if self._file is not None else Payload(source.data, list(source.buffers))
        try:
            call: Callable[..., Any] = serialize.load_value(*payload)
        except SerializationError as error:
            raise SerializationError(f"function {source.name}: {error}") from error
        if source.is_shared:
            self.shared = call
        return call

    def forget(self) -> None:
        """Unpickle the function once more for the next call: a module that it lives in has changed."""
        self.shared = None
