"""What surrounds the code agrees with it: extras, continuous integration, hooks, citation, release process."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
#: Extras for those who work on the project, not for its users.
FOR_DEVELOPERS = {"test", "bench", "docs"}


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def package_of(requirement: str) -> str:
    return re.split(r"[\[<>=~! ]", requirement)[0]


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - FOR_DEVELOPERS - {"all"}))
def test_extra_is_of_use(extra: str) -> None:
    """An extra brings what some module imports; one that nothing imports promises what is not there."""
    code = "\n".join(path.read_text() for path in (ROOT / "hpclaunch").rglob("*.py"))
    packages = [package_of(one) for one in EXTRAS[extra]]
    assert any(re.search(rf"^\s*(import|from) {one}\b", code, re.MULTILINE) for one in packages), packages


def test_extra_all_has_all_that_users_need() -> None:
    (requirement,) = EXTRAS["all"]
    names = set(re.sub(r".*\[(.*)\]", r"\1", requirement).split(","))
    assert names == EXTRAS.keys() - FOR_DEVELOPERS - {"all"}


def test_workflow_runs_the_command_of_ci_on_all_python_versions() -> None:
    (job,) = read_yaml(".github/workflows/tests.yml")["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert versions == named
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]


def test_hooks_are_targets_of_make() -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for hook in repository["hooks"]:
        command, target = hook["entry"].split()
        assert command == "make"
        assert target in targets


def test_citation_is_of_this_version() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")))
def test_issue_form_is_whole(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    for field in form["body"]:
        assert field["type"] in ("markdown", "textarea", "input")
        assert field["attributes"].get("label") or field["attributes"].get("value")


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "docs/releasing.md"])
def test_links_and_paths_are_there(name: str) -> None:
    text = (ROOT / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    missing = [link for link in links if not ((ROOT / name).parent / link).exists()]
    paths = re.findall(r"`((?:hpclaunch|tests|configs|templates|examples|\.ci)/[\w./-]*)`", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []
