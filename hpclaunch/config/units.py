"""Sizes, times and amounts as people write them, exactly: one parser for all of hpclaunch. Pure.

Sizes: ``"1 GB"``, ``"24GiB"``, ``"500M"``, ``"1.5e9"``, or a number of bytes. As in Dask, ``k M G T P`` with or
without ``B`` are powers of 1000, and with ``i`` powers of 1024.
Times: ``"01:30:00"``, ``"90:00"`` (minutes and seconds), ``"1-12:00:00"``, ``"1-12"`` (days and hours), ``"2d"``,
``"1h30m"``, ``"500 ms"``, or a number of seconds.

Both are computed in fractions, so that ``"1.1h"`` is 3960 seconds and not a little more.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

_PREFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE = re.compile(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]{1,2})?)\s*([kmgtp]?)(i?)(b?)", re.IGNORECASE)
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d{1,2})(?::(\d{1,2}(?:\.\d+)?))?")
_DAYS_HOURS = re.compile(r"(\d+)-(\d{1,2})")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+")
_PARTS = re.compile(
    r"([0-9]*\.?[0-9]+)\s*"
    r"(milliseconds?|ms|days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s|weeks?|w)\s*"
)
_LONGEST = 1000 * 366 * 86400
_SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_MILLISECOND = Fraction(1, 1000)


def parse_bytes(value: str | int | float) -> int:
    """Return a size in bytes.

    :raises ValueError: it is no size, is negative or is no whole number of bytes.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a size")
    if isinstance(value, int | float):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value!r} is not a size")
        size = Fraction(value)
    else:
        match = _SIZE.fullmatch(value.strip())
        if match is None or (match[3] and not match[2]):
            raise ValueError(f'{value!r} is not a size; write "24 GB", "24GiB" or a number of bytes')
        base = 1024 if match[3] else 1000
        size = Fraction(match[1]) * base ** _PREFIXES[match[2].lower()]
    if size < 0:
        raise ValueError(f"{value!r} is negative")
    if size.denominator != 1:
        raise ValueError(f"{value!r} is not a whole number of bytes")
    return int(size)


def format_bytes(size: int) -> str:
    """Return a size as exact text: ``24 GB``, ``1.5 GiB``, ``1000001``; :func:`parse_bytes` gives it back."""
    for base, infix in ((1000, ""), (1024, "i")):
        for prefix in "PTGMK" if infix else "PTGMk":
            unit = base ** _PREFIXES[prefix.lower()]
            tenths = size * 10
            if size >= unit and tenths % unit == 0:
                whole, tenth = divmod(tenths // unit, 10)
                return f"{whole}.{tenth} {prefix}{infix}B" if tenth else f"{whole} {prefix}{infix}B"
    return f"{size} B"


def mebibytes_up(size: int) -> int:
    """Return a size in whole MiB, rounded up: what Slurm counts in."""
    return -(-size // (1 << 20))


def parse_duration(value: str | int | float) -> float:
    """Return a time in seconds.

    :raises ValueError: it is no time, or is negative.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a time")
    total = _seconds(value) if isinstance(value, str) else value
    if not 0 <= total <= _LONGEST:
        raise ValueError(f"{value!r} is not a time from 0 seconds up to a thousand years")
    return float(total)


def _seconds(value: str) -> Fraction:
    text = value.strip().lower()
    if clock := _CLOCK.fullmatch(text):
        return _clock_seconds(value, *clock.groups())
    if pair := _DAYS_HOURS.fullmatch(text):
        return _clock_seconds(value, pair[1], pair[2], "0", None)
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    total = _sum_of_parts(text)
    if total is None:
        raise ValueError(f'{value!r} is not a time; write "01:30:00", "1-12:00:00", "90m", "2d" or seconds')
    return total


def _sum_of_parts(text: str) -> Fraction | None:
    """Add up ``1h30m`` and the like; None if it is something else."""
    total, at = Fraction(0), 0
    while part := _PARTS.match(text, at):
        is_small = part[2].startswith(("ms", "mil"))
        total += Fraction(part[1]) * (_MILLISECOND if is_small else _SECONDS[part[2][0]])
        at = part.end()
    return total if text and at == len(text) else None


def _clock_seconds(value: str, days: str | None, first: str, second: str, third: str | None) -> Fraction:
    if days is not None or third is not None:
        hours, minutes, seconds = int(first), int(second), Fraction(third or 0)
    else:  # MM:SS, as Slurm and SGE read it
        hours, minutes, seconds = 0, int(first), Fraction(second)
    if minutes > 59 and (days is not None or third is not None):
        raise ValueError(f"{value!r} has more than 59 minutes")
    if days is not None and hours > 23:
        raise ValueError(f"{value!r} has more than 23 hours beside its days")
    if seconds >= 60:
        raise ValueError(f"{value!r} has more than 59 seconds")
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def format_duration(seconds: float) -> str:
    """Return whole seconds as ``HH:MM:SS`` or ``D-HH:MM:SS``; :func:`parse_duration` gives them back."""
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def parse_resources(text: str) -> dict[str, float]:
    """Return the amounts of ``GPU=2,BIG=1``, or of the same with blanks, as a Dask worker takes it.

    :raises ValueError: it is something else.
    """
    found: dict[str, float] = {}
    for word in text.replace(",", " ").split():
        name, _, amount = word.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = 0.0
        if not name or not 0 < found[name] < math.inf:
            raise ValueError(f"must be names and amounts such as GPU=2,BIG=1, not {word!r}")
    return found
