"""Layers, origins, older names, and every kind of mistake."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, strategies as st

from hpclaunch.config.layers import check_file, find_files, load
from hpclaunch.config.machine import Machine
from hpclaunch.config.schema import ALIASES, KEYS, MEMORY_KEYS, MEMORY_LEVELS, JobConfig, default_processes
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
    assert re.search(r"defaults.yaml:\d+$", loaded.origin("engine"))


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, (new, is_old) in ALIASES.items() if is_old])
def test_older_names_are_read_as_todays(tmp_path: Path, old: str, new: str) -> None:
    path = write(
        tmp_path,
        f"jobqueue:\n  sge:\n    cores: 1\n    memory: 1 GB\n    {old.replace('_', '-')}: ['--preload x']\n",
    )
    with pytest.warns(FutureWarning, match=re.escape(f"{path}:5")):
        job = load("sge", env={}, paths=[path]).job
    assert " ".join(getattr(job, new)) == "--preload x"


def test_project_and_account_are_one_thing() -> None:
    assert read(project="feps").job.account == "feps"
    assert read(account="feps").job.account == "feps"
    with pytest.raises(ConfigError, match="same thing"):
        read(account="a", project="b")


def test_an_old_and_a_new_name_at_once_is_a_mistake_that_names_both(tmp_path: Path) -> None:
    text = "jobqueue:\n  sge:\n    job-extra: ['-V']\n    job-extra-directives: ['-b']\n"
    both = r"jobqueue.yaml:4: 'job-extra-directives' and 'job-extra' \(.*jobqueue.yaml:3\) are the same thing"
    with pytest.raises(ConfigError, match=both), pytest.warns(FutureWarning):
        read(paths=[write(tmp_path, text)], cores=1, memory="1 GB")


def test_an_empty_old_name_beside_a_new_one_is_none(tmp_path: Path) -> None:
    text = "jobqueue:\n  sge:\n    job-extra: []\n    job-extra-directives: ['-b y']\n    extra: null\n"
    assert read(paths=[write(tmp_path, text)], cores=1, memory="1 GB").job.job_extra_directives == ("-b y",)


def dask_sections() -> dict[str, dict[str, Any]]:
    """Every key that dask-jobqueue's own file has for the batch systems we share, with its default."""
    worker: dict[str, Any] = {
        **dict.fromkeys(("cores", "memory", "processes", "python", "interface", "local-directory", "extra")),
        **dict.fromkeys(("shared-temp-directory", "env-extra", "job-extra", "log-directory")),
        "name": "dask-worker",
        "death-timeout": 60,
        "worker-command": "distributed.cli.dask_worker",
        **{key: [] for key in ("worker-extra-args", "job-script-prologue", "job-extra-directives")},
        "job-directives-skip": [],
        "scheduler-options": {},
    }
    batch = {"shebang": "#!/usr/bin/env bash", "queue": None, "walltime": "00:30:00"}
    return {
        "sge": {**worker, **batch, "project": None, "resource-spec": None},
        "slurm": {**worker, **batch, "account": None, "job-cpu": None, "job-mem": None},
        "local": worker,
    }


@pytest.mark.parametrize("section", ["sge", "slurm", "local"])
def test_the_whole_file_of_dask_jobqueue_loads(tmp_path: Path, section: str) -> None:
    sections = {**dask_sections(), "lsf": {"use-stdin": True}, "htcondor": {"job-extra-directives": {}}}
    path = write(tmp_path, yaml.safe_dump({"jobqueue": sections}))
    assert check_file(path) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job = load(section, {"cores": 4, "memory": "8 GB"}, env={}, paths=[path]).job
    assert (job.name, job.death_timeout, job.processes) == ("dask-worker", 60, 4)
    assert job.walltime == (None if section == "local" else 1800)


def test_arguments_of_dask_jobqueue_that_do_no_harm() -> None:
    with pytest.warns(UserWarning, match="argument nanny: nanny: false has no effect"):
        assert read(nanny=False).job.nanny is False
    with pytest.warns(UserWarning, match=r"protocol: tcp:// has no effect, connections are TLS"):
        assert read(protocol="tcp://").job.security is True
    assert read(silence_logs=False, loop=None, worker_class="distributed.Nanny").job.silence_logs is None
    assert read(silence_logs="error").job.silence_logs == "error"
    assert read(job_mem=0).job.job_mem == "0"
    assert read(security=False, protocol="tcp").job.security is False


