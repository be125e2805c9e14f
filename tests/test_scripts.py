"""Job scripts: golden texts, quoting for each of the three parsers, and what bash makes of them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hpclaunch import scripts
from hpclaunch.config.layers import load
from hpclaunch.config.schema import JobConfig
from hpclaunch.errors import ScriptError
from tests.testbed.beds import Bed, wait_until

DATA = Path(__file__).parent / "data"
RUN = Path("/home/user/.hpclaunch/run/demo-0a1b2c3d")
PYTHON = "/opt/python/bin/python"


def config(section: str, paths: tuple[Path, ...] = (), **changes: Any) -> JobConfig:
    """Return a configuration; what is not in ``changes`` is small and plain."""
    given_values = {"cores": 1, "memory": "1 GB", "python": PYTHON} if not paths else {"python": PYTHON}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # older names of keys
        return load(section, {**given_values, **changes}, env={}, paths=paths).job


def render(job: JobConfig, directory: Path = RUN, **more: Any) -> str:
    """Return the script of a cluster in ``directory``."""
    return scripts.render(
        job, cluster_id="demo-0a1b2c3d", directory=directory, work_directory=Path("/work"), **more
    )


def directives(text: str) -> list[str]:
    """Return the directives of a script, without the batch system's prefix."""
    return re.findall(r"^#(?:\$|SBATCH) (.*)$", text, re.MULTILINE)


# Golden scripts

