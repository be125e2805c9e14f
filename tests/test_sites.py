"""docs/sites.md and configs/sites: what they say is rendered as a site wants it, and taken by the real ones."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpclaunch import scripts
from hpclaunch.config.layers import check_file, load, read_tree
from hpclaunch.config.schema import JobConfig
from tests.testbed.beds import Bed, SgeBed, wait_until

ROOT = Path(__file__).resolve().parents[1]
SITES = sorted((ROOT / "configs" / "sites").glob("*.yaml"))
SYSTEMS = ("slurm", "sge")

#: What the scripts of each row have, Slurm's and Grid Engine's: whole lines, ``!`` before one that they lack.
EXPECTED: dict[str, tuple[list[str], list[str]]] = {
    "partition, queue": (["#SBATCH --partition=short"], ["#$ -q short.q"]),
    "account, project": (["#SBATCH --account=physics"], ["#$ -P physics"]),
    "several cores": (["#SBATCH --cpus-per-task=4"], ["#$ -pe smp 4"]),
    "memory of the job": (["#SBATCH --mem=7630M"], ["#$ -l h_vmem=7812500K"]),
    "memory per core, per slot": (["#SBATCH --mem-per-cpu=4G", "!#SBATCH --mem="], ["#$ -l h_vmem=1953125K"]),
    "memory as `-l rmem`": ([], ["#$ -l rmem=8G"]),
    "memory as `-l mem`": ([], ["#$ -l mem=8G"]),
    "memory is not asked for": (["!#SBATCH --mem"], ["!#$ -l h_vmem"]),
    "resources in one list": ([], ["#$ -l h_vmem=4G,tmpfs=10G"]),
    "GPU": (["#SBATCH --gres=gpu:1", "--resources GPU=1"], ["#$ -l gpu=1", "--resources GPU=1"]),
    "kind of node": (["#SBATCH --constraint=haswell"], ["#$ -l cputype=haswell"]),
    "quality of service": (["#SBATCH --qos=normal"], ["#$ -p -100"]),
    "whole nodes": (["#SBATCH --exclusive", "#SBATCH --mem=0"], ["#$ -l exclusive=true"]),
    "context (`-ac`)": ([], ["#$ -ac allow=GPU", "!HPCLAUNCH_CLUSTER"]),
    "job class (`-jc`)": ([], ["#$ -jc short"]),
    "reservation": (["#SBATCH --reservation=course"], ["#$ -ar 4711"]),
    "nodes to avoid": (["#SBATCH --exclude=node4"], ["#$ -l h=!sge4"]),
    "your whole environment": (["#SBATCH --export=ALL"], ["#$ -V"]),
    "a mail at a failure": (["#SBATCH --mail-type=FAIL"], ["#$ -m a"]),
    "container": (["apptainer exec /images/my.sif python -P -m hpclaunch.worker"],) * 2,
    "modules": (["module load python"],) * 2,
    "conda": (["source ~/miniconda3/bin/activate work", "python -P -m hpclaunch.worker"],) * 2,
    "a login shell": (["#!/bin/bash -l"], ["#!/bin/bash -l"]),
    "scratch on the node": (['--local-directory "/scratch/$USER"'], ['--local-directory "${TMPDIR:-/tmp}/work"']),
}


def rows() -> dict[str, tuple[str, ...]]:
    """Return the table of docs/sites.md: feature -> cells."""
    text = (ROOT / "docs" / "sites.md").read_text()
    table = text.partition("## Features")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:2] == "| "
    ]
    return {row[0].strip("| "): tuple(cell.strip("| ") for cell in row[1:]) for row in cells[1:]}


def written(feature: str, system: str) -> dict[str, Any] | None:
    """Return the keys of a cell; None if a system has nothing of the kind."""
    cell = rows()[feature][SYSTEMS.index(system)]
    if cell == "none":
        return None
    keys = yaml.safe_load(cell.strip("`"))
    assert isinstance(keys, dict), cell
    return keys


def configured(system: str, keys: dict[str, Any], tmp_path: Path, **more: Any) -> JobConfig:
    """Return the configuration of a file with these keys."""
    path = tmp_path / "jobqueue.yaml"
    path.write_text(yaml.safe_dump({"jobqueue": {system: keys}}))
    assert check_file(path) == []
    open_keys = {"cores": 1, "memory": "200 MB", "walltime": "00:05:00", **more}
    rest = {key: value for key, value in open_keys.items() if key.replace("_", "-") not in keys}
    return load(system, rest, env={}, paths=[path]).job


def test_each_row_of_the_table_is_tested() -> None:
    assert list(rows()) == list(EXPECTED)


CELLS = [
    (feature, system) for feature in EXPECTED for system in SYSTEMS if EXPECTED[feature][SYSTEMS.index(system)]
]


@pytest.mark.parametrize(("feature", "system"), CELLS)
def test_a_cell_is_rendered_as_a_site_wants_it(feature: str, system: str, tmp_path: Path) -> None:
    keys = written(feature, system)
    assert keys is not None
    job = configured(system, keys, tmp_path)
    text = scripts.render(job, cluster_id="c", directory=Path("/run/c"), work_directory=Path("/"))
    for line in EXPECTED[feature][SYSTEMS.index(system)]:
        assert (line.removeprefix("!") in text) != line.startswith("!"), f"{line}\n{text}"


def test_a_dash_is_where_nothing_is_expected() -> None:
    for feature, expected in EXPECTED.items():
        for system, lines in zip(SYSTEMS, expected, strict=True):
            assert bool(lines) == (written(feature, system) is not None), (feature, system)


# The real ones

#: What each bed has, or is given for the test.
ON_SLURM = (
    *("several cores", "memory of the job", "memory per core, per slot", "memory is not asked for", "whole nodes"),
    *("partition, queue", "kind of node", "quality of service", "nodes to avoid", "your whole environment"),
    *("container", "modules", "conda", "a login shell", "scratch on the node"),
)
ON_SGE = (
    *(
        "several cores",
        "memory of the job",
        "memory per core, per slot",
        "memory as `-l rmem`",
        "memory as `-l mem`",
    ),
    *("memory is not asked for", "resources in one list", "GPU", "quality of service", "context (`-ac`)"),
    *("nodes to avoid", "your whole environment", "partition, queue", "container", "modules", "conda"),
    *("a login shell", "scratch on the node", "kind of node", "whole nodes"),
)
#: What a user's home has, so that the cells work as they stand.
ACTIVATE = 'conda() { [ "$2" = work ] && export CONDA=on; }\nconda activate "$@"\n'
PROFILE = "module() { export LOADED=$2; }\nexport -f module\n"
APPTAINER = '#!/bin/bash\n[ "$1 $2" = "exec /images/my.sif" ] || exit 9\nshift 2\nexec "$@"\n'


def scaled(keys: dict[str, Any]) -> dict[str, Any]:
    """Return a cell's keys with sizes that the small nodes of a bed have."""
    smaller = {"8 GB": "800 MB", "8 GiB": "1 GiB"}
    text = json.dumps(
        {key: smaller.get(value, value) if isinstance(value, str) else value for key, value in keys.items()}
    )
    text = text.replace('"cores": 4', '"cores": 2')
    return json.loads(text.replace("per-cpu=4G", "per-cpu=400M").replace("h_vmem=4G", "h_vmem=900M"))


