"""What a head is told at its start: ``head.json`` in the run directory."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from hpclaunch import trusted
from hpclaunch.config.schema import JobConfig
from hpclaunch.errors import HeadError, SiteError

#: What may stand in ``scheduler-options``; the rest of Dask's is refused by name.
SCHEDULER_OPTIONS = ("host", "port", "interface", "dashboard_address", "dashboard", "allowed_failures")


class HeadOptions(msgspec.Struct, frozen=True):
    """Everything that a head needs to know and can't find out."""

    cluster_id: str
    name: str
    config: JobConfig
    python_path: list[str]  # where the user's own modules may lie
    work_directory: str  # where jobs are submitted from
    hosts: tuple[str, ...] = ()  # addresses to listen on, the best first
    umask: int = -1  # the user's own, for what jobs write; -1: not known
    owner_pid: int = 0  # the process whose end is the head's end; 0: it stays (detached)
    owner_start: str = ""  # what tells that process from a later one with its number
    ranks: list[tuple[int, str]] | None = None  # of a parallel job: number and host of those with workers
    script_client: str = ""  # the head ends when this client does, whichever way that comes


def write(directory: Path, options: HeadOptions) -> None:
    """Write the options into a run directory. (Python's own JSON keeps paths that are not UTF-8.)"""
    trusted.write_file(directory / "head.json", json.dumps(msgspec.to_builtins(options)).encode())


def read(directory: Path) -> HeadOptions:
    """Read them back.

    :raises HeadError: they are not there, or not ours.
    """
    try:
        return msgspec.convert(json.loads(trusted.read_file(directory / "head.json")), HeadOptions)
    except (OSError, SiteError, ValueError) as error:  # msgspec's are ValueErrors
        raise HeadError(f"{directory / 'head.json'} can't be used: {error}") from None