GOLDEN: dict[str, Callable[[], JobConfig]] = {
    "sge-arc4": lambda: config(
        "sge",
        (DATA / "config" / "jobqueue-arc4.yaml",),
        memory="24 G",
        resource_spec="h_vmem=24G",
        job_extra=["-V", "-pe smp 1", "-l disk=24G"],
        local_directory="/scratch/user/dask-worker-space",
    ),
    "sge-many-cores": lambda: config(
        "sge",
        cores=8,
        processes=4,
        memory="24 GB",
        walltime="1-12:00:00",
        queue="all.q",
        project="physics",
        memory_resource="h_vmem",
        interface="ib0",
        log_directory="/home/user/my logs",
        job_script_prologue=["module load anaconda", "source activate work"],
        job_script_epilogue=["rm -rf $TMPDIR/big"],
        job_extra_directives=["-l h_rt=48:00:00,disk=1G"],
        job_directives_skip=["-r"],
    ),
    "slurm-many-cores": lambda: config(
        "slurm",
        cores=8,
        processes=2,
        memory="24 GB",
        walltime="1-12:00:00",
        queue="debug",
        account="phys 1",
        job_cpu=16,
        local_directory="$TMPDIR",
        worker_extra_args=["--processes 3"],
        job_script_prologue=["module load anaconda"],
        job_extra_directives=["--exclusive", "-p short"],
    ),
    "local": lambda: config("local", cores=2),
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_script(name: str) -> None:
    path = DATA / "golden" / f"{name}.sh"
    text = render(GOLDEN[name]())
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_bash_can_read_the_golden_scripts(name: str) -> None:
    done = subprocess.run(["bash", "-n", DATA / "golden" / f"{name}.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# Directives


def test_users_parallel_environment_is_the_only_one() -> None:
    lines = directives(render(config("sge", cores=4, job_extra_directives=["-pe mpi 4"])))
    assert [line for line in lines if "-pe" in line] == ["-pe mpi 4"]


def test_one_core_needs_no_parallel_environment() -> None:
    assert not [line for line in directives(render(config("sge"))) if line.startswith("-pe")]


def test_several_cores_need_a_parallel_environment() -> None:
    with pytest.raises(ScriptError, match=r"parallel-environment must be set.*qconf -spl"):
        render(msgspec.structs.replace(config("sge", cores=2), parallel_environment=None))


MEMORY = [
    # memory, cores, extra directives, h_vmem
    ("24GiB", 1, [], "24G"),
    ("24GiB", 8, [], "3G"),
    ("1GiB", 3, [], "349526K"),
    ("24 GB", 1, [], "23437500K"),
    ("1000001", 1, [], None),  # under 1 MiB, not a job's memory
    ("3MiB", 2, [], "1536K"),
    ("8GiB", 1, ["-pe smp 4"], "2G"),
    ("8GiB", 4, ["-pe smp 1"], "8G"),
    ("8GiB", 4, ["-pe smp 2-16"], "4G"),
]


@pytest.mark.parametrize(("memory", "cores", "extra", "per_slot"), [row for row in MEMORY if row[3]])
@pytest.mark.filterwarnings("ignore:the job uses")
def test_grid_engine_limits_memory_per_slot(memory: str, cores: int, extra: list[str], per_slot: str) -> None:
    job = config(
        "sge", memory=memory, cores=cores, processes=1, memory_resource="h_vmem", job_extra_directives=extra
    )
    assert f"-l h_vmem={per_slot}" in directives(render(job))


@given(memory=st.integers(1 << 20, 1 << 45), slots=st.integers(1, 512))
def test_slots_together_have_the_memory_and_not_much_more(memory: int, slots: int) -> None:
    job = config("sge", memory=memory, cores=slots, processes=1, memory_resource="mem")
    (line,) = [line for line in directives(render(job)) if "mem=" in line]
    size, unit = int(line[len("-l mem=") : -1]), {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[line[-1]]
    assert memory <= size * unit * slots < memory + 1025 * slots


def test_too_few_slots_are_told() -> None:
    with pytest.warns(UserWarning, match=r"uses 4 cores, but its -pe asks for 2 slots"):
        render(config("sge", cores=4, job_extra_directives=["-pe smp 2"]))


def test_resource_spec_stands_as_it_is_and_its_run_time_wins() -> None:
    lines = directives(render(config("sge", resource_spec="h_vmem=24G,h_rt=600")))
    assert [line for line in lines if line.startswith("-l")] == ["-l h_vmem=24G,h_rt=600"]


def test_slurm_memory_is_rounded_up() -> None:
    assert "--mem=954M" in directives(render(config("slurm", memory="1 GB")))
    assert "--mem=1024M" in directives(render(config("slurm", memory="1GiB")))
    assert "--mem=4G" in directives(render(config("slurm", memory="1GiB", job_mem="4G")))


def test_skipped_directives() -> None:
    lines = directives(render(config("slurm", job_directives_skip=["--mem", "-t"])))
    assert not [line for line in lines if line.startswith(("--mem", "--time"))]
    with pytest.warns(UserWarning, match="'--nosuch' is no directive of the script"):
        render(config("slurm", job_directives_skip=["--nosuch"]))


def test_nothing_secret_and_no_count_in_a_script() -> None:
    for name in GOLDEN:
        text = (DATA / "golden" / f"{name}.sh").read_text()
        assert "BEGIN" not in text
        assert "--array" not in "".join(directives(text))
        assert not [line for line in directives(text) if line.startswith("-t ")]


# Values that a batch system's parser could take for something else


@pytest.mark.parametrize("queue", ['a"b', "a'b", "a#b", "a\nb", "a\tb", "a\x1bb", "", "-q"])
def test_grid_engine_values_that_cannot_be_written_are_refused(queue: str) -> None:
    with pytest.raises(ScriptError, match="can't stand in a batch directive"):
        render(msgspec.structs.replace(config("sge"), queue=queue))


@pytest.mark.parametrize("queue", ["a\nb", "a\rb", "a\x1bb", "", "--x"])
def test_slurm_values_that_cannot_be_written_are_refused(queue: str) -> None:
    with pytest.raises(ScriptError, match="can't stand in a batch directive"):
        render(msgspec.structs.replace(config("slurm"), queue=queue))


@pytest.mark.parametrize(
    ("section", "directory", "sign"),
    [("sge", f"/logs/{c}", c) for c in "$:,'#\""] + [("slurm", "/logs/\\x", "backslash")],
)
def test_log_directories_that_would_be_read_as_something_else_are_refused(
    section: str, directory: str, sign: str
) -> None:
    with pytest.raises(ScriptError, match=f"can't write logs to .*{re.escape(sign)}.*log-directory"):
        render(config(section, log_directory=directory))


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("sge", {"shebang": "#!/usr/bin/env python3"}, "is for bash, and python3 can't run it"),
        ("slurm", {"shebang": "#!/bin/csh -f"}, "is for bash, and csh can't run it"),
        ("slurm", {"job_extra_directives": ["mem=4G"]}, "must begin with an option"),
        ("slurm", {"local_directory": "/a\0b"}, "must be one line"),
    ],
)
def test_what_cannot_be_in_a_script_is_refused(section: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError if words == "must be one line" else ScriptError, match=re.escape(words)):
        render(config(section, **changes))


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b"])
def test_words_that_are_no_text_are_refused(bad: str) -> None:
    with pytest.raises(ScriptError):
        render(config("local"), worker_command=["echo", bad])


@pytest.mark.parametrize("section", ["local", "slurm", "sge"])
def test_paths_that_are_not_utf8_are_in_the_script_as_they_are(section: str) -> None:
    path = os.fsdecode(b"/sc\xe9ne/run")
    text = render(
        config(section, log_directory=path, local_directory=path),
        worker_command=[f"{path}/python", "-m", "worker"],
    )
    assert b"/sc\xe9ne/run/python" in scripts.encoded(text)
    assert section == "local" or scripts.encoded(text).count(b"/sc\xe9ne/run") > 1


def test_a_shell_that_is_like_bash_hands_over_to_bash() -> None:
    assert "exec bash" in render(config("slurm", shebang="#!/bin/sh"))
    assert "#$ -S /bin/zsh\n" in render(config("sge", shebang="#!/usr/bin/env -S LANG=C zsh -f"))
    assert "exec bash" not in render(config("slurm", shebang="#!/bin/bash -l"))


# What bash makes of it


class Job:
    """A job of the local batch system as bash runs it, in a directory with an odd name."""

    def __init__(self, base: Path, name: str = "a b'c\"d$e\n;ü") -> None:
        self.directory = base / name
        for folder in ("jobs", "logs"):
            (self.directory / folder).mkdir(parents=True)
        self.seen = base / "seen"

    def script(self, command: list[str] | None = None, **changes: Any) -> Path:
        """Write the script of a job that runs ``command``."""
        text = render(config("local", **changes), self.directory, worker_command=command)
        path = self.directory / "job.sh"
        path.write_text(text)
        return path

    def record(self, *words: str) -> list[str]:
        """Return a command that writes its arguments down, each with a null character behind it."""
        code = 'for word; do printf "%s\\0" "$word"; done > "$0"'
        return ["bash", "-c", code, str(self.seen), *words]

    def words(self) -> list[str]:
        """Return the arguments that were written down."""
        return self.seen.read_bytes().decode().split("\0")[:-1]

    def start(self, path: Path, interpreter: str = "bash", **env: str) -> subprocess.Popen[bytes]:
        """Run a script as the local batch system does."""
        environment = {"PATH": os.environ["PATH"], "HPCLAUNCH_JOB_ID": "7", "HPCLAUNCH_TASK_ID": "3", **env}
        if "HPCLAUNCH_TEST_RUN" in os.environ:
            environment["HPCLAUNCH_TEST_RUN"] = os.environ["HPCLAUNCH_TEST_RUN"]
        return subprocess.Popen([interpreter, str(path)], env=environment, stdin=subprocess.DEVNULL)

    def run(self, path: Path, interpreter: str = "bash", **env: str) -> int:
        """Run a script to its end; return the exit code."""
        return self.start(path, interpreter, **env).wait(timeout=30)

    def ticket(self, kind: str) -> str:
        """Return what a ticket says; empty if there is none."""
        path = self.directory / "jobs" / f"7.3.{kind}"
        return path.read_text() if path.exists() else ""

    @property
    def log(self) -> str:
        """The job's output."""
        return (self.directory / "logs" / "7.3.log").read_text()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job in an odd directory."""
    return Job(tmp_path)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
#: Each example starts a shell.
each_a_process = settings(
    max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD = st.text(st.sampled_from(list(" \n\t'\"\\$`;|&<>(){}[]*?!#~=-%aü\r")), max_size=12)


@each_a_process
@given(words=st.lists(TEXT | ODD, max_size=8))
def test_the_command_sees_its_words_as_they_were_given(
    words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = Job(tmp_path_factory.mktemp("job"))
    assert job.run(job.script(job.record(*words))) == 0
    assert job.words() == words


@each_a_process
@given(name=(TEXT | ODD).map(lambda text: f"x{text.replace('/', '')}").filter(lambda t: len(t.encode()) < 200))
def test_a_run_directory_may_have_any_name(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    job = Job(tmp_path_factory.mktemp("job"), name)
    assert job.run(job.script(["sh", "-c", "echo hello; exit 3"])) == 3
    assert job.log == "hello\n"
    assert job.ticket("exit") == "3\n"


@each_a_process
@given(text=(TEXT | ODD).filter(lambda t: t and not re.search(r"\$[A-Za-z_{]|^~", t)))
def test_only_variables_are_special_in_a_local_directory(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = Job(tmp_path_factory.mktemp("job"))
    base = msgspec.structs.replace(config("local"), local_directory=text)
    word = scripts.worker_command(base, job.directory)[-1]
    assert job.run(job.script([*job.record(), word])) == 0
    assert job.words() == [text]


def test_the_default_command(job: Job) -> None:
    seen = job.directory / "python"
    seen.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {shlex.quote(str(job.seen))}\n')
    seen.chmod(0o700)
    path = job.script(
        None,
        python="python",
        cores=4,
        processes=2,
        memory="2 GB",
        death_timeout=7.5,
        interface="ib0",
        local_directory="~/scratch/$USER and ${WHO}",
        worker_extra_args=[
            "--preload 'a b'",
            "",
            """--local-directory="c;d$WHO" --preload '`$(#' --preload x#y\\;"\\$(" """,
        ],
    )
    assert job.run(path, PATH=f"{job.directory}:{os.environ['PATH']}", HOME="/home/u", USER="u", WHO="w w") == 0
    assert job.words() == [
        *("-P", "-m", "hpclaunch.worker"),
        *("--directory", str(job.directory)),
        *("--job", "7.3", "--ends", "0", "--processes", "2", "--threads", "2", "--memory", "2000000000"),
        *("--death-timeout", "7.5", "--interface", "ib0"),
        *("--local-directory", "/home/u/scratch/u and w w"),
        *("--preload", "a b", "--local-directory", "c;dw w", "--preload", "`$(#", "--preload", "x#y;$("),
    ]


