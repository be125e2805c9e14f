"""What users of dask-jobqueue write into ``worker-extra-args``: kept, noted or refused."""

from __future__ import annotations

import contextlib
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hpclaunch.config import shellwords
from hpclaunch.config.layers import check_file, load
from hpclaunch.config.schema import JobConfig
from hpclaunch.config.worker_options import _WITHOUT_MEANING, translate
from hpclaunch.errors import ConfigError
from hpclaunch.worker.__main__ import parse


def configured(*lines: str, **more: Any) -> JobConfig:
    """Return a configuration whose jobs have these extra arguments."""
    return load(
        "slurm", {"cores": 4, "memory": "8 GB", "worker_extra_args": list(lines), **more}, env={}, paths=[]
    ).job


MEANT = [
    (["--lifetime", "55m"], ("--lifetime", "3300")),
    (["--lifetime 01:00:00 --lifetime-stagger '4 minutes'"], ("--lifetime", "3600", "--lifetime-stagger", "240")),
    (["--memory-limit=4GB"], ("--memory-limit", "4000000000")),
    (["--memory-limit 0.5"], ("--memory-limit", "0.5")),
    (["--memory-limit auto --nthreads 0 --nworkers auto"], ()),
    (["--local-directory $TMPDIR/work"], ("--local-directory", "$TMPDIR/work")),
    (["--dask-temp", "~/x"], ("--local-directory", "~/x")),
    (["--preload my.setup", "--preload '/a b/c.py'"], ("--preload", "my.setup", "--preload", "'/a b/c.py'")),
    (["--nthreads $N"], ("--threads", "$N")),
]


@pytest.mark.parametrize(("lines", "words"), MEANT)
def test_options_that_mean_something_go_to_our_worker(lines: list[str], words: tuple[str, ...]) -> None:
    assert configured(*lines).worker_extra_args == words


@pytest.mark.parametrize(("lines", "words"), MEANT)
def test_our_worker_takes_what_it_is_given(lines: list[str], words: tuple[str, ...]) -> None:
    plain = [shellwords.literal(word) or "1" for word in translate(lines).words]
    parse(["--directory", "d", "--job", "1", *plain])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--nthreads 3", {"threads": 3, "processes": 4}),
        ("--nworkers 2", {"processes": 2, "threads": 2}),
        ("--nprocs=8", {"processes": 8, "threads": 1}),
        ("--death-timeout 90s", {"death_timeout": 90.0}),
        ("--interface ib0", {"interface": "ib0"}),
        ("--resources 'GPU=2 MEM=10e9'", {"resources": {"GPU": 2.0, "MEM": 1e10}}),
        ("--resources GPU=1 --resources BIG=2", {"resources": {"GPU": 1.0, "BIG": 2.0}}),
    ],
)
def test_options_that_are_keys_of_ours_are_those_keys(line: str, expected: dict[str, Any]) -> None:
    job = configured(line)
    assert {key: getattr(job, key) for key in expected} == expected
    assert job.worker_extra_args == ()


def test_they_win_over_the_keys_as_they_did() -> None:
    loaded = load(
        "slurm",
        {"cores": 4, "memory": "8 GB", "processes": 1, "worker_extra_args": ["--nworkers 2"]},
        env={},
        paths=[],
    )
    assert loaded.job.processes == 2
    assert loaded.origin("processes") == "argument worker_extra_args"


def test_options_without_a_meaning_are_noted_once_with_the_reason() -> None:
    with pytest.warns(UserWarning, match="without effect here") as notes:
        job = configured("--no-dashboard", "--name w1 --dashboard-address :0", "--lifetime-restart")
    (note,) = notes
    text = str(note.message)
    assert "--no-dashboard, --dashboard-address (workers have no dashboard)" in text
    assert "--name (workers are named by their jobs)" in text
    assert "--lifetime-restart (a job whose lifetime is over is replaced by another)" in text
    assert job.worker_extra_args == ()