def test_the_local_batch_system_takes_what_the_machine_has() -> None:
    machine = Machine(cores=8, memory=32 * 10**9)
    loaded = load("local", env={}, paths=[], machine=machine)
    assert (loaded.job.cores, loaded.job.memory) == (1, 4 * 10**9)
    assert "machine" in loaded.origin("memory")
    assert load("local", {"cores": 4}, env={}, paths=[], machine=machine).job.memory == 16 * 10**9
    assert load("local", {"cores": 99}, env={}, paths=[], machine=machine).job.memory == machine.memory
    assert load("local", {"memory": "1 GB"}, env={}, paths=[], machine=machine).job.memory == 10**9


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


def test_merge_keys_bring_what_is_not_said(tmp_path: Path) -> None:
    text = (
        "jobqueue:\n  sge: &base\n    cores: 2\n    memory: 2GB\n    death-timeout: 7\n"
        "  big:\n    <<: *base\n    batch-system: sge\n    cores: 8\n    death_timeout: 9\n"
    )
    path = write(tmp_path, text)
    assert check_file(path) == []
    loaded = read("big", paths=[path])
    assert (loaded.job.cores, loaded.job.memory, loaded.job.death_timeout) == (8, 2 * 10**9, 9)
    assert (loaded.origin("cores"), loaded.origin("memory")) == (f"{path}:9", f"{path}:4")


def test_of_several_merged_mappings_the_first_wins(tmp_path: Path) -> None:
    text = (
        "jobqueue:\n  a: &a {batch-system: sge, queue: qa}\n"
        "  b: &b {batch-system: slurm, queue: qb, account: ab}\n"
        "  c:\n    <<: [*a, *b]\n    cores: 1\n    memory: 1GB\n"
    )
    job = read("c", paths=[write(tmp_path, text)]).job
    assert (job.batch_system, job.queue, job.account) == ("sge", "qa", "ab")


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


_LAYER = st.dictionaries(
    st.sampled_from(["queue", "account", "interface", "cores", "death-timeout", "death_timeout"]),
    st.integers(1, 9),
).filter(lambda layer: not {"death-timeout", "death_timeout"} <= layer.keys())


