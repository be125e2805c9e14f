"""What ``adapt()`` was asked, read into a :class:`~hpclaunch.jobs.adaptive.Policy`. Pure.

Workers, cores and memory are turned into whole jobs, so that a minimum is reached and a maximum never exceeded.
Where several are given, each of them holds. What contradicts itself is refused before anything happens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hpclaunch.config.schema import JobConfig
from hpclaunch.config.units import parse_bytes, parse_duration
from hpclaunch.errors import ConfigError
from hpclaunch.jobs.adaptive import OVERTIME_SECONDS, Policy

_TIMES = ("interval", "target_duration", "idle_timeout", "pending_grace")
_BOUNDS = ("", "_jobs", "_cores", "_memory")
#: Every argument of adapt(), as it is written in Python.
ARGUMENTS = (
    *(f"{side}{unit}" for side in ("minimum", "maximum") for unit in _BOUNDS),
    *_TIMES,
    "wait_count",
    "max_submit_rate",
    "core_hours",
)


def read_policy(arguments: Mapping[str, Any], config: JobConfig) -> Policy:
    """Return the policy that these arguments mean for jobs like ``config``'s.

    Arguments that are None are taken from ``config.adaptive``, or else have the defaults.

    :raises ConfigError: a value can't be used, or two contradict each other; the text says which.
    """
    given = {**config.adaptive, **{key: value for key, value in arguments.items() if value is not None}}
    if "Adaptive" in given:
        raise ConfigError(
            "adapt: Adaptive= is a class of Dask's, which can't decide here: leave it out", key="Adaptive"
        )
    for key in given:
        if key not in ARGUMENTS:
            raise ConfigError(f"adapt: unknown {key!r}; there are {', '.join(ARGUMENTS)}", key="adaptive")
    minimum = max((_jobs(given, f"minimum{unit}", config, math.ceil) for unit in _BOUNDS), default=0)
    named = [f"maximum{unit}" for unit in _BOUNDS if given.get(f"maximum{unit}") is not None]
    maxima = [_jobs(given, key, config, math.floor) for key in named if given[key] != math.inf]
    maximum = min(maxima) if maxima else None
    if maximum is not None and minimum > maximum:
        raise ConfigError(
            f"adapt: a minimum of {minimum} jobs and a maximum of {maximum} contradict each other "
            f"({_said(given)}; a job has {config.processes} workers, {config.cores} cores, {config.memory} bytes)",
            key="minimum",
        )
    rest: dict[str, Any] = {key: _time(given[key], key) for key in _TIMES if given.get(key) is not None}
    if given.get("wait_count") is not None:
        rest["wait_count"] = _whole(given["wait_count"], "wait_count")
    for key in ("max_submit_rate", "core_hours"):
        if given.get(key) is not None:
            rest[key] = _above_zero(given[key], key)
    policy = Policy(minimum=minimum, maximum=maximum, **rest)
    _check_budget(policy, config)
    return policy


def _jobs(given: Mapping[str, Any], key: str, config: JobConfig, whole: Callable[[float], int]) -> int:
    """Return a bound in whole jobs; 0 if it is not given."""
    value = given.get(key)
    if value is None:
        return 0
    unit = key.partition("_")[2]
    size = _bytes(value, key) if unit == "memory" else _whole(value, key)
    per_job = {"": config.processes, "jobs": 1, "cores": config.cores, "memory": config.memory}[unit]
    jobs = whole(size / per_job)
    if not jobs and size:
        raise ConfigError(f"adapt: {key}={value} is less than one job, which has {per_job}", key=key)
    return jobs


def _check_budget(policy: Policy, config: JobConfig) -> None:
    if policy.core_hours is None:
        return
    if config.walltime is None:
        raise ConfigError(
            "adapt: core_hours needs jobs with a walltime, for that is what is set aside for each",
            key="core_hours",
        )
    each = config.cores * (config.walltime + OVERTIME_SECONDS) / 3600
    if each > policy.core_hours:
        raise ConfigError(
            f"adapt: core_hours={policy.core_hours:g} does not pay for one job: {config.cores} cores for the "
            f"walltime and a minute are {each:.3g} core hours",
            key="core_hours",
        )
    if policy.minimum * each > policy.core_hours:
        raise ConfigError(
            f"adapt: core_hours={policy.core_hours:g} does not pay for the minimum of {policy.minimum} jobs, "
            f"which are {policy.minimum * each:.3g} core hours",
            key="core_hours",
        )


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 0:
        raise ConfigError(f"adapt: {key} must be a whole number of 0 or more, not {value!r}", key=key)
    return int(value.__index__())


def _above_zero(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"adapt: {key} must be a number above 0, not {value!r}", key=key)
    return float(value)


def _time(value: Any, key: str) -> float:
    text = _duration_text(value)
    try:
        seconds = parse_duration(text)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"adapt: {key}: {error}", key=key) from None
    if seconds <= 0 and key in ("interval", "target_duration"):
        raise ConfigError(f"adapt: {key} must be more than 0 seconds", key=key)
    return max(seconds, 0.05) if key == "interval" else seconds


def _duration_text(value: Any) -> Any:
    """Return a time in a spelling that all times have: Dask's own also have "1000 ms" and timedelta."""
    if hasattr(value, "total_seconds"):
        return float(value.total_seconds())
    if isinstance(value, str) and value.strip().endswith("ms"):
        number = value.strip().removesuffix("ms").strip()
        return float(number) / 1000 if number.replace(".", "", 1).isdigit() else value
    return value


def _bytes(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f'adapt: {key} must be a size such as "64 GB", not {value!r}', key=key)
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise ConfigError(f"adapt: {key}: {error}", key=key) from None


def _said(given: Mapping[str, Any]) -> str:
    bounds = [f"{side}{unit}" for side in ("minimum", "maximum") for unit in _BOUNDS]
    return ", ".join(f"{key}={given[key]}" for key in bounds if given.get(key) is not None)
