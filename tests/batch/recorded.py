"""Recorded output of real batch systems: ``tests/data/<system>/<name>.txt``.

:func:`hpclaunch.testing.read_recording` says what a recording is. Pages of accounting that users sent have output
only.
"""

from __future__ import annotations

from pathlib import Path

from hpclaunch.batch.base import Completed
from hpclaunch.testing import read_recording

DATA = Path(__file__).parents[1] / "data"


def recorded(system: str, name: str) -> Completed:
    """Return a recorded command as a transport would."""
    return read_recording(DATA / system / f"{name}.txt")