def run_rows(bed: Bed, system: str, features: tuple[str, ...], tmp_path: Path) -> None:
    """Submit a job of each row; each must run to its end, and leave exit code 0."""
    tools = bed.new_directory("tools")
    for name, text in (("apptainer", APPTAINER), ("python", f'#!/bin/sh\nexec {bed.python} "$@"\n')):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tools / "miniconda3" / "bin").mkdir(parents=True)
    (tools / "miniconda3" / "bin" / "activate").write_text(ACTIVATE)
    submitted = {}
    for number, feature in enumerate(features):
        keys = written(feature, system)
        assert keys is not None
        job = configured(system, scaled(keys), tmp_path, python=bed.python)
        directory = bed.new_directory(f"row{number}")
        bed.run(["mkdir", directory / "jobs", directory / "logs"])
        command = [*scripts.python_words(job), "-c", "import os; print(len(os.sched_getaffinity(0)))"]
        text = scripts.render(
            job, cluster_id="c", directory=directory, work_directory=directory, worker_command=command
        )
        # What a site's own profile would do, before the first line of the prologue.
        lines = f"export HOME={tools} PATH={tools}:$PATH\n{PROFILE}"
        (directory / "job.sh").write_text(text.replace("\nhpclaunch_program=", f"\n{lines}hpclaunch_program=", 1))
        array = ["sbatch", "--parsable", "--array=1-1"] if system == "slurm" else ["qsub", "-terse", "-t", "1-1"]
        done = bed.run([*array, directory / "job.sh"], cwd=directory)
        assert done.exit_code == 0, (feature, done)
        submitted[feature] = directory
    for feature, directory in submitted.items():
        wait_until(lambda path=directory: list(path.glob("jobs/*.exit")), f"the job of {feature!r} to end", 90)
        (ticket,) = directory.glob("jobs/*.exit")
        log = next(directory.glob("logs/*.log")).read_text()
        assert (ticket.read_text(), log.strip().isdigit()) == ("0\n", True), (feature, log)