@given(st.lists(_LAYER, max_size=4))
def test_of_many_files_the_last_that_says_something_wins(layers: list[dict[str, int]]) -> None:
    expected: dict[str, tuple[int, str]] = {}
    with tempfile.TemporaryDirectory() as directory:
        paths = []
        for number, layer in enumerate(layers):
            paths.append(Path(directory) / f"{number}.yaml")
            paths[-1].write_text(yaml.safe_dump({"jobqueue": {"sge": layer}}, sort_keys=False))
            for line, (key, value) in enumerate(layer.items(), 3):
                expected[key.replace("-", "_")] = (value, f"{paths[-1]}:{line}")
        needed = {} if "cores" in expected else {"cores": 1}
        loaded = load("sge", {"memory": "1 GB", **needed}, env={}, paths=paths)
    for key, (value, origin) in expected.items():
        assert getattr(loaded.job, key) == (str(value) if key in ("queue", "account", "interface") else value)
        assert loaded.origin(key) == origin
    defaults = {key for key, origin in loaded.origins.items() if "defaults.yaml" in origin}
    assert defaults == set(loaded.origins) - set(expected) - {
        "section",
        "group",
        "cores",
        "memory",
        "processes",
        "python",
    }


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
        ({"name": "x" * 201}, "at most 200 characters"),
        ({"name": "a/b"}, "must not contain '/'"),
        ({"name": ""}, "must not be empty"),
        ({"cores": 2_000_000}, "must be at most 1000000"),
        ({"cores": "²"}, "cores: must be a whole number"),
        ({"cores": 1.5}, "cores: must be a whole number"),
        ({"n_workers": -1}, "n-workers: must be 0 or more"),
        ({"memory": float("inf")}, "memory: inf is not a size"),
        ({"memory": "5000 PB"}, "is more than 1000 PB"),
        ({"memory": True}, "memory: must be a size"),
        ({"walltime": "20 weeks 99999 days"}, "more than ten years"),
        ({"walltime": 1.5}, "whole seconds"),
        ({"job_mem": "4 GX"}, "no size for Slurm's --mem"),
        ({"queue": True}, "must be a text, not true; put quotes"),
        ({"queue": ""}, "queue: must not be empty; write null"),
        ({"account": "a\tb"}, "must be one line without control characters"),
        ({"queue": {"a": 1}}, "queue: must be a text, not a mapping"),
        ({"cores": [1]}, "cores: must be a whole number, not a list"),
        ({"job_script_prologue": [["a"]]}, "one of them is a list"),
        ({"job_script_prologue": "module load x"}, r"must be a list, so write \['module load x'\]"),
        ({"security": object()}, "makes the certificates of each cluster itself, so leave out the object object"),
        ({"protocol": "tls", "security": False}, "tls:// needs security: true"),
        ({"scheduler_cls": "x"}, "hpclaunch has its own scheduler"),
        ({"loop": object()}, "hpclaunch runs its own"),
        ({"memory_pause": 0}, r"distributed\.worker\.memory\.pause: must be false or a fraction"),
        ({"engine": ["dask"]}, "engine: must be one of embedded, dask, ray, not a list"),
        ({"queue": ["a", "b"]}, "queue: must be a text, not a list"),
        ({"security": "no"}, "security: must be true or false"),
        ({"scheduler_options": 3}, "scheduler-options: must be a mapping"),
        ({"scheduler_options": {"port": object()}}, "port must be a plain value"),
        ({"scheduler_options": {"port": [1 << 70]}}, "port must be a plain value"),
        ({"scheduler_options": {1: 2}}, "must have texts as keys, not 1"),
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
    with pytest.raises(ConfigError, match=r":4: .*memory.spill: spill \(0.9\) must not be above pause \(0.5\)"):
        read(paths=[write(tmp_path, text)], cores=1, memory="1 GB")


def test_cores_and_memory_must_come_from_somewhere() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load("slurm", env={}, paths=[])
    assert [error.key for error in caught.value.errors] == ["cores", "memory"]
    assert "write `cores: 4` below jobqueue.slurm in " in str(caught.value)
    assert "or pass memory='8 GB'" in str(caught.value)


def test_what_must_be_given_is_asked_for_where_the_user_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"in {tmp_path}/hpclaunch/jobqueue.yaml, or pass cores=4$"):
        load("sge", {"memory": "1 GB"}, env={"XDG_CONFIG_HOME": str(tmp_path)})


def test_a_value_that_is_wrong_is_not_also_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        load("sge", {"cores": "four", "memory": "1 GB"}, env={}, paths=[])
    assert "must be given" not in str(caught.value)


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
        ("jobqueue:\n\tsge: 1\n", ":2: is not YAML.*not with tabs"),
        ("jobqueue: {}\n---\njobqueue: {}\n", ":2: is not YAML.*another document"),
        ("jobqueue:\n  sge:\n    queue: *q\n", ":3: is not YAML.*undefined alias"),
        ("jobqueue:\n  sge:\n    queue: !!python/name:os.system x\n", ":3: can't be read.*only plain values"),
        ("a: &a {b: *a}\njobqueue: *a\n", "nested too deeply"),
        ("jobqueue: {sge: " + "[" * 600, "nested too deeply"),
        ("jobqueue:\n  sge:\n    memory: .inf\n    cores: 1\n", ":3: memory: inf is not a size"),
        ("distributed:\n  worker:\n    memory:\n      targt: 0.5\n", ":4: unknown key 'targt'.*'target'"),
        ("distributed:\n  worker: {}\n  worker: {}\n", ":3: 'worker' stands here a second time.*line 2"),
        ("jobqueue:\n  sge:\n    queue: on\n", ":3: queue: must be a text, not true"),
        ("jobqueue:\n  sge:\n    scheduler-options: {port: 1, port: 2}\n", ":3: 'port' stands here a second time"),
    ],
)
def test_mistakes_in_files_name_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    over = {key: value for key, value in {"cores": 1, "memory": "1 GB"}.items() if f"    {key}: " not in text}
    with pytest.raises(ConfigError, match=words) as caught:
        read(paths=[path], **over)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert [str(error) for error in check_file(path)] == [str(caught.value)]


