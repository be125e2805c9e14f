"""The user's environment: what a job script takes from it, what is overruled, and what commands see."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import inherited as environment, scripts
from hpclaunch.batch import by_name
from hpclaunch.config.layers import load
from hpclaunch.config.schema import JobConfig
from hpclaunch.errors import ScriptError
from hpclaunch.inherited import Fate, inherit, interference
from hpclaunch.transport.environment import known_environment

#: The least that Grid Engine needs of an environment.
SGE = {"SGE_ROOT": "/nowhere"}


def config(section: str, **changes: Any) -> JobConfig:
    return load(section, {"cores": 1, "memory": "1 GB", **changes}, env={}, paths=()).job


def script_of(job: JobConfig) -> list[str]:
    """Return the directives of the script that is submitted."""
    text = scripts.render(job, cluster_id="x-0", directory=Path("/run/x"), work_directory=Path("/work"))
    return re.findall(r"^#(?:\$|SBATCH) (.*)$", text, re.MULTILINE)


def quietly(job: JobConfig, environ: Mapping[str, str], directory: Path = Path("/work")) -> JobConfig:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return inherit(job, environ, directory)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory that Grid Engine would look into."""
    monkeypatch.setattr(environment, "_home", lambda: tmp_path / "home")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


# Slurm

OVERRULED = [
    ("SBATCH_PARTITION", "long", {"queue": "debug"}, "--partition=debug"),
    ("SBATCH_MEM_PER_NODE", "1M", {}, "--mem=954M"),
    ("SBATCH_MEM_PER_CPU", "954M", {}, "--mem=954M"),
    ("SBATCH_TIMELIMIT", "1", {"walltime": "01:00:00"}, "--time=0-01:00:00"),
    ("SBATCH_ACCOUNT", "other", {"account": "lab"}, "--account=lab"),
    ("SBATCH_JOB_NAME", "other", {"name": "mine"}, "--job-name=mine"),
    ("SBATCH_OUTPUT", "/dev/null", {}, None),
    ("SBATCH_REQUEUE", "", {}, "--no-requeue"),
    ("SBATCH_QOS", "low", {"job_extra_directives": ["-q high"]}, "-q high"),
]


@pytest.mark.parametrize(("name", "value", "changes", "ours"), OVERRULED)
def test_configuration_wins_over_sbatch_variables_and_says_so(
    name: str, value: str, changes: dict[str, Any], ours: str | None
) -> None:
    job = config("slurm", **changes)
    with pytest.warns(UserWarning, match=rf"\${name} asks for .*which counts") as warned:
        got = inherit(job, {name: value}, Path("/work"))
    assert len(warned) == 1
    assert script_of(got) == script_of(job)
    assert ours is None or ours in script_of(got)
    assert name not in known_environment(["sbatch", "x.sh"], {name: value})


TAKEN = [
    ("SBATCH_QOS", "high", "--qos=high"),
    ("SBATCH_PARTITION", "long", "--partition=long"),
    ("SBATCH_CONSTRAINT", "intel&gpu", "--constraint=intel&gpu"),
    ("SBATCH_RESERVATION", "my course", '--reservation="my course"'),
    ("SBATCH_EXCLUSIVE", "", "--exclusive"),
    ("SBATCH_EXCLUSIVE", "user", "--exclusive=user"),
    ("SBATCH_GRES", "gpu:2", "--gres=gpu:2"),
    ("SLURM_CLUSTERS", "big", "--clusters=big"),
    ("SBATCH_CPU_FREQ_REQ", "low", "--cpu-freq=low"),
]