@pytest.fixture
def kind_of_node(slurm_bed: Bed) -> Iterator[None]:
    """Have one node of the Slurm bed of the kind that the table asks for."""
    update = ["scontrol", "update", "nodename=node2"]
    subprocess.run(
        [*update, "availablefeatures=haswell", "activefeatures=haswell"], check=True, capture_output=True
    )
    yield
    subprocess.run([*update, "availablefeatures=", "activefeatures="], check=True, capture_output=True)


@pytest.mark.slow
def test_the_rows_run_on_slurm(slurm: Bed, kind_of_node: None, tmp_path: Path) -> None:
    run_rows(slurm, "slurm", ON_SLURM, tmp_path)


#: What other sites hand out: name, shortcut, type, relation, requestable, consumable, default, urgency.
COMPLEXES = """rmem rmem MEMORY <= YES YES 0 0
mem mem MEMORY <= YES YES 0 0
tmpfs tmpfs MEMORY <= YES YES 0 0
gpu gpu INT <= YES YES 0 0
cputype cputype RESTRING == YES NO NONE 0
exclusive excl BOOL EXCL YES YES 0 1000
"""
VALUES = "rmem=4G,mem=4G,tmpfs=20G,gpu=1,cputype=haswell,exclusive=true"


@pytest.fixture
def resources(sge_bed: Bed) -> Iterator[None]:
    """Have the Grid Engine bed hand out, for the test, what other sites do."""
    assert isinstance(sge_bed, SgeBed)
    head = [*sge_bed.on("sgehead"), "env", "SGE_ROOT=/var/lib/gridengine", "SGE_CELL=default"]

    def qconf(*words: str, text: str = "") -> str:
        if text:
            path = Path("/tmp/hpclaunch-complexes")  # noqa: S108  # one that the head's host sees
            path.write_text(text)
            words = (*words, str(path))
        done = subprocess.run([*head, "qconf", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    before = qconf("-sc")
    qconf("-Mc", text=before + COMPLEXES)
    qconf("-aattr", "exechost", "complex_values", VALUES, "sge2")
    yield
    for name in VALUES.split(","):
        qconf("-dattr", "exechost", "complex_values", name.partition("=")[0], "sge2")
    qconf("-Mc", text=before)


@pytest.mark.slow
def test_the_rows_run_on_grid_engine(sge: Bed, resources: None, tmp_path: Path) -> None:
    run_rows(sge, "sge", ON_SGE, tmp_path)


# configs/sites


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_a_file_of_a_site_is_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_file(path) == []
    tree = read_tree([path], {})
    names = [name for name, place in tree.places.items() if place.startswith(str(path))]
    assert names
    for name in names:
        job = load(name, env={}, paths=[path]).job
        text = scripts.render(job, cluster_id="c", directory=Path("/run/c"), work_directory=Path("/"))
        for line in job.job_extra_directives:
            assert f" {line}\n" in text
        for group in job.groups.values():
            assert load(name, {**group, "groups": {}}, env={}, paths=[path]).job.section == name


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_it_says_what_kind_of_site_it_is(path: Path) -> None:
    assert re.match(r"# \w.{20,}", path.read_text())
