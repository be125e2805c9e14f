"""Batch systems of other packages: found by name, loaded when they are used, and their faults told."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpclaunch import extensions
from hpclaunch.batch import codec
from hpclaunch.config.layers import check_file, load
from hpclaunch.errors import ConfigError

from .testbed import install

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "hpclaunch-pbs"
GOOD = """
from pathlib import Path
from hpclaunch.batch.slurm import Slurm
class Codec(Slurm):
    name = "other"
    title = "Other"
    template_directory = Path(__file__).parent
    template = "other.sh.j2"
"""


@pytest.fixture(autouse=True)
def _fresh() -> object:
    def clear() -> None:
        extensions._providers.cache_clear()
        extensions.load.cache_clear()
        codec.cache_clear()

    clear()
    yield
    clear()


def provide(monkeypatch: pytest.MonkeyPatch, site: Path, package: str, source: str, name: str = "other") -> None:
    """Put an installed package with one entry point on the path."""
    module = f"{package.replace('-', '_')}_module"
    info = site / f"{package.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{extensions.GROUP}]\n{name} = {module}:Codec\n")
    (site / f"{module}.py").write_text(source)
    (site / "other.sh.j2").write_text('{% extends "hpclaunch/slurm.sh.j2" %}\n')
    if str(site) not in sys.path:
        monkeypatch.syspath_prepend(str(site))
    sys.modules.pop(module, None)


@pytest.mark.parametrize("section", ["other", "site"])
def test_section_of_another_package(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, tmp_path / "site", "hpclaunch-other", GOOD)
    file = tmp_path / "jobqueue.yaml"
    file.write_text(
        "jobqueue:\n  site:\n    batch-system: other\n    queue: long\n    cores: 4\n    memory: 8 GB\n"
    )
    assert check_file(file) == []
    config = load(section, {"cores": 2, "memory": "1 GB"}, env={}, paths=[file]).job
    assert config.batch_system == "other"
    assert config.queue == ("long" if section == "site" else None)
    assert codec("other").title == "Other"


FAULTS = [
    ("import no_such_module", "could not be imported: ModuleNotFoundError: No module named 'no_such_module'"),
    ("raise SystemError('broken')", "could not be imported: SystemError: broken"),
    ("x = 1", "could not be imported: AttributeError"),
    ("Codec = 1", "is no subclass of hpclaunch.batch.base.BatchSystem"),
    (
        "from hpclaunch.batch.base import BatchSystem\nclass Codec(BatchSystem):\n    name = 'other'",
        "lacks cancel, ",
    ),
    (GOOD.replace('"other"', '"another"'), "they must be the same"),
    (GOOD.replace("other.sh.j2", "none.sh.j2"), "there is no such file in "),
    (GOOD.replace("template_directory = ", "x = "), "template_directory, which it does not set"),
]


@pytest.mark.parametrize(("source", "words"), FAULTS)
def test_package_that_cannot_be_used(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provide(monkeypatch, tmp_path / "site", "hpclaunch-other", source)
    file = tmp_path / "jobqueue.yaml"
    file.write_text("jobqueue:\n  site:\n    batch-system: other\n")
    (error,) = check_file(file)
    assert str(error).startswith(f"{file}:3: batch system 'other' comes from the package hpclaunch-other 1.2")
    assert words in str(error)
    assert "pip uninstall hpclaunch-other" in str(error)
    with pytest.raises(ConfigError, match=r"hpclaunch-other 1\.2"):
        load("site", env={}, paths=[file])


def test_two_packages_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, tmp_path / "one", "hpclaunch-one", GOOD)
    provide(monkeypatch, tmp_path / "two", "hpclaunch-two", GOOD)
    with pytest.raises(ConfigError, match=r"by hpclaunch-one and by hpclaunch-two; uninstall all but one"):
        load("other", env={}, paths=[])


def test_unknown_name_lists_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, tmp_path / "site", "hpclaunch-other", GOOD)
    file = tmp_path / "jobqueue.yaml"
    file.write_text("jobqueue:\n  site:\n    batch-system: pbs\n")
    (error,) = check_file(file)
    assert "must say batch-system: sge, slurm, local, other, not 'pbs'" in str(error)


def test_own_batch_systems_load_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, tmp_path / "site", "hpclaunch-other", "raise SystemError", name="slurm")
    monkeypatch.setattr(extensions, "_providers", lambda: pytest.fail("installed packages were searched"))
    load("slurm", {"cores": 1, "memory": "1 GB"}, env={}, paths=[])
    load("local", env={}, paths=[])


def test_example_has_all_that_a_codec_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    module = importlib.import_module("hpclaunch_pbs.codec")
    assert extensions._problem("pbs", module.PBS) == ""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example package, installed by pip without the network."""
    path = tmp_path_factory.mktemp("target")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    environment = {**os.environ, "HOME": install.HOME, "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(
        [*pip, "--target", str(path), str(EXAMPLE)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return path


def run(target: Path, *argv: str, cwd: Path, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{target}{os.pathsep}{ROOT}", "HOME": str(cwd), "PATH": path}
    return subprocess.run(
        [sys.executable, *argv], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_installed_example_passes_the_suite(target: Path, tmp_path: Path) -> None:
    done = run(target, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.slow
def test_commands_with_the_installed_example(target: Path, tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "jobqueue:\n  ours:\n    batch-system: pbs\n    cores: 4\n    memory: 8 GiB\n    queue: workq\n"
        "    walltime: 02:30:00\n    job-extra-directives: ['-l place=scatter']\n"
    )
    checked = run(target, "-m", "hpclaunch", "config", "check", str(file), cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    environment = ["-c", f"import os; os.environ['HPCLAUNCH_CONFIG'] = {str(file)!r}"]
    program = "\nfrom hpclaunch.cli.main import main\nimport sys\nsys.argv[1:] = {}\nmain()"
    script = run(target, environment[0], environment[1] + program.format(["script", "ours"]), cwd=tmp_path)
    lines = script.stdout.splitlines()
    assert "#PBS -l select=1:ncpus=4:mem=8192mb" in lines, script.stderr
    assert {"#PBS -q workq", "#PBS -l walltime=02:30:00", "#PBS -l place=scatter"} <= set(lines)
    (tmp_path / "mpi.py").write_text("")
    ranks = run(
        target,
        environment[0],
        environment[1] + program.format(["script", "ours", "--mpi", "4", "mpi.py"]),
        cwd=tmp_path,
    )
    assert "#PBS -l select=4:ncpus=1:mpiprocs=1" in ranks.stdout, ranks.stderr
    assert "mpirun -np 4 " in ranks.stdout
    doctor = run(
        target, environment[0], environment[1] + program.format(["doctor", "ours"]), cwd=tmp_path, path="/nowhere"
    )
    assert doctor.returncode != 0
    assert "qsub, qstat, qdel not found on this host" in doctor.stdout
    assert "PBS" in doctor.stdout


QSUB = """#!{python}
import json, os, subprocess, sys
from pathlib import Path
spool = Path({spool!r})
script = sys.argv[-1]
count = int(sys.argv[sys.argv.index("-J") + 1].split("-")[1]) if "-J" in sys.argv else 0
ids = ["7.pbs1"] if not count else [f"7[{{i}}].pbs1" for i in range(1, count + 1)]
for one in ids:
    environment = {{**os.environ, "PBS_JOBID": one, "PBS_O_WORKDIR": os.getcwd()}}
    null = subprocess.DEVNULL
    job = subprocess.Popen(
        ["bash", script], env=environment, stdin=null, stdout=null, stderr=null, start_new_session=True
    )
    (spool / f"{{one}}.pid").write_text(f"{{job.pid}} {{script}}")
print("7[].pbs1" if count else "7.pbs1")
"""
QSTAT = """#!{python}
import os, sys
from pathlib import Path
def state(pid):
    try:
        return "F" if Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] == "Z" else "R"
    except OSError:
        return "F"
for path in sorted(Path({spool!r}).glob("*.pid")):
    pid, script = path.read_text().split()
    found = state(pid)
    if "-x" not in sys.argv and found == "F":
        continue
    print(f"Job Id: {{path.stem}}\\n    job_state = {{found}}")
    if found == "F":
        print("    Exit_status = 0")
    print(f"    Submit_arguments = {{script}}\\n")
"""
QDEL = """#!{python}
import os, signal, sys
from pathlib import Path
for one in sys.argv[1:]:
    try:
        os.kill(int((Path({spool!r}) / f"{{one}}.pid").read_text().split()[0]), signal.SIGTERM)
    except OSError:
        print(f"qdel: Job has finished {{one}}", file=sys.stderr)
"""
PROGRAM = """
import json
from hpclaunch import Client, JobQueueCluster
with JobQueueCluster(config_name="pbs", cores=1, memory="1 GB", interface="lo", n_workers=2) as cluster:
    with Client(cluster) as client:
        print(json.dumps([client.submit(pow, 2, 5).result(timeout=60), cluster.job_script().count("#PBS")]))
"""


@pytest.mark.slow
def test_tasks_run_in_jobs_of_the_installed_example(target: Path, tmp_path: Path) -> None:
    """Its commands are replaced by ones that run the jobs here: a PBS is not to be had."""
    commands, spool = tmp_path / "bin", tmp_path / "spool"
    commands.mkdir()
    spool.mkdir()
    for name, text in (("qsub", QSUB), ("qstat", QSTAT), ("qdel", QDEL)):
        path = commands / name
        path.write_text(text.format(python=sys.executable, spool=str(spool)))
        path.chmod(0o755)
    done = run(target, "-c", PROGRAM, cwd=tmp_path, path=f"{commands}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    result, directives = json.loads(done.stdout)
    assert result == 32
    assert directives > 4