def test_tickets_say_when_where_and_how(job: Job) -> None:
    assert job.run(job.script(["sh", "-c", "exit 5"])) == 5
    when, host, pid = job.ticket("start").split()
    assert when.isdigit()
    assert pid.isdigit()
    assert host == os.uname().nodename
    assert job.ticket("exit") == "5\n"
    for path in (job.directory / "jobs").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_node_that_does_not_share_the_directory_says_so(job: Job) -> None:
    path = job.script(["echo", "not reached"])
    (job.directory / "jobs").rmdir()
    assert job.run(path) == 73
    assert "nodes must share the cluster's directory" in job.log
    assert "shared-temp-directory" in job.log
    assert "not reached" not in job.log


def test_dash_hands_over_to_bash(job: Job) -> None:
    path = job.script(["sh", "-c", "exit 4"], shebang="#!/bin/sh", job_script_prologue=["[[ a == a ]]"])
    assert job.run(path, interpreter="sh") == 4
    assert job.ticket("exit") == "4\n"


# Environment, prologue, epilogue


def test_thread_variables_unless_the_user_has_set_them(job: Job) -> None:
    code = "echo $OMP_NUM_THREADS $MKL_NUM_THREADS $OPENBLAS_NUM_THREADS $NUMEXPR_NUM_THREADS $MALLOC_ARENA_MAX"
    assert job.run(job.script(["bash", "-c", code]), MKL_NUM_THREADS="3") == 0
    assert job.log == "1 3 1 1 2\n"
    job.run(job.script(["bash", "-c", code], job_script_prologue=["export OMP_NUM_THREADS=8"]))
    assert job.log == "8 1 1 1 2\n"


