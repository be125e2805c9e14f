"""Layers, origins, older names, and every kind of mistake."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpclaunch.config.layers import check_file, find_files, load
from hpclaunch.config.schema import ALIASES, KEYS, MEMORY_KEYS, JobConfig, default_processes
from hpclaunch.data_files import data_path
from hpclaunch.errors import ConfigError, ConfigErrors

DATA = Path(__file__).parents[1] / "data" / "config"


def read(
    section: str = "sge", paths: list[Path] | None = None, env: dict[str, str] | None = None, **over: Any
) -> Any:
    """Load with no files but these, and what every job needs."""
    needed = {"cores": 1, "memory": "1 GB"} if not paths else {}
    return load(section, {**needed, **over}, env=env or {}, paths=paths or [])


def write(tmp_path: Path, text: str, name: str = "jobqueue.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


# --- the file that users have -------------------------------------------------------------------------------


def test_the_file_of_a_dask_user_loads_unchanged() -> None:
    path = DATA / "jobqueue-arc4.yaml"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load("sge", env={}, paths=[path])
    job = loaded.job
    assert (job.name, job.cores, job.memory, job.processes) == ("dask-worker", 1, 10**9, 1)
    assert (job.interface, job.death_timeout, job.walltime) == ("ib0", 60, 3600)
    assert (job.memory_target, job.memory_spill, job.memory_pause, job.memory_terminate) == (None, None, 0.8, 0.95)
    assert loaded.origin("cores") == f"{path}:4"
    assert loaded.origin("memory-pause").startswith(str(path))
    assert loaded.origin("engine").endswith("defaults.yaml:22") or "defaults.yaml" in loaded.origin("engine")


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, (new, is_old) in ALIASES.items() if is_old])
def test_older_names_are_read_as_todays(tmp_path: Path, old: str, new: str) -> None:
    path = write(
        tmp_path, f"jobqueue:\n  sge:\n    cores: 1\n    memory: 1 GB\n    {old.replace('_', '-')}: ['-x 1']\n"
    )
    with pytest.warns(FutureWarning, match=re.escape(f"{path}:5")):
        job = load("sge", env={}, paths=[path]).job
    assert getattr(job, new) == ("-x 1",)


def test_project_and_account_are_one_thing() -> None:
    assert read(project="feps").job.account == "feps"
    assert read(account="feps").job.account == "feps"
    with pytest.raises(ConfigError, match="same thing"):
        read(account="a", project="b")


def test_an_old_and_a_new_name_at_once_is_a_mistake_that_names_both(tmp_path: Path) -> None:
    text = "jobqueue:\n  sge:\n    job-extra: ['-V']\n    job-extra-directives: ['-b']\n"
    with pytest.raises(ConfigError, match=r"jobqueue.yaml:4.*jobqueue.yaml:3|jobqueue.yaml:3.*jobqueue.yaml:4"):
        read(paths=[write(tmp_path, text)], cores=1, memory="1 GB")


def test_an_empty_old_name_beside_a_new_one_is_none(tmp_path: Path) -> None:
    text = "jobqueue:\n  sge:\n    job-extra: []\n    job-extra-directives: ['-b y']\n    extra: null\n"
    assert read(paths=[write(tmp_path, text)], cores=1, memory="1 GB").job.job_extra_directives == ("-b y",)


def test_sections_of_other_batch_systems_are_skipped(tmp_path: Path) -> None:
    text = "jobqueue:\n  pbs:\n    ncpus: 4\n  lsf:\n    use-stdin: true\n  sge:\n    cores: 2\n    memory: 1GB\n"
    assert read(paths=[write(tmp_path, text)]).job.cores == 2
    with pytest.raises(ConfigError, match="pbs' is not supported; there are sge, slurm, local"):
        read("pbs", paths=[write(tmp_path, text)])


# --- layers -------------------------------------------------------------------------------------------------


def test_later_layers_win_and_say_so(tmp_path: Path) -> None:
    low = write(tmp_path, "jobqueue:\n  sge:\n    cores: 2\n    queue: low\n    memory: 1GB\n", "a.yaml")
    high = write(tmp_path, "jobqueue:\n  sge:\n    queue: high\n", "b.yaml")
    loaded = load("sge", {"walltime": "2h"}, env={"HPCLAUNCH_JOBQUEUE__SGE__CORES": "4"}, paths=[low, high])
    assert (loaded.job.cores, loaded.job.queue, loaded.job.walltime) == (4, "high", 7200)
    assert loaded.origin("cores") == "$HPCLAUNCH_JOBQUEUE__SGE__CORES"
    assert loaded.origin("queue") == f"{high}:3"
    assert loaded.origin("memory") == f"{low}:5"
    assert loaded.origin("walltime") == "argument walltime"


def test_a_site_profile_builds_on_its_batch_system(tmp_path: Path) -> None:
    base = "  sge:\n    queue: all.q\n    cores: 2\n    memory: 2GB\n"
    text = f"jobqueue:\n{base}  arc4:\n    batch_system: sge\n    cores: 8\n"
    job = read("arc4", paths=[write(tmp_path, text)]).job
    assert (job.section, job.batch_system, job.queue, job.cores) == ("arc4", "sge", "all.q", 8)


def test_a_profile_must_say_its_batch_system(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must say batch-system: sge, slurm, local"):
        read("mine", paths=[write(tmp_path, "jobqueue:\n  mine:\n    cores: 8\n")])


def test_dash_and_underscore_are_one(tmp_path: Path) -> None:
    text = "jobqueue:\n  sge:\n    death_timeout: 5\n    log-directory: /x\n    cores: 1\n    memory: 1GB\n"
    job = read(paths=[write(tmp_path, text)]).job
    assert (job.death_timeout, job.log_directory) == (5, "/x")


def test_null_takes_a_value_away(tmp_path: Path) -> None:
    low = write(
        tmp_path, "jobqueue:\n  sge:\n    queue: low\n    cores: 1\n    memory: 1GB\n    name: x\n", "a.yaml"
    )
    high = write(tmp_path, "jobqueue:\n  sge:\n    queue: null\n    name: null\n", "b.yaml")
    job = load("sge", env={}, paths=[low, high]).job
    assert job.queue is None
    assert job.name == "hpclaunch-worker"  # a job must have one, so null is the default


def test_files_are_found_where_users_put_them(tmp_path: Path) -> None:
    mine = tmp_path / "config" / "hpclaunch"
    mine.mkdir(parents=True)
    (mine / "b.yaml").touch()
    (mine / "a.yaml").touch()
    extra = tmp_path / "extra.yaml"
    extra.touch()
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HPCLAUNCH_CONFIG": str(extra)}
    assert find_files(env)[-3:] == [mine / "a.yaml", mine / "b.yaml", extra]
    with pytest.raises(ConfigError, match=r"HPCLAUNCH_CONFIG.*no /nowhere"):
        find_files({"HPCLAUNCH_CONFIG": "/nowhere", "HOME": str(tmp_path)})


@given(st.dictionaries(st.sampled_from(["queue", "account", "interface"]), st.sampled_from(["a", "b", "c"])))
def test_arguments_win_over_everything(over: dict[str, str]) -> None:
    env = {f"HPCLAUNCH_JOBQUEUE__SGE__{key.upper()}": "env" for key in ("queue", "account", "interface")}
    job = read(env=env, **over).job
    for key in ("queue", "account", "interface"):
        assert getattr(job, key) == over.get(key, "env")


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cors": 3}, "unknown key 'cors'; did you mean 'cores'"),
        ({"cores": "four"}, "cores: must be a whole number"),
        ({"cores": 0}, "cores: must be at least 1"),
        ({"cores": -2}, "cores: must be at least 1"),
        ({"cores": True}, "cores: must be a whole number"),
        ({"memory": "24 GX"}, "memory: '24 GX' is not a size"),
        ({"memory": 4}, "memory: 4 is less than 1 MiB; did you forget the unit"),
        ({"walltime": "soon"}, "walltime: 'soon' is not a time"),
        ({"walltime": "02:00:00", "walltime_limit": "01:00:00"}, "02:00:00 is over this site's limit of 01:00:00"),
        ({"death_timeout": 0}, "death-timeout: must be more than 0"),
        ({"processes": 3, "cores": 2}, "3 processes need at least as many cores; the job has 2"),
        ({"job_extra_directives": "-V"}, r"must be a list, so write \['-V'\]"),
        ({"job_extra_directives": ["-V\n-b"]}, "one directive per item"),
        ({"shebang": "bash"}, "must begin with"),
        ({"interface": "ib 0"}, "not the name of a network interface"),
        ({"name": "my job"}, "must not contain"),
        ({"name": "1job"}, "no job name that begins with a digit"),
        ({"name": "a\nb"}, "must be one line"),
        ({"queue": ["a", "b"]}, "queue: must be a text, not a list"),
        ({"security": "no"}, "security: must be true or false"),
        ({"scheduler_options": 3}, "scheduler-options: must be a mapping"),
        ({"worker_command": "my_worker"}, "template-directory"),
        ({"engine": "spark"}, "engine: must be one of embedded, dask, ray"),
        ({"protocol": "ucx://"}, "must be tls:// or tcp://"),
        ({"batch_system": "pbs"}, "must say batch-system"),
    ],
)
def test_one_mistake_is_one_clear_error(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read(**arguments)
    assert not isinstance(caught.value, ConfigErrors)
    key = next(iter(arguments))
    assert caught.value.origin == f"argument {key}"


def test_fractions_of_memory_must_rise(tmp_path: Path) -> None:
    text = "distributed:\n  worker:\n    memory:\n      spill: 0.9\n      pause: 0.5\n"
    with pytest.raises(ConfigError, match=r"memory spill \(0.9\) must not be above pause \(0.5\)"):
        read(paths=[write(tmp_path, text)], cores=1, memory="1 GB")


def test_cores_and_memory_must_come_from_somewhere() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load("slurm", env={}, paths=[])
    assert [error.key for error in caught.value.errors] == ["cores", "memory"]
    assert "jobqueue.slurm" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jobqueue: [", ":1: is not YAML"),
        ("jobqueue:\n  sge:\n    cores: 1\n    cores: 2\n", ":4: 'cores' stands here a second time.*line 3"),
        (
            "jobqueue:\n  sge:\n    death-timeout: 1\n    death_timeout: 2\n",
            ":4: 'death_timeout' stands here a second",
        ),
        ("jobqueu: {}\n", ":1: unknown name 'jobqueu'.*did you mean 'jobqueue'"),
        ("- a\n- b\n", ":1: a mapping of keys"),
        ("jobqueue:\n  sge: 3\n", ":2: a mapping of keys"),
        ("jobqueue:\n  sge:\n    ? [a]\n    : 1\n", "a key must be a plain word"),
    ],
)
def test_mistakes_in_files_name_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(paths=[write(tmp_path, text)], cores=1, memory="1 GB")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"jobqueue: \xff\xfe")
    assert "is not UTF-8" in str(check_file(path)[0])


def test_times_without_quotes_are_what_they_look_like(tmp_path: Path) -> None:
    text = "jobqueue:\n  sge:\n    walltime: 10:00:00\n    cores: 1\n    memory: 1GB\n"
    assert read(paths=[write(tmp_path, text)]).job.walltime == 36000


def test_ten_mistakes_are_told_at_once_each_with_its_line() -> None:
    path = DATA / "ten-mistakes.yaml"
    with pytest.warns(FutureWarning):
        errors = check_file(path)
    found = {int(re.search(r":(\d+)$", error.origin or "")[1]): error for error in errors}  # type: ignore[index]
    assert sorted(found) == [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 18, 19]
    assert "did you mean 'queue'" in str(found[10])
    assert all("\n" not in str(error) for error in errors)


def test_the_ten_mistakes_stop_a_load_before_anything_else() -> None:
    with pytest.raises(ConfigErrors), pytest.warns(FutureWarning):
        load("sge", env={}, paths=[DATA / "ten-mistakes.yaml"])


# --- the reference ------------------------------------------------------------------------------------------


def test_the_reference_has_every_key_with_a_comment() -> None:
    text = (data_path("configs") / "defaults.yaml").read_text()
    default = text[text.index("  default:") : text.index("\n  sge:")]
    listed = dict(re.findall(r"^    ([a-z-]+):(.*)$", default, re.M))
    wanted = {key.replace("_", "-") for key in KEYS if key.removeprefix("memory_") not in MEMORY_KEYS}
    assert set(listed) == wanted
    undocumented = [key for key, rest in listed.items() if "#" not in rest and key != "shebang"]
    assert not undocumented
    for key in MEMORY_KEYS:
        assert re.search(rf"^      {key}: 0\.\d+ +# ", text, re.M)


def test_every_field_is_a_key_and_every_key_a_field() -> None:
    assert set(JobConfig.__struct_fields__) == {*KEYS, "section"}


@pytest.mark.parametrize("path", sorted((data_path("configs") / "sites").glob("*.yaml")), ids=lambda p: p.stem)
def test_site_files_are_right(path: Path) -> None:
    assert check_file(path) == []


@pytest.mark.parametrize("path", sorted((data_path("configs") / "starters").glob("*.yaml")), ids=lambda p: p.stem)
def test_starter_files_are_right_also_with_everything_switched_on(path: Path, tmp_path: Path) -> None:
    assert check_file(path) == []
    switched_on = re.sub(r"^    # (?=[a-z ]*[a-z-]+:|  - )", "    ", path.read_text(), flags=re.M)
    assert switched_on != path.read_text()
    assert check_file(write(tmp_path, switched_on)) == []


@given(st.integers(1, 512))
def test_processes_divide_cores(cores: int) -> None:
    processes = default_processes(cores)
    assert cores % processes == 0
    assert processes**2 <= cores


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        read().job.cores = 2