@pytest.mark.parametrize("option", sorted(_WITHOUT_MEANING))
def test_each_of_them_is_known_with_or_without_its_value(option: str) -> None:
    takes_value, _ = _WITHOUT_MEANING[option]
    assert list(translate([f"{option} x" if takes_value else option]).ignored) == [option]
    assert list(translate([f"{option}=x" if takes_value else option, "--nthreads 2"]).ignored) == [option]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--liftime 55m", r"no option '--liftime'; did you mean '--lifetime'\?"),
        ("--no-dashbord", r"did you mean '--no-dashboard'\?"),
        ("--frobnicate", r"no option '--frobnicate'; there are --death-timeout"),
        ("tcp://10.0.0.1:8786", "'tcp://10.0.0.1:8786' belongs to no option"),
        ("--lifetime", "--lifetime must be followed by its value"),
        ("--lifetime --no-dashboard", "--lifetime must be followed by its value"),
        ("--lifetime never", "--lifetime: 'never' is not a time"),
        ("--nthreads many", "--nthreads: must be a whole number"),
        ("--nthreads -2", "--nthreads: must be a whole number"),
        ("--memory-limit 4", "less than 1 MiB; did you forget the unit"),
        ("--resources GPU", "names and amounts such as GPU=2"),
        ("--protocol ucx", "must be tls:// or tcp://"),
        ("--protocol $P", "must be tls:// or tcp://"),
        ("--job 4711", "no option '--job'"),
        ("--preload 'x", '"\'" is not part of an argument; quote it'),
        ("--preload x; rm -rf ~", "';' is not part of an argument"),
        ("--preload x > out", "'>' is not part of an argument"),
        ("--preload $(id)", "is not part of an argument"),
        ("--preload `id`", "is not part of an argument"),
        ("--preload x # y", "'#' is not part of an argument"),
        ('--preload "$(id)"', "is not part of an argument"),
        ("--preload (y)", r"'\(' is not part of an argument"),
    ],
)
def test_what_a_worker_would_not_take_is_refused_here(line: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        configured(line)
    path = tmp_path / "jobqueue.yaml"
    path.write_text(f"jobqueue:\n  slurm:\n    worker-extra-args:\n    - {line!r}\n")
    (error,) = check_file(path)
    assert re.search(words, str(error))
    assert f"{path}:3" in str(error)


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), max_size=4)
)
def test_any_text_is_read_or_refused_in_words(lines: list[str]) -> None:
    with contextlib.suppress(ValueError):
        assert all(shellwords.split(word) == [word] for word in translate(lines).words)


EMPTY = ['extra: ""', "extra: null", "job-extra: {}", "job-extra: null", "env-extra: ''", "header-skip: []"]


@pytest.mark.parametrize("line", EMPTY)
def test_every_way_to_say_nothing_loads(line: str, tmp_path: Path) -> None:
    path = tmp_path / "jobqueue.yaml"
    path.write_text(f"jobqueue:\n  sge:\n    cores: 1\n    memory: 1 GB\n    {line}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert check_file(path) == []
        job = load("sge", env={}, paths=[path]).job
    assert (job.worker_extra_args, job.job_extra_directives, job.job_script_prologue) == ((), (), ())


def test_extra_may_be_one_text_as_in_the_oldest_files() -> None:
    with pytest.warns(FutureWarning):
        job = load(
            "sge", {"cores": 1, "memory": "1 GB", "extra": "--lifetime 5m --nthreads 2"}, env={}, paths=[]
        ).job
    assert (job.worker_extra_args, job.threads) == (("--lifetime", "300"), 2)


@pytest.mark.parametrize(
    ("python", "command"),
    [
        ("apptainer exec /images/my.sif python", ["apptainer", "exec", "/images/my.sif", "python"]),
        ("$HOME/env/bin/python -X dev", ["$HOME/env/bin/python", "-X", "dev"]),
        ("'/a b/python'", ["'/a b/python'"]),
        ("/usr/bin/python3", ["/usr/bin/python3"]),
    ],
)
def test_python_may_be_several_words(python: str, command: list[str]) -> None:
    from hpclaunch import scripts

    assert scripts.worker_command(configured(python=python), Path("/d"))[: len(command)] == command


def test_a_python_with_blanks_in_its_path_is_one_word(tmp_path: Path) -> None:
    path = tmp_path / "my (new) python"
    path.write_text("")
    assert shellwords.literal(configured(python=str(path)).python) == str(path)


@pytest.mark.parametrize("python", ["python; id", "python > x", "$(which python)", "'python"])
def test_a_python_that_is_more_than_words_is_refused(python: str) -> None:
    with pytest.raises(ConfigError, match="is not part of an argument"):
        configured(python=python)