@pytest.mark.parametrize(
    ("prologue", "code", "says"),
    [
        (["false", "echo on"], 1, "exit code 1 from: false"),
        (["(exit 9)", "echo on"], 9, "exit code 9 from: (exit 9)"),
        (["no-such-module load x", "echo on"], 127, "exit code 127 from: no-such-module load x"),
        (["module load gcc", "echo on"], 127, "exit code 127 from: module load gcc\n"),
        (["module load gcc"], 127, "this job's shell does not have module: source what defines it first"),
        (["activate() { return 4; }", "activate env", "echo on"], 4, "exit code 4 from: activate env\n"),
        (["module() { false; }", "module load x y # z"], 1, "exit code 1 from: module load x y # z\n"),
        (
            ["conda() {", "    echo no such env >&2", "    return 1", "}", "conda activate x"],
            1,
            "from: conda activate x",
        ),
        (
            ["if true; then", "    activate() { return 4; }", "    activate env", "fi"],
            4,
            "exit code 4 from: activate env",
        ),
        (["source /no/such/file", "echo on"], 1, "exit code 1 from: source /no/such/file"),
        (["source nosuchactivate env", "echo on"], 1, "exit code 1 from: source nosuchactivate env"),
        (["x=$(false)", "echo on"], 1, "exit code 1 from: x=$(false)"),
        (["true", "echo on >&2; exit 6"], 6, "the job ends with exit code 6 from: echo on >&2; exit 6"),
        (["set -u", "export A=$NO_SUCH_VARIABLE"], 1, "exit code 1 from: export A=$NO_SUCH_VARIABLE"),
        (["set -e", "f() { false; true; }", "true", "f"], 1, "exit code 1 from: f"),
        (["set -o pipefail", "false | true"], 1, "exit code 1 from: false | true"),
        (["exit 0"], 1, "the job ends with exit code 0 from: exit 0"),
        (["cd /", "false"], 1, "exit code 1 from: false"),
    ],
)
def test_a_prologue_that_fails_ends_the_job(job: Job, prologue: list[str], code: int, says: str) -> None:
    assert job.run(job.script(["echo", "worker"], job_script_prologue=prologue)) == code
    assert says in job.log
    assert "worker" not in job.log
    assert job.ticket("exit") == f"{code}\n"


