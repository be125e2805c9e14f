"""dask-mpi's arguments as configuration keys of ours."""

from __future__ import annotations

from typing import Any

import pytest

from hpclaunch.config.layers import load
from hpclaunch.errors import ConfigError
from hpclaunch.mpi.arguments import inclusive, overrides, patience


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {}),
        ({"interface": None, "local_directory": ""}, {}),
        ({"nthreads": 2, "memory_limit": "4 GB"}, {"nthreads": 2, "memory_limit": "4 GB"}),
        ({"memory_limit": "auto"}, {}),
        ({"memory_limit": 0}, {}),
        ({"dashboard": True, "dashboard_address": ":8787", "worker_name": "x"}, {}),
        ({"dashboard_address": ":2727"}, {"scheduler_options": {"dashboard_address": ":2727"}}),
        ({"scheduler_port": 4000, "host": "h"}, {"scheduler_options": {"port": 4000, "host": "h"}}),
        ({"worker_options": {"nthreads": 3}}, {"nthreads": 3}),
        ({"worker_options": {"nthreads": 3}, "nthreads": 1}, {"nthreads": 1}),
    ],
)
def test_arguments_become_keys(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    assert overrides(arguments) == expected


def test_worker_options_that_mean_nothing_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'lifetime' has no meaning here; there are nthreads"):
        overrides({"worker_options": {"lifetime": "1h"}})


def test_how_long_to_wait() -> None:
    assert patience({}, 300.0) == 300.0
    assert patience({"start_timeout": 5}, 300.0) == 5.0
    for bad in (0, -1, "soon", True):
        with pytest.raises(ConfigError, match="start_timeout"):
            patience({"start_timeout": bad}, 300.0)


def test_inclusive_is_the_opposite_of_exclusive() -> None:
    assert [inclusive(value) for value in (None, True, False)] == [None, False, True]
    with pytest.raises(ConfigError, match="exclusive_workers"):
        inclusive("no")


def test_the_section_for_ranks_has_defaults_of_its_own() -> None:
    job = load("mpi", {}, paths=[], env={}).job
    assert (job.cores, job.processes, job.threads, job.walltime) == (1, 1, 1, None)
    assert job.exclusive_workers
    assert job.memory > 0
    job = load("mpi", {"nthreads": 4, "memory_limit": "2 GB"}, paths=[], env={}).job
    assert (job.threads, job.memory) == (4, 2_000_000_000)


@pytest.mark.parametrize(("key", "value"), [("protocol", "ucx://"), ("worker_class", "mine.Worker")])
def test_what_makes_no_sense_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key.replace("_", "-")):
        load("mpi", overrides({key: value}), paths=[], env={})
