"""Warnings: those of hpclaunch point at the user's own line, however deep they arise; and those of a cluster."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


def warn_from_afar(text: str) -> None:
    """Warn about what a cluster says: no line of the user's is to blame for that."""
    warnings.warn_explicit(text, UserWarning, "hpclaunch", 0)


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn about something in the code or the files of hpclaunch's caller."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    warnings.warn(text, category, stacklevel=level + 1)