@pytest.mark.parametrize(
    "prologue",
    [
        ["if true", "then", "export A=1", "fi"],
        ["for i in 1 2; do", "  false || export A=1", "done"],
        ["cat > /dev/null <<END", "false", "END"],
        ["case x in", "  y) false ;;", "  x) export A=1 ;;", "esac"],
        ["[ -f /no/such/file ] && export B=1", "export A=1"],
        ["! false", "false || true"],
        ["set -u", "export A=$HOME"],
        ["module() { false; true; }", "module load x"],
        ["false | true"],
    ],
)
def test_a_prologue_is_read_as_one_text(job: Job, prologue: list[str]) -> None:
    assert job.run(job.script(["echo", "worker"], job_script_prologue=prologue), HOME="/") == 0
    assert job.log == "worker\n"


#: What files that people source look like, and what the job is told then: a note, or nothing.
SOURCED = {
    "last line is a false test": ("export A=1\n[ -f /no/such/file ] && . /no/such/file\n", "note: exit code 1"),
    "last command fails": ("export A=1\ngrep -q x /dev/null\n", "note: exit code 1"),
    "commands in it fail": ("false\ngrep -q x /dev/null\nexport A=1\n", ""),
    "returns early, not interactive": ("export A=1\ncase $- in *i*) ;; *) return ;; esac\nexport A=2\n", ""),
    "returns early, no prompt": ('export A=1\n[ -z "$PS1" ] && return\nexport A=2\n', ""),
    "says that it failed": ("export A=1\nreturn 3\n", "note: exit code 3"),
    "unset variables": ("export A=1$NO_SUCH_VARIABLE\n", ""),
    "functions that fail": ("f() { false; return 1; }\nf\nf || true\nexport A=1\n", ""),
    "its own traps": ("trap 'true' ERR\ntrap 'true' DEBUG\nexport A=1\n", ""),
    "prints to stderr": ("echo loading >&2\nexport A=1\n", "loading"),
}


@pytest.mark.parametrize("name", SOURCED)
@pytest.mark.parametrize(
    "command", ["source {}/rc", ". {}/rc", "source {}/rc > /dev/null", 'source "$HOME/rc"', ". ~/rc"]
)
def test_what_a_sourced_file_does_is_that_files_business(
    job: Job, tmp_path: Path, name: str, command: str
) -> None:
    text, note = SOURCED[name]
    (tmp_path / "rc").write_text(text)
    line = command.format(tmp_path)
    path = job.script(["bash", "-c", "echo A=$A"], job_script_prologue=[line, "true"])
    assert job.run(path, HOME=str(tmp_path)) == 0
    assert "A=1\n" in job.log
    assert note in job.log
    if note.startswith("note"):
        assert f"{note}, which a last line that is not true gives too; the job goes on; from: {line}" in job.log
    elif not note:
        assert job.log == "A=1\n"


ACTIVATE = """
conda() { if [ "$2" = good ]; then export A=1; else echo "EnvironmentNameNotFound: $2" >&2; return 1; fi; }
[ -f /no/such/file ] && . /no/such/file
conda activate "$@"
"""


def test_an_activation_that_fails_is_named_by_its_line(job: Job, tmp_path: Path) -> None:
    (tmp_path / "activate").write_text(ACTIVATE)
    search = f"{tmp_path}:{os.environ['PATH']}"
    for line in ("source activate", f"source {tmp_path}/activate"):
        good = job.script(["bash", "-c", "echo A=$A"], job_script_prologue=[f"{line} good"])
        assert job.run(good, PATH=search) == 0
        assert job.log == "A=1\n"
        bad = job.script(["bash", "-c", "echo A=$A"], job_script_prologue=["true", f"{line} bad", "true"])
        assert job.run(bad, PATH=search) == 1
        assert "EnvironmentNameNotFound: bad\n" in job.log
        assert f"job-script-prologue: exit code 1 from: {line} bad\n" in job.log
        assert "A=" not in job.log


HOOK = """\
false
export HOOKED=yes
grep -q x /dev/null
conda() { if [ "$2" = good ]; then export A=1; else return 3; fi; }
false
true
"""


