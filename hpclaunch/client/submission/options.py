"""The options of a task: what it requires of its worker, checked when it is submitted."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from hpclaunch.comm import messages as m
from hpclaunch.comm.texts import checked_int, checked_text
from hpclaunch.link.timeouts import number_of_seconds

#: The largest number that a message holds as a float.
_MAX_FLOAT = sys.float_info.max


class TaskOptions(NamedTuple):
    """The options of tasks, as a SubmitTasks message has them."""

    retries: int = 0
    priority: int = 0
    requirements: m.Terms | None = None


def make_options(
    retries: int = 0,
    priority: int = 0,
    resources: Mapping[str, float] | None = None,
    workers: str | Iterable[str] | None = None,
    allow_other_workers: bool = False,
    duration: str | float | None = None,
    timeout: str | float | timedelta | None = None,
) -> TaskOptions:
    """Return the options that go with each task of ``submit`` and ``map``.

    :raises ValueError: a value can't be used.
    :raises TypeError: it is of another kind.
    """
    requirements = make_requirements(resources, workers, allow_other_workers, duration, timeout)
    return TaskOptions(*check_counts(retries, priority), requirements)


def make_requirements(
    resources: Mapping[str, float] | None,
    workers: str | Iterable[str] | None,
    allow_other_workers: bool,
    duration: str | float | None,
    timeout: str | float | timedelta | None = None,
) -> m.Terms | None:
    """Return the options of ``submit`` as the scheduler takes them; None if they require nothing.

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
        raise TypeError(f"workers= takes names, addresses, hosts or job ids of workers, not {workers!r:.100}")
    names = [checked_text("workers=", name).rpartition("://")[2] for name in names]  # tls://host:port is host:port
    return m.Terms(_amounts(resources or {}), names, bool(allow_other_workers), _seconds(duration), limit)


def worker_names(workers: str | Iterable[str] | None) -> list[str] | None:
    """Return what a user gives as ``workers=`` of a question: names, addresses, hosts or job ids; None is all.

    :raises TypeError: it is something else.
    :raises ValueError: a name can't be encoded.
    """
    if workers is None:
        return None
    if not isinstance(workers, Iterable):
        raise TypeError(f"workers= takes names, addresses, hosts or job ids of workers, not {_short(workers)}")
    return [
        checked_text("a name in workers=", one) for one in ([workers] if isinstance(workers, str) else workers)
    ]


def check_counts(retries: int, priority: int) -> tuple[int, int]:
    """Return the two as whole numbers, which they may be in another type, such as NumPy's.

    :raises TypeError: one is no whole number.
    :raises ValueError: ``retries`` is negative, or one does not fit into 64 bits.
    """
    if not retries and not priority and type(retries) is int and type(priority) is int:
        return retries, priority
    retries, priority = _whole("retries", retries), _whole("priority", priority)
    if retries < 0:
        raise ValueError(f"retries= is a whole number of 0 or more, not {_short(retries)}")
    return checked_int("retries=", retries, 0), checked_int("priority=", priority)


def _whole(name: str, value: Any) -> int:
    try:
        return int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise TypeError(f"{name}= is a whole number, not {value!r:.100}") from None


def _amounts(resources: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(resources, Mapping):
        raise TypeError(f'resources= is a dict such as {{"GPU": 1}}, not {resources!r}')
    amounts = {}
    for name, amount in resources.items():
        is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not isinstance(name, str) or not is_number or not 0 <= amount <= _MAX_FLOAT:
            raise ValueError(f"resources= has names and amounts of 0 or more, not {name!r:.100}: {_short(amount)}")
        amounts[checked_text("a name in resources=", name)] = float(amount)
    return amounts


def _limit(timeout: str | float | timedelta | None) -> float:
    if timeout is None:
        return 0.0
    seconds = number_of_seconds(timeout)
    if not 0 < seconds <= _MAX_FLOAT:
        raise ValueError(f"timeout= is how long a task may run, more than 0 seconds, not {_short(timeout)}")
    return float(seconds)


def _seconds(duration: str | float | None) -> float:
    if duration is None:
        return 0.0
    if isinstance(duration, int) and not abs(duration) <= _MAX_FLOAT:
        raise ValueError(f"duration= is how long a task runs, in seconds, not {_short(duration)}")
    from hpclaunch.config.units import parse_duration  # most programs start without

    return float(parse_duration(duration))


def _short(value: Any) -> str:
    """Show a user's value; Python refuses to write out very long numbers."""
    too_long = isinstance(value, int) and value.bit_length() > 400
    return f"a number of {value.bit_length()} bits" if too_long else f"{value!r:.100}"
