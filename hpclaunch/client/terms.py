"""What a user's task may ask of its worker, checked where it is said."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from hpclaunch.comm import messages as m


def make_terms(
    resources: Mapping[str, float] | None,
    workers: str | Iterable[str] | None,
    allow_other_workers: bool,
    duration: str | float | None,
    timeout: str | float | timedelta | None = None,
) -> m.Terms | None:
    """Return the arguments of ``submit`` as the scheduler takes them; None if they ask for nothing.

    :raises ValueError: a value can't be used.
    :raises TypeError: it is of another kind.
    """
    limit = _limit(timeout)
    if not (resources or workers or duration or limit):
        if allow_other_workers:
            raise ValueError("allow_other_workers goes with workers=")
        if workers is not None and not isinstance(workers, str):
            raise ValueError("workers=[] leaves no worker to run on; leave it out for any")
        return None
    if allow_other_workers and not workers:
        raise ValueError("allow_other_workers goes with workers=")
    names = [workers] if isinstance(workers, str) else list(workers or ())
    if not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"workers= takes names, addresses, hosts or job ids of workers, not {workers!r}")
    names = [name.rpartition("://")[2] for name in names]  # tls://host:port is host:port
    return m.Terms(_amounts(resources or {}), names, bool(allow_other_workers), _seconds(duration), limit)


def check_counts(retries: int, priority: int) -> tuple[int, int]:
    """Return the two as whole numbers, which they may be in another type, such as NumPy's.

    :raises TypeError: one is no whole number.
    :raises ValueError: ``retries`` is negative.
    """
    if type(retries) is not int or type(priority) is not int:
        retries, priority = _whole("retries", retries), _whole("priority", priority)
    if retries < 0:
        raise ValueError(f"retries= is a whole number of 0 or more, not {retries!r}")
    return retries, priority


def _whole(name: str, value: Any) -> int:
    try:
        return int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise TypeError(f"{name}= is a whole number, not {value!r:.100}") from None


def _amounts(resources: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(resources, Mapping):
        raise TypeError(f'resources= is a dict such as {{"GPU": 1}}, not {resources!r}')
    for name, amount in resources.items():
        is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not isinstance(name, str) or not is_number or not 0 <= amount < math.inf:
            raise ValueError(f"resources= has names and amounts of 0 or more, not {name!r}: {amount!r}")
    return {name: float(amount) for name, amount in resources.items()}


def timeout_seconds(timeout: str | float | timedelta | None) -> float | None:
    """Return a timeout in seconds: it may be a number of them, a text such as ``"500 ms"``, or a timedelta.

    :raises ValueError: it is no time.
    """
    if timeout is None or type(timeout) is int or type(timeout) is float:
        return timeout
    if isinstance(timeout, timedelta):
        return timeout.total_seconds()
    if isinstance(timeout, str):
        from hpclaunch.config.units import parse_duration  # most programs start without

        return parse_duration(timeout)
    if hasattr(timeout, "__float__") and not isinstance(timeout, bool):  # a numpy number
        return float(timeout)
    raise ValueError(f'a timeout is a number of seconds, or a text such as "500 ms", not {timeout!r}')


def _limit(timeout: str | float | timedelta | None) -> float:
    seconds = timeout_seconds(timeout)
    if seconds is None:
        return 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"timeout= is how long a task may run, more than 0 seconds, not {timeout!r}")
    return float(seconds)


def _seconds(duration: str | float | None) -> float:
    if duration is None:
        return 0.0
    from hpclaunch.config.units import parse_duration  # most programs start without

    return parse_duration(duration)