def test_a_text_given_to_eval_is_its_own_business_and_its_end_is_not(job: Job, tmp_path: Path) -> None:
    (tmp_path / "hook").write_text(HOOK)
    (tmp_path / "bad").write_text("export A=1\nfalse\n")
    hook = f'eval "$(cat {tmp_path}/hook)"'
    good = job.script(["bash", "-c", "echo $HOOKED $A"], job_script_prologue=[hook, "conda activate good", "true"])
    assert job.run(good) == 0
    assert job.log == "yes 1\n"
    for lines, code, said in (
        ([hook, "conda activate bad", "true"], 3, "conda activate bad"),
        ([hook, "true", "(exit 9)", "true"], 9, "(exit 9)"),
        ([f"{hook} && conda activate bad"], 3, f"{hook} && conda activate bad"),
        ([f'eval "$(cat {tmp_path}/bad)"', "true", "true"], 1, f'eval "$(cat {tmp_path}/bad)"'),
        ([hook, "x=$(false)", "true"], 1, "x=$(false)"),
        ([hook, "exit 6"], 6, "exit 6"),
    ):
        assert job.run(job.script(["echo", "worker"], job_script_prologue=lines)) == code, lines
        assert job.log.endswith(f"exit code {code} from: {said}\n")


def test_what_the_prologue_sets_for_itself_is_not_set_for_what_follows(job: Job) -> None:
    path = job.script(
        ["sh", "-c", "exit 5"],
        job_script_prologue=["set -eu -o pipefail"],
        job_script_epilogue=["false", "echo $NO_SUCH_VARIABLE", "echo last"],
    )
    assert job.run(path) == 5
    assert job.log.endswith("\nlast\n")


def test_a_signal_in_the_prologue_is_not_the_prologues_fault(job: Job) -> None:
    process = job.start(
        job.script(["echo", "worker"], job_script_prologue=["echo ready; while :; do sleep 0.05; done"])
    )
    wait_until(
        lambda: "ready" in job.log if (job.directory / "logs" / "7.3.log").exists() else False, "the prologue"
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert job.log == "ready\n"


def test_the_prologue_of_a_job_of_ranks_tells_its_line_too(job: Job) -> None:
    text = scripts.render_ranks(config("local", job_script_prologue=["true", "exit 6"]), count=1, command=["true"])
    path = job.directory / "ranks.sh"
    path.write_text(text)
    done = subprocess.run(["bash", path], capture_output=True, text=True)
    assert done.returncode == 6
    assert "job-script-prologue: the job ends with exit code 6 from: exit 6" in done.stderr


def test_the_epilogue_runs_also_after_a_failure(job: Job) -> None:
    path = job.script(["sh", "-c", "exit 5"], job_script_epilogue=["echo first", "false", "echo last"])
    assert job.run(path) == 5
    assert job.log == "first\nlast\n"
    assert job.ticket("exit") == "5\n"


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_goes_on_to_the_worker_whose_end_is_waited_for(job: Job, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    code = f"trap 'sleep 0.2; echo done; exit 11' {name}; echo ready; while :; do sleep 0.05; done"
    process = job.start(job.script(["bash", "-c", code], job_script_epilogue=["echo epilogue"]))
    wait_until(
        lambda: "ready" in job.log if (job.directory / "logs" / "7.3.log").exists() else False, "the worker"
    )
    process.send_signal(number)
    assert process.wait(timeout=30) == 11
    assert job.log == "ready\ndone\nepilogue\n"
    assert job.ticket("exit") == "11\n"


def test_a_signal_before_the_worker_ends_the_job(job: Job) -> None:
    process = job.start(
        job.script(["echo", "worker"], job_script_prologue=["echo ready; while :; do sleep 0.05; done"])
    )
    wait_until(
        lambda: "ready" in job.log if (job.directory / "logs" / "7.3.log").exists() else False, "the prologue"
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert job.ticket("exit") == "143\n"


# Users' own templates


def with_templates(tmp_path: Path, **files: str) -> JobConfig:
    """Return a Slurm configuration with a template directory that has these files."""
    for name, text in files.items():
        (tmp_path / f"{name}.sh.j2").write_text(text)
    return config("slurm", template_directory=str(tmp_path))


def test_a_users_template_comes_first(tmp_path: Path) -> None:
    job = with_templates(
        tmp_path, slurm="{{ config.shebang }}\n#SBATCH -n {{ config.cores }}\nmine {{ logs | q }}\n"
    )
    assert render(job) == f"#!/usr/bin/env bash\n#SBATCH -n 1\nmine {RUN}/logs\n"


def test_a_users_template_may_extend_ours(tmp_path: Path) -> None:
    job = with_templates(
        tmp_path,
        slurm='{% extends "hpclaunch/slurm.sh.j2" %}\n'
        "{% block directives %}\n{{ super() }}#SBATCH --qos={{ 'a b' | d }}\n{% endblock %}\n",
    )
    ours = render(config("slurm"))
    last = "#SBATCH --comment=hpclaunch:demo-0a1b2c3d\n"
    assert render(job) == ours.replace(last, f'{last}#SBATCH --qos="a b"\n')


def test_a_users_part_replaces_ours(tmp_path: Path) -> None:
    text = render(with_templates(tmp_path, _worker="run {{ directory | q }}\n"))
    assert text.endswith(f"\nrun {RUN}\n")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ nosuch }}", r"slurm\.sh\.j2.*'nosuch' is undefined"),
        ("a\n{% if %}", r"slurm\.sh\.j2:2: the template is wrong"),
        ('{% include "nosuch.j2" %}', r"there is no template 'nosuch\.j2'"),
        ("a\nb\n{{ config.cores / 0 }}", r"slurm\.sh\.j2:3: division by zero"),
        ("{{ ''.__class__.__mro__ }}", r"unsafe"),
        ("{{ 'a' + 1 }}", r"slurm\.sh\.j2:1: "),
        ("{{ config.queue | needed('set queue') }}", "set queue"),
    ],
)
def test_a_template_that_is_wrong_is_told_with_its_line(tmp_path: Path, template: str, words: str) -> None:
    with pytest.raises(ScriptError, match=words):
        render(with_templates(tmp_path, slurm=template))


