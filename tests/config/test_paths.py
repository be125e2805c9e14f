"""Variables in paths, and numbers that others read differently."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import scripts
from hpclaunch.config.layers import load
from hpclaunch.config.paths import LOGIN_KEYS, expand
from hpclaunch.errors import ConfigError

ENV = {"HOME": "/home/u", "USER": "u", "SCRATCH": "/scratch/u", "ODD": "a $USER b", "EMPTY": ""}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/logs", "/home/u/logs"),
        ("~", "/home/u"),
        ("$HOME/logs", "/home/u/logs"),
        ("${SCRATCH}/x", "/scratch/u/x"),
        ("/data/$USER/x", "/data/u/x"),
        ("/data/${USER}_x", "/data/u_x"),
        ("$ODD/x", "a $USER b/x"),
        ("~other/x", "~other/x"),
        ("/a~/b$", "/a~/b$"),
        ("/a/$5/b", "/a/$5/b"),
        ("logs", "logs"),
    ],
)
def test_paths_mean_what_a_shell_would_say(written: str, meant: str) -> None:
    assert expand(written, ENV) == meant


@pytest.mark.parametrize("system", ["sge", "slurm", "local"])
@pytest.mark.parametrize("key", LOGIN_KEYS)
def test_they_do_so_in_each_key_on_each_batch_system(system: str, key: str) -> None:
    for written in ("~/x", "$HOME/x", "${HOME}/x"):
        job = load(system, {"cores": 1, "memory": "1 GB", key: written}, env=ENV, paths=[]).job
        assert getattr(job, key) == "/home/u/x"


@pytest.mark.parametrize("key", LOGIN_KEYS)
@pytest.mark.parametrize("written", ["$NOWHERE/x", "/x/${EMPTY}"])
def test_a_variable_that_is_not_set_is_refused_with_its_name(key: str, written: str) -> None:
    name = written.strip("/x${}").partition("/")[0]
    with pytest.raises(ConfigError, match=rf"argument {key}: {key.replace('_', '-')}: .*\${name} is not set here"):
        load("slurm", {"cores": 1, "memory": "1 GB", key: written}, env=ENV, paths=[])


def noted(system: str, **values: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        load(system, {"cores": 1, "memory": "1 GB", **values}, env={}, paths=[])
    return [str(note.message) for note in notes]


@pytest.mark.parametrize("key", ["walltime", "walltime_limit"])
@pytest.mark.parametrize("value", ["120", 120, " 120 "])
def test_a_plain_number_of_walltime_is_told_with_both_readings(key: str, value: Any) -> None:
    values = {"walltime": "60s", key: value}
    (note,) = noted("slurm", **values)
    assert "120 seconds (00:02:00) here; Slurm and dask-jobqueue read 120 minutes (02:00:00)" in note
    assert f"argument {key}" in note
    assert noted("sge", **values) == []


def test_two_numbers_with_a_colon_are_told_on_both_systems() -> None:
    for system in ("slurm", "sge"):
        (note,) = noted(system, walltime="1:30")
        assert "1 minutes and 30 seconds" in note
        assert "'01:30:00'" in note
        assert "'00:01:30'" in note


def test_memory_that_slurm_would_read_as_megabytes() -> None:
    (note,) = noted("slurm", memory=4_000_000)
    assert "4 MB here and in dask-jobqueue" in note
    assert noted("sge", memory=4_000_000) == []
    with pytest.raises(ConfigError, match='Write "4000 MB" or "4000 GB"'):
        noted("slurm", memory="4000")


@pytest.mark.parametrize(
    "values",
    [
        {"walltime": "120s"},
        {"walltime": "02:00:00"},
        {"walltime": "90:00"},
        {"walltime": "2-0"},
        {"walltime": "2h"},
        {"memory": 24 * 10**9},
        {"memory": "24 GB"},
        {"walltime": None},
    ],
)
def test_what_all_read_alike_is_not_remarked_on(values: dict[str, Any]) -> None:
    assert noted("slurm", **values) == []


def test_the_jobs_own_paths_are_read_by_the_job(tmp_path: Path) -> None:
    job = load(
        "slurm", {"cores": 1, "memory": "1 GB", "local_directory": "~other/$SCRATCH"}, env=ENV, paths=[]
    ).job
    assert scripts.worker_command(job, tmp_path)[-1] == '~other"/$SCRATCH"'
