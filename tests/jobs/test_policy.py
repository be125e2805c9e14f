"""What adapt() takes."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from hpclaunch.config.layers import load
from hpclaunch.config.schema import JobConfig
from hpclaunch.errors import ConfigError
from hpclaunch.jobs.adaptive import Policy
from hpclaunch.jobs.policy import ARGUMENTS, read_policy


def config(**changes: Any) -> JobConfig:
    values = {"cores": 4, "processes": 2, "memory": "8 GB", "walltime": "01:00:00", "python": "/usr/bin/python3"}
    return load("sge", {**values, **changes}, env={}, paths=[]).job


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        ({}, Policy()),
        ({"minimum": 3, "maximum": 5}, Policy(minimum=2, maximum=2)),  # a minimum is reached, a maximum kept
        ({"minimum_cores": 5, "maximum_cores": 15}, Policy(minimum=2, maximum=3)),
        ({"minimum_memory": "9 GB", "maximum_memory": "31 GB"}, Policy(minimum=2, maximum=3)),
        ({"maximum": 20, "maximum_jobs": 4, "minimum": 2, "minimum_jobs": 3}, Policy(minimum=3, maximum=4)),
        ({"maximum": math.inf, "maximum_jobs": None}, Policy()),
        ({"interval": "1000 ms", "target_duration": timedelta(minutes=1)}, Policy(interval=1, target_duration=60)),
        (
            {"idle_timeout": "1m", "pending_grace": 0, "wait_count": 1},
            Policy(idle_timeout=60, pending_grace=0, wait_count=1),
        ),
        ({"core_hours": 9, "max_submit_rate": 0.5}, Policy(core_hours=9, max_submit_rate=0.5)),
    ],
)
def test_arguments_become_jobs_and_seconds(arguments: dict[str, Any], policy: Policy) -> None:
    assert read_policy(arguments, config()) == policy


#: What dask.distributed's and dask-jobqueue's adapt() take; ``worker_key`` and ``Adaptive`` are refused.
DASK = {
    "minimum": 2,
    "maximum": 8,
    "minimum_jobs": 1,
    "maximum_jobs": 4,
    "minimum_cores": 4,
    "maximum_cores": 16,
    "minimum_memory": "8 GB",
    "maximum_memory": "32 GB",
    "interval": "1s",
    "wait_count": 3,
    "target_duration": "5s",
}


@pytest.mark.parametrize("name", DASK)
def test_every_name_of_dasks_has_its_meaning(name: str) -> None:
    side = name.partition("_")[0]
    bounds = {"minimum": {"minimum": 1}, "maximum": {"maximum": 4}}.get(side, {})
    assert read_policy({name: DASK[name]}, config()) == Policy(**bounds)  # the others are the defaults


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"minimum_jobs": 3, "maximum": 4}, "a minimum of 3 jobs and a maximum of 2 contradict each other"),
        ({"maximum": 1}, "maximum=1 is less than one job, which has 2"),
        ({"minimum": -1}, "minimum must be a whole number of 0 or more"),
        ({"maximum_jobs": 2.5}, "maximum_jobs must be a whole number"),
        ({"minimum_memory": "lots"}, "minimum_memory"),
        ({"interval": 0}, "interval must be more than 0"),
        ({"interval": "soon"}, "interval: 'soon' is not a time"),
        ({"max_submit_rate": 0}, "max_submit_rate must be a number above 0"),
        ({"core_hours": 1}, "core_hours=1 does not pay for one job"),
        ({"core_hours": 9, "minimum_jobs": 3}, "does not pay for the minimum of 3 jobs"),
        ({"scale_factor": 2}, "unknown 'scale_factor'"),
        ({"Adaptive": object}, "Adaptive= is a class of Dask's, which can't decide here: leave it out"),
        ({"minimum_memory": "40 GB", "maximum_jobs": 4}, "a minimum of 5 jobs and a maximum of 4 contradict"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_policy(arguments, config())
    assert words in str(caught.value)


def test_a_budget_needs_a_walltime() -> None:
    local = load("local", {"memory": "1 GB"}, env={}, paths=[]).job
    with pytest.raises(ConfigError, match="core_hours needs jobs with a walltime"):
        read_policy({"core_hours": 9}, local)


def test_the_section_has_defaults() -> None:
    ours = config(adaptive={"maximum-jobs": 7, "idle-timeout": "30s"})
    assert read_policy({}, ours) == Policy(maximum=7, idle_timeout=30)
    assert read_policy({"maximum_jobs": 2}, ours) == Policy(maximum=2, idle_timeout=30)


def test_every_argument_is_explained() -> None:
    from hpclaunch import LocalCluster

    text = LocalCluster.adapt.__doc__ or ""
    for key in ARGUMENTS:
        word = key.partition("_")[0] if key.startswith("maximum_") else key
        assert f"``{word}" in text, key