def test_a_template_directory_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="is not a directory"):
        render(config("slurm", template_directory=str(tmp_path / "nosuch")))


# The real parsers

ODD_WORDS = [
    "plain",
    "two words",
    "a\\b",
    "a\\",
    "$HOME`id`",
    "a;b|c&d>e",
    "ümläut",
    "a  b",
    "~x",
    "x%j",
    "*",
    "{a}",
]


@pytest.mark.parametrize("word", ODD_WORDS)
def test_grid_engine_reads_a_value_as_it_was_given(sge: Bed, word: str) -> None:
    path = sge.directory / "job.sh"
    path.write_text(render(msgspec.structs.replace(config("sge"), queue=word)))
    done = sge.run(["qsub", "-verify", path])
    assert done.exit_code == 0, done
    assert re.search(r"^hard_queue_list: +(.*)$", done.stdout, re.MULTILINE)[1] == word


def test_slurm_reads_values_as_they_were_given(slurm: Bed) -> None:
    for word in [*ODD_WORDS, 'a"b', "a'b", "a#b", "a #b", "\\\"'"]:
        path = slurm.directory / "job.sh"
        text = scripts.render(
            config("slurm", job_extra_directives=["--hold"]),
            cluster_id=word,
            directory=RUN,
            work_directory=slurm.directory,
        )
        path.write_text(text)
        done = slurm.run(["sbatch", "--parsable", path])
        assert done.exit_code == 0, (word, done)
        number = done.stdout.strip()
        comment = slurm.run(["squeue", "--noheader", "--format=%k", f"--jobs={number}"]).stdout
        slurm.run(["scancel", number])
        assert comment == f"hpclaunch:{word}\n"


REAL = {
    "sge": (["qsub", "-terse", "-t", "1-2"], {"cores": 2, "parallel_environment": "smp"}),
    "slurm": (["sbatch", "--parsable", "--array=1-2"], {"cores": 2, "memory": "200 MB"}),
}


@pytest.mark.parametrize("system", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in REAL])
@pytest.mark.parametrize("name", ["plain", "a b", "per%cent %A", "ümläut; &", os.fsdecode(b"sc\xe9ne")])
def test_logs_and_tickets_are_where_we_look_for_them(
    system: str, name: str, request: pytest.FixtureRequest
) -> None:
    bed: Bed = request.getfixturevalue(system)
    directory = bed.new_directory(name)
    command, changes = REAL[system]
    code = "pwd; echo $OMP_NUM_THREADS; exit 7"
    text = render(config(system, **changes), directory, worker_command=["sh", "-c", code])
    (directory / "job.sh").write_bytes(scripts.encoded(text))
    bed.run(["mkdir", directory / "jobs", directory / "logs"])
    done = bed.run([*command, directory / "job.sh"], cwd=directory)
    assert done.exit_code == 0, done
    number = re.match(r"\d+", done.stdout)[0]
    joint = "." if system == "sge" else "_"
    for element in (1, 2):
        ticket = directory / "jobs" / f"{number}{joint}{element}.exit"
        wait_until(lambda path=ticket: path.exists() and path.read_text() == "7\n", f"{ticket} to be written")
        log = directory / "logs" / f"{number}{joint}{element}.log"
        wait_until(lambda path=log: path.exists() and path.read_bytes(), f"{log} to be written")
        assert log.read_bytes() == os.fsencode(directory) + b"\n1\n"