def test_a_section_without_a_batch_system_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "jobqueue:\n  sge: {}\n  slrum:\n")
    (error,) = check_file(path)
    assert error.origin == f"{path}:3"
    assert "'slrum' must say batch-system: sge, slurm, local; did you mean 'slurm'?" in str(error)


def test_mistakes_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "jobqueue:\n  slurm:\n    cores: x\n  sge:\n    memory: y\n    queu: q\n    queue: 1.5\nfoo: 1\n"
    lines = [int(str(error.origin).rpartition(":")[2]) for error in check_file(write(tmp_path, text))]
    assert lines == [3, 5, 6, 7, 8]


def test_what_is_not_ours_to_judge_is_left(tmp_path: Path) -> None:
    text = (
        "distributed:\n  scheduler: [1]\n  worker:\n    x: 1\n    memory:\n      limit: auto\n"
        "      transfer: 0.1\n      spill-compression: auto\n      pause: false\n      something-new: 3\n"
    )
    assert check_file(write(tmp_path, text)) == []
    assert read(paths=[write(tmp_path, text)], cores=1, memory="1 GB").job.memory_pause is None


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"jobqueue: \xff\xfe")
    assert "is not UTF-8" in str(check_file(path)[0])


def test_times_without_quotes_are_what_they_look_like(tmp_path: Path) -> None:
    text = "jobqueue:\n  sge:\n    walltime: 10:00:00\n    cores: 1\n    memory: 1GB\n"
    assert read(paths=[write(tmp_path, text)]).job.walltime == 36000


def test_numbers_and_dates_are_texts_as_they_are_written(tmp_path: Path) -> None:
    text = "jobqueue:\n  slurm:\n    account: 0123\n    queue: 1_000\n    name: 2026-01-31\n    cores: 010\n"
    job = read("slurm", paths=[write(tmp_path, text)], memory="1 GB").job
    assert (job.account, job.queue, job.name, job.cores) == ("0123", "1_000", "2026-01-31", 10)


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("ACCOUNT", "0123", "0123"),
        ("QUEUE", "1.10", "1.10"),
        ("WALLTIME", "01:00:00", 3600),
        ("CORES", "8", 8),
        ("DEATH_TIMEOUT", "1.5", 1.5),
        ("JOB_EXTRA_DIRECTIVES", "['-V', '-l disk=24G']", ("-V", "-l disk=24G")),
        ("NANNY", "true", True),
        ("QUEUE", "", None),
        ("QUEUE", "[", "["),
        ("SCHEDULER_OPTIONS", "{port: 8787}", {"port": 8787}),
    ],
)
def test_the_environment_is_read_as_yaml(key: str, written: str, value: Any) -> None:
    over: dict[str, Any] = {"cores": 8} if key == "CORES" else {}
    job = read(env={f"HPCLAUNCH_JOBQUEUE__SGE__{key}": written}, **over).job
    assert getattr(job, key.lower()) == value


