"""What every command about clusters does in the end: it removes what died together with its owner."""

from __future__ import annotations

import asyncio
import logging

import click

from hpclaunch import marks, remains
from hpclaunch.errors import HPCLaunchError


def remove_leftovers() -> None:
    """Remove directories whose heads and owners are gone, and have their jobs cancelled; errors are told.

    Clusters that were to stay are left to ``hpclaunch clean``, which the user asks for.

    Looking takes a few milliseconds if there are none.
    """
    try:
        if remains.ownerless(had_owner=True):
            from hpclaunch.head.sweep import sweep_others

            log = logging.getLogger("hpclaunch.sweep")
            log.addHandler(_Notes(logging.INFO))
            log.setLevel(logging.INFO)
            asyncio.run(sweep_others(had_owner=True))
        for directory in marks.remove_dead(marks.scratch_directory()):
            _tell(f"removed {directory}, which a process has left that was killed")
    except (HPCLaunchError, OSError) as error:  # the command itself has done its work
        _tell(f"what dead clusters have left could not be removed: {error}")


class _Notes(logging.Handler):
    """Shows what the sweep says."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell(record.getMessage())


def _tell(text: str) -> None:
    click.echo(f"hpclaunch: note: {text}", err=True)