def test_workers_have_the_resources_of_the_configuration() -> None:
    command = scripts.worker_command(config("local", resources={"GPU": 1, "big-disk": 0.5}), Path("d"))
    assert command[-2:] == ["--resources", "GPU=1,big-disk=0.5"]


@pytest.mark.parametrize(
    ("system", "changes", "expected"),
    [
        ("slurm", {}, 3600),
        ("slurm", {"job_extra_directives": ["--time=90"]}, 5400),
        ("slurm", {"job_extra_directives": ["-t 1-2"]}, 93600),
        ("sge", {"resource_spec": "h_vmem=1G,h_rt=00:30:00"}, 1800),
        ("sge", {"job_extra_directives": ["-l disk=1G,h_rt=77"]}, 77),
        ("local", {"walltime": 60}, 60),
    ],
)
def test_a_job_knows_its_end(system: str, changes: dict[str, Any], expected: int) -> None:
    text = render(config(system, **{"walltime": "01:00:00", **changes}))
    assert f"$(($(date +%s) + {expected}))" in text


def test_slurm_is_asked_for_the_end_where_only_it_knows() -> None:
    endless = {system: msgspec.structs.replace(config(system), walltime=None) for system in ("slurm", "sge")}
    assert "squeue -h -o %e" in render(endless["slurm"])
    assert "HPCLAUNCH_ENDS=0\n" in render(endless["sge"])


@pytest.mark.parametrize("off", [0, -40, 5 * 86400, -900 * 86400])
def test_a_slurm_job_knows_how_long_it_has_on_a_node_whose_clock_is_off(off: int) -> None:
    text = render(config("slurm", walltime="01:00:00"))
    began, end = text.index("HPCLAUNCH_ENDS="), text.index("HPCLAUNCH_JOB=")
    controller = int(time.time()) - off
    given = {"SLURM_JOB_START_TIME": str(controller - 5), "SLURM_JOB_END_TIME": str(controller + 3595)}
    shown = f"set -eu\n{text[began:end]}\necho $((HPCLAUNCH_ENDS - $(date +%s)))"
    done = subprocess.run(["bash", "-c", shown], env={**os.environ, **given}, capture_output=True, text=True)
    assert abs(int(done.stdout) - 3600) < 60, done.stderr


def test_a_signal_is_asked_for_before_the_end() -> None:
    assert "#SBATCH --signal=B:USR1@60\n" in render(config("slurm", walltime="10:00:00"))
    assert "#SBATCH --signal=B:USR1@6\n" in render(config("slurm", walltime="60s"))
    assert "#SBATCH --signal=B:USR1@20\n" in render(config("slurm", walltime="60s", drain_margin=20))
    assert "#$ -notify\n" in render(config("sge"))


def test_users_own_signals_win() -> None:
    own = render(config("slurm", job_extra_directives=["--signal=USR2@100"]))
    assert own.count("--signal") == 1
    assert "-notify" not in render(config("sge", job_directives_skip=["-notify"]))
    assert render(config("sge", job_extra_directives=["-notify"])).count("-notify") == 1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"local_directory": "$SCRATCH_OF_JOBS/x"}, "SCRATCH_OF_JOBS"),
        ({"python": "${ENV_OF_JOBS}/bin/python"}, "ENV_OF_JOBS"),
        ({"worker_extra_args": ["--local-directory $SCRATCH_OF_JOBS"]}, "SCRATCH_OF_JOBS"),
    ],
)
def test_a_variable_that_the_job_does_not_have_is_named(job: Job, changes: dict[str, Any], name: str) -> None:
    assert job.run(job.script(["echo", "worker"], **changes)) == 78
    assert f"hpclaunch: {name} is not set in this job on " in job.log
    assert "worker\n" not in job.log
    assert job.run(job.script(["echo", "worker"], **changes), **{name: "/x"}) == 0


def test_a_prologue_may_set_it(job: Job) -> None:
    path = job.script(["echo", "worker"], local_directory="$MINE", job_script_prologue=["export MINE=/x"])
    assert job.run(path) == 0


def test_without_a_tmpdir_the_usual_one_is_meant(job: Job) -> None:
    base = msgspec.structs.replace(config("local"), local_directory="${TMPDIR}/a b")
    word = scripts.worker_command(base, job.directory)[-1]
    path = job.script([*job.record(), word])
    assert job.run(path, TMPDIR="/x") == 0
    assert job.words() == ["/x/a b"]
    assert job.run(path, TMPDIR="") == 0
    assert job.words() == ["/tmp/a b"]  # noqa: S108