def test_the_environment_sets_memory_fractions() -> None:
    env = {
        "HPCLAUNCH_DISTRIBUTED__WORKER__MEMORY__PAUSE": "0.5",
        "HPCLAUNCH_DISTRIBUTED__WORKER__MEMORY__SPILL": "false",
        "HPCLAUNCH_DISTRIBUTED__WORKER__MEMORY__TARGET": "false",
    }
    job = read(env=env).job
    assert (job.memory_target, job.memory_spill, job.memory_pause) == (None, None, 0.5)


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("HPCLAUNCH_JOBQUEUE__SGE__CORS", "unknown key 'cors'; did you mean 'cores'"),
        ("HPCLAUNCH_JOBQUEUE__CORES", "names no key; write HPCLAUNCH_JOBQUEUE__SECTION__KEY"),
        ("HPCLAUNCH_DISTRIBUTED__WORKER__MEMORY__TARGETS", "did you mean 'target'"),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(variable: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read(env={variable: "1"})
    assert caught.value.origin == f"${variable}"


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
    assert re.search(r"^      max-spill: false +# ", text, re.M)
    for key in MEMORY_LEVELS:
        assert re.search(rf"^      {key}: 0\.\d+ +# ", text, re.M)


def test_every_field_is_a_key_and_every_key_a_field() -> None:
    assert set(JobConfig.__struct_fields__) == {
        *KEYS,
        "section",
        "group",
        "worker_threads",
        "inherited_directives",
    }


def test_arc4_as_a_site() -> None:
    path = data_path("configs") / "sites" / "arc4.yaml"
    job = load("arc4", env={}, paths=[path]).job
    assert (job.batch_system, job.interface, job.memory_resource) == ("sge", "ib0", "h_vmem")
    assert (job.parallel_environment, job.walltime_limit) == ("smp", 48 * 3600)
    assert load("arc4", {"parallel_environment": "ib"}, env={}, paths=[path]).job.parallel_environment == "ib"
    with pytest.raises(ConfigError, match="2-01:00:00 is over this site's limit of 2-00:00:00"):
        load("arc4", {"walltime": "49:00:00"}, env={}, paths=[path])


@pytest.mark.parametrize("section", ["short", "long"])
def test_a_slurm_site_with_two_profiles(section: str) -> None:
    job = load(section, env={}, paths=[data_path("configs") / "sites" / "slurm-generic.yaml"]).job
    assert (job.batch_system, job.queue, job.section) == ("slurm", section, section)


@pytest.mark.parametrize("path", sorted((data_path("configs") / "sites").glob("*.yaml")), ids=lambda p: p.stem)
def test_site_files_are_right(path: Path) -> None:
    assert check_file(path) == []


@pytest.mark.parametrize("path", sorted((data_path("configs") / "starters").glob("*.yaml")), ids=lambda p: p.stem)
def test_starter_files_are_right_also_with_everything_switched_on(path: Path, tmp_path: Path) -> None:
    assert check_file(path) == []
    switched_on = re.sub(r"^    # (?=[a-z ]*[a-z-]+:|  - )", "    ", path.read_text(), flags=re.M)
    assert switched_on != path.read_text()
    assert check_file(write(tmp_path, switched_on)) == []


@pytest.mark.parametrize(
    ("cores", "processes"), [(1, 1), (2, 2), (4, 4), (5, 5), (6, 3), (8, 4), (16, 4), (24, 6), (40, 8), (128, 16)]
)
def test_processes_of_a_job_that_does_not_say(cores: int, processes: int) -> None:
    assert default_processes(cores) == processes  # as distributed's nprocesses_nthreads has it
    loaded = read(cores=cores)
    assert (loaded.job.processes, loaded.job.threads) == (processes, cores // processes)
    assert "square root" in loaded.origin("processes")


@given(st.integers(5, 2000))
def test_processes_divide_cores(cores: int) -> None:
    processes = default_processes(cores)
    assert cores % processes == 0
    assert processes**2 >= cores
    assert not any(cores % fewer == 0 for fewer in range(processes) if fewer**2 >= cores)


def test_a_config_survives_the_way_to_another_process() -> None:
    job = read(scheduler_options={"port": 8787, "host": None}, job_extra_directives=["-V"], memory="1000 PB").job
    assert msgspec.json.decode(msgspec.json.encode(job), type=JobConfig) == job


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        read().job.cores = 2


def test_reading_configuration_loads_little() -> None:
    program = (
        "import sys; import hpclaunch.config.layers as layers\n"
        "layers.load('sge', {'cores': 1, 'memory': '1 GB'}, env={}, paths=[])\n"
        "heavy = {'rich', 'click', 'jinja2', 'cryptography', 'asyncio', 'psutil', 'cloudpickle'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_resources_are_names_and_amounts(tmp_path: Path) -> None:
    text = "jobqueue:\n  sge:\n    resources: {GPU: 2, disk: 0.5}\n"
    job = read(paths=[write(tmp_path, text)], cores=1, memory="1 GB").job
    assert job.resources == {"GPU": 2.0, "disk": 0.5}
    for bad, words in (([], "must be a mapping"), ({"a b": 1}, "can't be the name"), ({"a": 0}, "above 0")):
        with pytest.raises(ConfigError, match=words):
            read(paths=[], cores=1, memory="1 GB", resources=bad)
