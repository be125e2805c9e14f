"""What is installed beside us: bounds on both sides, and in CI the very releases that were tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = (ROOT / ".ci" / "constraints.txt").read_text()
#: Distributions whose module has another name, or that another library imports for us.
MODULES = {"numpy": ""}


def pins() -> list[Requirement]:
    return [Requirement(line.rstrip(" \\")) for line in CONSTRAINTS.splitlines() if re.match("[a-z]", line)]


def test_each_dependency_has_a_lower_and_an_upper_bound() -> None:
    for text in PROJECT["dependencies"]:
        signs = {one.operator for one in Requirement(text).specifier}
        assert signs == {">=", "<"}, text


def test_ci_installs_releases_within_the_bounds_for_every_python() -> None:
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]]
    pinned: dict[str, list[str]] = {}
    for pin in pins():
        pinned.setdefault(pin.name, []).append(str(pin.specifier).removeprefix("=="))
    for one in wanted:
        versions = pinned[one.name.lower()]
        assert all(one.specifier.contains(version) for version in versions), one
    for minor in range(11, 15):
        there = {
            pin.name
            for pin in pins()
            if pin.marker is None
            or pin.marker.evaluate({"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0"})
        }
        assert {one.name.lower() for one in wanted} <= there


def test_each_release_has_hashes_and_no_package_host_is_named() -> None:
    blocks = re.split(r"\n(?=[a-z])", CONSTRAINTS)[1:]
    assert len(blocks) == len(pins())
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"://|--index|--find-links|/opt/", CONSTRAINTS)


def test_an_extra_names_only_what_some_module_imports() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "hpclaunch").rglob("*.py"))
    extras = {name: PROJECT["optional-dependencies"][name] for name in ("mpi", "dask", "joblib")}
    assert PROJECT["optional-dependencies"]["all"] == [f"hpclaunch[{','.join(extras)}]"]
    assert extras.keys() | {"test", "bench", "docs", "all"} == PROJECT["optional-dependencies"].keys()
    for requirement in (Requirement(line) for lines in extras.values() for line in lines):
        name = MODULES.get(requirement.name, requirement.name)
        assert re.search(rf"^ *(?:import|from) {name}", text, re.MULTILINE) or not name, requirement