@pytest.mark.parametrize(("name", "value", "line"), TAKEN)
def test_what_the_configuration_does_not_say_is_taken_into_the_script(name: str, value: str, line: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = inherit(config("slurm"), {name: value}, Path("/work"))
    assert script_of(got) == [*script_of(config("slurm")), line]
    assert name not in known_environment(["sbatch", "x.sh"], {name: value})


@pytest.mark.parametrize("name", ["SBATCH_WAIT", "SBATCH_ARRAY_INX", "SBATCH_ERROR"])
def test_what_hpclaunch_cannot_work_with_is_refused(name: str) -> None:
    with pytest.warns(UserWarning, match=rf"\${name} asks for .*left out"):
        got = inherit(config("slurm"), {name: "1"}, Path("/work"))
    assert script_of(got) == script_of(config("slurm"))


def test_the_same_in_other_words_is_no_conflict() -> None:
    (setting,) = interference(config("slurm", walltime="01:00:00"), {"SBATCH_TIMELIMIT": "60"}, Path("/work"))
    assert setting.fate is Fate.SAME


def test_switches_that_are_off_and_variables_that_sbatch_does_not_know_say_nothing() -> None:
    environ = {"SBATCH_EXCLUSIVE": "0", "SBATCH_OVERCOMMIT": "no", "SBATCH_OF_OUR_SITE": "x", "SBATCH_QOS": ""}
    assert interference(config("slurm"), environ, Path("/work")) == []


def test_a_cluster_named_in_the_environment_is_the_one_that_is_asked() -> None:
    job = quietly(config("slurm"), {"SBATCH_CLUSTERS": "big"})
    codec = by_name("slurm", job, Path("/x"))
    assert "--clusters=big" in codec.status(["1_1"])
    assert "--clusters=big" in codec.cancel(["1_1"])


def test_several_clusters_in_the_environment_are_refused_by_the_variables_name() -> None:
    with pytest.raises(ScriptError, match=r"\$SBATCH_CLUSTERS: --clusters=a,b: .* one cluster only"):
        inherit(config("slurm"), {"SBATCH_CLUSTERS": "a,b"}, Path("/work"))


# Grid Engine


def test_default_requests_are_cleared_and_only_what_is_not_said_is_taken(home: Path, tmp_path: Path) -> None:
    (tmp_path / "default" / "common").mkdir(parents=True)
    (tmp_path / "default" / "common" / "sge_request").write_text("# the site's\n-A common -l arch=lx-amd64\n")
    (home / ".sge_request").write_text("-q short.q -l h_rt=77,h_vmem=111M\n-soft -l disk=5\n-v A=1,B=2\n")
    work = tmp_path / "work"
    work.mkdir()
    (work / ".sge_request").write_text("-sync y -t 1-5\n-M me@x.y -m a\n")
    job = config("sge", queue="all.q", walltime="01:00:00", job_extra_directives=["-v A=3"])
    with pytest.warns(UserWarning, match="asks for") as warned:
        got = inherit(job, {"SGE_ROOT": str(tmp_path)}, work)
    said = [str(one.message) for one in warned]
    assert [one for one in said if "which counts" in one] == [
        f"{home}/.sge_request:1 asks for -q short.q, and the configuration for -q all.q, which counts",
        f"{home}/.sge_request:1 asks for -l h_rt=77, and the configuration for -l h_rt=01:00:00, which counts",
        f"{home}/.sge_request:3 asks for -v A=1, and the configuration for -v A=3, which counts",
    ]
    assert sum("left out" in one for one in said) == 2
    lines = script_of(got)
    assert lines[0] == "-clear"
    taken = lines[1 + len(script_of(job)) :]
    assert taken == [
        "-A common",
        "-l arch=lx-amd64",
        "-l h_vmem=111M",
        "-soft -l disk=5 -hard",
        "-v B=2",
        "-M me@x.y",
        "-m a",
    ]


def test_without_default_requests_a_script_is_as_ever(home: Path) -> None:
    assert script_of(quietly(config("sge"), SGE)) == script_of(config("sge"))


def test_clear_among_the_users_own_directives_comes_first_and_takes_nothing(home: Path) -> None:
    (home / ".sge_request").write_text("-A mine\n")
    lines = script_of(quietly(config("sge", job_extra_directives=["-clear", "-p -5"]), SGE))
    assert lines[0] == "-clear"
    assert lines.count("-clear") == 1
    assert "-A mine" not in lines
    assert "-p -5" in lines


def test_clear_in_a_file_forgets_the_files_below_it(home: Path, tmp_path: Path) -> None:
    (home / ".sge_request").write_text("-A mine\n")
    (tmp_path / ".sge_request").write_text("-clear -A other\n")
    assert script_of(quietly(config("sge"), SGE, tmp_path))[-1] == "-A other"


@pytest.mark.parametrize("line", ["-w v", "-verify", "-now y", "-C #%", "-b y"])
def test_requests_that_hpclaunch_cannot_work_with_are_refused(home: Path, line: str) -> None:
    (home / ".sge_request").write_text(line + "\n")
    (setting,) = interference(config("sge"), SGE, Path("/work"))
    assert (setting.fate, setting.line) == (Fate.REFUSED, line)


def test_a_script_that_is_checked_by_the_master_keeps_the_files_in_force(home: Path) -> None:
    (home / ".sge_request").write_text("-jsv /opt/check.sh\n-A mine\n")
    with pytest.warns(UserWarning, match="-jsv"):
        assert inherit(config("sge"), SGE, Path("/work")).inherited_directives == ()


def test_what_changes_listings_is_told(home: Path) -> None:
    (home / ".sge_qstat").write_text("-s r\n")
    told = interference(config("sge"), {**SGE, "SGE_LONG_QNAMES": "40"}, Path("/work"))
    assert [(one.origin, one.fate) for one in told] == [
        ("$SGE_LONG_QNAMES", Fate.SWITCHED_OFF),
        (f"{home}/.sge_qstat", Fate.SWITCHED_OFF),
    ]


# Commands


def test_questions_are_asked_in_a_known_environment() -> None:
    environ = {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_TIME_FORMAT": "relative",
        "SLURM_CLUSTERS": "all",
        "SQUEUE_PARTITION": "short",
        "SACCT_FORMAT": "JobID",
        "LANG": "de_DE.UTF-8",
        "LC_NUMERIC": "de_DE.UTF-8",
        "SGE_ROOT": "/opt/sge",
        "SGE_LONG_QNAMES": "1",
    }
    kept = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "SGE_ROOT": "/opt/sge", "LC_ALL": "C"}
    for program in ("squeue", "/opt/bin/sacct", "scancel", "qstat", "qacct", "qdel"):
        assert known_environment([program, "-x"], environ) == kept


def test_submissions_keep_the_locale_and_lose_what_an_allocation_left() -> None:
    environ = {
        "LANG": "de_DE.UTF-8",
        "SLURM_CONF": "/c",
        "SLURM_JOB_ID": "7",
        "SLURM_MEM_PER_NODE": "8",
        "SLURM_EXIT_ERROR": "0",
        "SBATCH_OF_OUR_SITE": "x",
    }
    got = known_environment(["sbatch", "--parsable", "x.sh"], environ)
    assert got == {"LANG": "de_DE.UTF-8", "SLURM_CONF": "/c", "SBATCH_OF_OUR_SITE": "x"}


def test_other_programs_keep_their_environment() -> None:
    environ = {"LANG": "de_DE.UTF-8", "SQUEUE_PARTITION": "x"}
    assert known_environment(["/usr/bin/python3", "-c", ""], environ) == environ
