"""Numbers that batch systems, dask-jobqueue and hpclaunch read differently, told with both readings. Pure.

hpclaunch reads a plain number as seconds or bytes, everywhere. Slurm's own options read minutes and megabytes, and
dask-jobqueue hands the text on to Slurm as it stands. Grid Engine reads seconds and bytes, as we do.
"""

from __future__ import annotations

import re
from typing import Any

from hpclaunch.config.units import format_bytes, format_duration

_TIMES = ("walltime", "walltime_limit")
#: A plain number of bytes below this may have been meant as megabytes: 100 TB.
_MANY_MEGABYTES = 100_000_000


def two_readings(key: str, value: Any, batch_system: str) -> str:
    """Return what to say of a value that others read differently; empty if all read the same.

    :param value: as it was written: a text or a number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = str(value).strip()
    if key in _TIMES and re.fullmatch("[0-9]{1,9}", text) and batch_system == "slurm":
        minutes = format_duration(int(text) * 60)
        return (
            f"{value!r} is {text} seconds ({format_duration(int(text))}) here; Slurm and dask-jobqueue read "
            f"{text} minutes ({minutes}). Write '{minutes}' or '{text}s'"
        )
    if key in _TIMES and (pair := re.fullmatch(r"([0-9]{1,2}):([0-9]{2})", text)) and int(pair[1]) < 49:
        hours = f"{int(pair[1]):02}:{pair[2]}:00"
        return (
            f"{value!r} is {int(pair[1])} minutes and {int(pair[2])} seconds, for batch systems too. Write "
            f"'{hours}' if hours and minutes are meant, '00:{int(pair[1]):02}:{pair[2]}' if not"
        )
    if key == "memory" and batch_system == "slurm" and re.fullmatch("[0-9]{7,8}", text):
        return (
            f"{value!r} is {format_bytes(int(text))} here and in dask-jobqueue; Slurm's own --mem would read "
            f"{format_bytes(int(text) * 1024 * 1024)}. Write the unit, such as '{int(text) // 1_000_000} MB'"
        )
    return ""
