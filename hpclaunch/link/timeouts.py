"""How long a caller waits: timeouts as users write them, in seconds."""

from __future__ import annotations

import threading
from datetime import timedelta


def timeout_seconds(timeout: str | float | timedelta | None) -> float | None:
    """Return a timeout in seconds: it may be a number of them, a text such as ``"500 ms"``, or a timedelta.

    One that is longer than the system can wait, some 290 years, is None: to wait without limit.

    :raises ValueError: it is no time.
    """
    if timeout is None:
        return None
    seconds = number_of_seconds(timeout)
    if seconds != seconds:
        raise ValueError('a timeout is a number of seconds, or a text such as "500 ms", not nan')
    return None if seconds >= threading.TIMEOUT_MAX else seconds


def number_of_seconds(timeout: str | float | timedelta) -> float:
    """Return the seconds of a timeout, which may be ``inf`` or ``nan``.

    :raises ValueError: it is no time.
    """
    if type(timeout) is int or type(timeout) is float:
        return timeout
    if isinstance(timeout, timedelta):
        return timeout.total_seconds()
    if isinstance(timeout, str):
        from hpclaunch.config.units import parse_duration  # most programs start without

        return parse_duration(timeout)
    if hasattr(timeout, "__float__") and not isinstance(timeout, bool):  # a numpy number
        return float(timeout)
    raise ValueError(f'a timeout is a number of seconds, or a text such as "500 ms", not {timeout!r:.100}')
