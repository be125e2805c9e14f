"""What is installed is whole: the wheel and an editable install both find templates and configuration."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .testbed import install

ROOT = Path(__file__).resolve().parents[1]
DATA = [
    path for folder in ("templates", "configs") for path in sorted((ROOT / folder).rglob("*")) if path.is_file()
]
FIND = """
from pathlib import Path
from hpclaunch.data_files import data_path
for folder in ("templates", "configs"):
    base = data_path(folder)
    for path in sorted(base.rglob("*")):
        if path.is_file():
            print(folder, path.relative_to(base), path, sep="\\t")
"""


def run(*argv: str | Path, cwd: Path) -> str:
    """Run a command with the developer's own pip settings; return what it printed."""
    environment = {**os.environ, "HOME": install.HOME}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([*map(str, argv)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout


def found_files(python: str | Path, cwd: Path) -> dict[str, Path]:
    """Return the data files as the package itself finds them: ``folder/name`` to path."""
    lines = run(python, "-c", FIND, cwd=cwd).splitlines()
    return {f"{folder}/{name}": Path(path) for folder, name, path in (line.split("\t") for line in lines)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without asking the network for the build backend."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh environment with the wheel in it; dependencies are borrowed from this one."""
    path = tmp_path_factory.mktemp("environment")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(path)
    python = path / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    run(*pip, "--root-user-action=ignore", wheel, cwd=path)
    (site,) = path.glob("lib/python3*/site-packages")
    borrowed = site / "borrowed"
    borrowed.mkdir()
    for each in sys.path:
        if each.endswith("site-packages"):
            for entry in Path(each).iterdir():
                if "hpclaunch" not in entry.name.lower() and not entry.name.endswith(".pth"):
                    (borrowed / entry.name).symlink_to(entry)
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    return path / "bin"


def test_there_is_data_to_install() -> None:
    names = {str(path.relative_to(ROOT)) for path in DATA}
    templates = {f"templates/{name}.sh.j2" for name in ("sge", "slurm", "local", "_worker")}
    assert {"configs/defaults.yaml", *templates} <= names


@pytest.mark.slow
def test_wheel_has_all_data_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    data = {f"hpclaunch/_data/{path.relative_to(ROOT)}" for path in DATA}
    code = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "hpclaunch").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == data | code
    assert "hpclaunch/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_wheel_names_its_dependencies_and_command(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    required = [Requirement(line.removeprefix("Requires-Dist: ")) for line in lines if "Requires-Dist: " in line]
    assert set(map(Requirement, project["dependencies"])) == {one for one in required if one.marker is None}
    assert f"Requires-Python: {project['requires-python']}" in lines


@pytest.mark.slow
def test_wheel_finds_its_data(installed: Path) -> None:
    found = found_files(installed / "python", installed)
    assert set(found) == {str(path.relative_to(ROOT)) for path in DATA}
    for name, path in found.items():
        assert not path.is_relative_to(ROOT)
        assert path.read_bytes() == (ROOT / name).read_bytes()


def test_editable_install_finds_its_data(tmp_path: Path) -> None:
    found = found_files(sys.executable, tmp_path)
    assert set(found) == {str(path.relative_to(ROOT)) for path in DATA}
    assert all(path == ROOT / name for name, path in found.items())


@pytest.mark.slow
def test_command_of_the_wheel_runs(installed: Path) -> None:
    text = run(installed / "hpclaunch", "config", "show", cwd=installed)
    assert "jobqueue" in text
    script = run(installed / "hpclaunch", "script", "slurm", "--cores", "2", "--memory", "1 GB", cwd=installed)
    assert script.startswith("#!")


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code = "import hpclaunch; print(hpclaunch.__version__)"
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == project["version"]
    assert f"[{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()
