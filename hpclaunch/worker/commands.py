"""What a worker's shell must do for its reactor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hpclaunch.comm.messages import Message


class Execute(NamedTuple):
    """Queue tasks of one function for the execution threads. ``inputs`` is None or belongs to the only task."""

    function: Any  # what the shell knows it by
    keys: Sequence[str]
    args: Sequence[bytes]
    inputs: Mapping[str, Any] | None


class FetchInput(NamedTuple):
    """Get a result from its holders; answer with ``on_input_arrived`` or ``on_input_missing``."""

    key: str
    holders: Sequence[str]
    order: int  # of its task


class TakeBack(NamedTuple):
    """Take up to ``most`` tasks (or just ``keys``) off the execution queue; answer with what was taken."""

    most: int
    keys: frozenset[str]


class ToHead(NamedTuple):
    """Send a message to the head."""

    message: Message


class WriteResult(NamedTuple):
    """Write a result to disk; answer with ``on_result_written`` or ``on_result_not_written``."""

    key: str
    payload: Any  # a Payload, or a file that is shared


class DeleteFile(NamedTuple):
    """Remove a result's file."""

    file: Any


Command = Execute | FetchInput | TakeBack | ToHead | WriteResult | DeleteFile
