"""Keys of directives: what a user's own lines replace, and what they leave out."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hpclaunch.dialects import SGE, SLURM
from hpclaunch.directives import Directives, options
from hpclaunch.errors import ScriptError

DIALECTS = {"sge": SGE, "slurm": SLURM}
OPTIONS = [
    ("sge", "-V", [("-V", "")]),
    ("sge", "-pe smp 8", [("-pe", "smp 8")]),
    ("sge", "  -pe   smp   4-8 ", [("-pe", "smp 4-8")]),
    ("sge", "-l h_rt=01:00:00", [("-l h_rt", "h_rt=01:00:00")]),
    ("sge", "-l h_rt=1:0:0,disk=24G", [("-l h_rt", "h_rt=1:0:0"), ("-l disk", "disk=24G")]),
    ("sge", '-l "h_rt=3, h_vmem=1G"', [("-l h_rt", "h_rt=3"), ("-l h_vmem", "h_vmem=1G")]),
    ("sge", "-l gpu", [("-l gpu", "gpu")]),
    ("sge", "-l", [("-l", "")]),
    ("sge", "-V -j y -pe mpi 4", [("-V", ""), ("-j", "y"), ("-pe", "mpi 4")]),
    ("sge", "-p -100", [("-p", "-100")]),
    ("sge", "-wd '/a b'", [("-cwd", "/a b")]),
    ("sge", "#$ -V", [("-V", "")]),
    ("sge", "-ac A='x -l y'", [("-ac", "A=x -l y")]),
    ("sge", "-P 'unbalanced", [("-P", "unbalanced")]),
    ("slurm", "--mem=4G", [("--mem", "4G")]),
    ("slurm", "--mem 4G", [("--mem", "4G")]),
    ("slurm", "--mem-per-cpu=4G", [("--mem", "4G")]),
    ("slurm", "-t 1", [("--time", "1")]),
    ("slurm", "-t1", [("--time", "1")]),
    ("slurm", "-A x", [("--account", "x")]),
    ("slurm", "-A x -p debug --exclusive", [("--account", "x"), ("--partition", "debug"), ("--exclusive", "")]),
    ("slurm", '--comment="a --mem=1G"', [("--comment", "a --mem=1G")]),
    ("slurm", "--requeue", [("--no-requeue", "")]),
    ("slurm", "#SBATCH --gres=gpu:1", [("--gres", "gpu:1")]),
    ("slurm", "-l x", [("-l", "x")]),
]


@pytest.mark.parametrize(("batch_system", "line", "found"), OPTIONS)
def test_options_of_a_line(batch_system: str, line: str, found: list[tuple[str, str]]) -> None:
    assert options(line, DIALECTS[batch_system]) == found


@pytest.mark.parametrize("line", ["h_rt", "mem=4G", "# a note", "4 -V"])
def test_what_is_no_directive_is_refused(line: str) -> None:
    with pytest.raises(ScriptError, match=r"job-extra-directives: .* must begin with an option"):
        Directives([line], [], SGE)
    if line != "h_rt":  # a plain word may say what to leave out, as in dask-jobqueue
        with pytest.raises(ScriptError, match=r"job-directives-skip: .* must begin with an option"):
            Directives([], [line], SLURM)


WANTS = [
    # batch system, extra, skip, asked, wanted
    ("sge", [], [], "-pe", True),
    ("sge", ["-pe smp 1"], [], "-pe", False),
    ("sge", ["-V -pe smp 1"], [], "-pe", False),
    ("sge", ["-l h_rt=10"], [], "-l h_rt", False),
    ("sge", ["-l disk=24G"], [], "-l h_rt", True),
    ("sge", ["-l disk=24G,h_rt=10"], [], "-l h_rt", False),
    ("sge", ["-l h_rt_soft=1"], [], "-l h_rt", True),
    ("sge", [], ["-l"], "-l h_rt", False),
    ("sge", [], ["-l h_rt"], "-l h_rt", False),
    ("sge", [], ["-l h_vmem"], "-l h_rt", True),
    ("sge", [], ["h_rt"], "-l h_rt", False),
    ("sge", [], ["h_rt="], "-l h_vmem", True),
    ("slurm", [], ["mem"], "--mem", False),
    ("slurm", [], ["cpus-per-task="], "--cpus-per-task", False),
    ("slurm", [], ["mem"], "--time", True),
    ("sge", ["-wd /x"], [], "-cwd", False),
    ("sge", ["-N other"], [], "-N", False),
    ("sge", ["-notify"], [], "-N", True),
    ("slurm", ["--mem-per-cpu=1G"], [], "--mem", False),
    ("slurm", ["-t 1"], [], "--time", False),
    ("slurm", ["-n 4"], [], "--nodes", True),
    ("slurm", ["--requeue"], [], "--no-requeue", False),
    ("slurm", [], ["--mem=4G"], "--mem", False),
    ("slurm", [], ["-p"], "--partition", False),
    ("slurm", [], ["--me"], "--mem", True),
]


@pytest.mark.parametrize(("batch_system", "extra", "skip", "asked", "wanted"), WANTS)
def test_users_directives_win(
    batch_system: str, extra: list[str], skip: list[str], asked: str, wanted: bool
) -> None:
    assert Directives(extra, skip, DIALECTS[batch_system]).wants(asked) is wanted


def test_resources_are_merged_by_name() -> None:
    directives = Directives(["-l h_vmem=48G,disk=1G"], ["-l arch"], SGE)
    assert directives.wants_resources("h_vmem=24G,gpu=1, arch=x64 ,tmp=4G") == "gpu=1,tmp=4G"
    assert Directives([], ["-l"], SGE).wants_resources("h_vmem=24G,gpu=1") == ""
    assert Directives([], [], SGE).wants_resources("h_vmem=24G") == "h_vmem=24G"


@pytest.mark.parametrize(
    ("extra", "skip", "slots"),
    [
        ([], [], 4),
        (["-pe smp 1"], [], 1),
        (["-V -pe mpi 16"], [], 16),
        (["-pe smp 2-8"], [], 2),
        (["-pe smp 2-"], [], 2),
        (["-pe smp"], [], 1),
        ([], ["-pe"], 1),
    ],
)
def test_slots_are_the_users(extra: list[str], skip: list[str], slots: int) -> None:
    assert Directives(extra, skip, SGE).slots(4) == slots


@pytest.mark.parametrize(
    ("batch_system", "line", "words"),
    [
        ("sge", "-t 1-4", "scale"),
        ("sge", "-V -sync y", "would not return"),
        ("slurm", "--array=1-4", "scale"),
        ("slurm", "-a 1-4", "scale"),
        ("slurm", "-W", "would not return"),
        ("slurm", "--wrap=hostname", "prologue"),
    ],
)
def test_what_would_break_our_counting_is_refused(batch_system: str, line: str, words: str) -> None:
    with pytest.raises(ScriptError, match=words):
        Directives([line], [], DIALECTS[batch_system])


def test_slurms_short_t_is_the_time() -> None:
    assert not Directives(["-t 1"], [], SLURM).wants("--time")


def test_skips_that_hit_nothing_are_told() -> None:
    directives = Directives([], ["-l h_vmem", "--oops", "-pe"], SGE)
    directives.wants("-pe")
    directives.wants("-l h_rt")
    assert list(directives.useless_skips()) == ["-l h_vmem", "--oops"]


KEYS = {
    "sge": ["-N", "-S", "-cwd", "-j", "-o", "-r", "-q", "-P", "-pe", "-l h_rt", "-l h_vmem", "-ac"],
    "slurm": ["--job-name", "--output", "--cpus-per-task", "--mem", "--time", "--partition", "--account"],
}
VALUES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\"'#,"), min_size=1).filter(
    lambda text: not text.startswith("-")
)


@given(data=st.data(), batch_system=st.sampled_from(sorted(KEYS)), value=VALUES)
def test_a_directive_replaces_its_own_key_and_no_other(data: st.DataObject, batch_system: str, value: str) -> None:
    keys = KEYS[batch_system]
    chosen = data.draw(st.sampled_from(keys))
    joint = " " if batch_system == "sge" and not chosen.startswith("-l ") else "="
    directives = Directives([f"{chosen}{joint}{value}"], [], DIALECTS[batch_system])
    assert [key for key in keys if not directives.wants(key)] == [chosen]
