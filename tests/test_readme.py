"""The README is true: its programs run, its configuration is right, and what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hpclaunch
from hpclaunch import errors
from hpclaunch.cli.main import COMMANDS

from .testbed.beds import Bed

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: A comment before a code block says what is done with it.
MARKED = re.compile(r"<!-- (?P<what>run|check): (?P<where>\w+) -->\n```\w+\n(?P<code>.*?)```", re.DOTALL)


def marked(what: str, where: str) -> list[str]:
    """Return the code blocks with this mark; there must be some."""
    found = [m["code"] for m in MARKED.finditer(README) if (m["what"], m["where"]) == (what, where)]
    assert found, f"no code block of the README is marked {what}: {where}"
    return found


def run(*argv: str | Path, cwd: Path) -> str:
    """Run a command to its end; return what it printed."""
    done = subprocess.run([*map(str, argv)], cwd=cwd, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_on(bed: Bed, code: str) -> str:
    """Run a program as the bed's user on its login host; return what it printed."""
    script = bed.directory / "script.py"
    script.write_text(code)
    done = bed.run([bed.python, script], timeout=240)
    assert done.exit_code == 0, done.stdout + done.stderr
    return done.stdout


def test_no_mark_is_misspelt() -> None:
    known = {("run", "local"), ("run", "sge"), ("run", "slurm"), ("check", "config")}
    assert {(m["what"], m["where"]) for m in MARKED.finditer(README)} == known
    assert README.count("<!--") == len(MARKED.findall(README))


@pytest.mark.slow
def test_local_programs_run(tmp_path: Path) -> None:
    out = []
    for number, code in enumerate(marked("run", "local")):
        script = tmp_path / f"script{number}.py"
        script.write_text(code)
        out.append(run(sys.executable, script, cwd=tmp_path))
    walks, adapted, total, mean = out
    assert adapted.startswith("5050\n")
    assert "100 tasks are 50 s of work for one thread; the maximum is 2" in adapted
    assert total == "5050\n"
    assert re.fullmatch(r"100 walks, the longest way out: \d+\n", walks)
    assert float(mean) == pytest.approx(0.5708, abs=0.01)  # pi/2 - 1


def test_program_for_grid_engine_runs(sge: Bed) -> None:
    (code,) = marked("run", "sge")
    *script, mean = run_on(sge, code).splitlines()
    assert script[0].startswith("#!")
    assert any(line.startswith("#$ ") for line in script)
    assert abs(float(mean)) < 0.2


def test_program_for_slurm_runs(slurm: Bed) -> None:
    (code,) = marked("run", "slurm")
    assert run_on(slurm, code).splitlines()[-1] == str(sum(range(20_000)))


@pytest.mark.slow
def test_configuration_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = marked("check", "config")
    path = tmp_path / "jobqueue.yaml"
    path.write_text(text)
    monkeypatch.setenv("HPCLAUNCH_CONFIG", str(path))
    command = [Path(sys.executable).with_name("hpclaunch")]
    run(*command, "config", "check", path, cwd=tmp_path)
    shown = run(*command, "config", "show", "--origin", "sge", cwd=tmp_path)
    assert "jobqueue.yaml:5" in shown
    script = run(*command, "script", "arc4", cwd=tmp_path)
    promised = re.search(r"asks for (h_vmem=\S+) per slot", text)
    assert promised is not None
    assert promised[1] in script


def test_import_lines_of_a_moved_script_work() -> None:
    (block,) = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)
    added = [line[1:] for line in block.splitlines() if line.startswith("+")]
    assert added
    exec("\n".join(added), {})  # noqa: S102  # from our own README


def test_errors_are_named_as_they_are() -> None:
    names = set(re.findall(r"`(?:hpclaunch\.errors\.)?(\w+Error)`", README))
    assert len(names) > 5
    assert all(issubclass(getattr(errors, name), errors.HPCLaunchError) for name in names)


def test_commands_are_named_as_they_are() -> None:
    for page in PAGES:
        words = set(re.findall(r"`hpclaunch (\w+)", page.read_text()))
        assert words <= set(COMMANDS), page
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"\bmake ([a-z]+)(?= |`|\n)", _code_of(page))) <= targets, page


def _code_of(page: Path) -> str:
    """Return what a page shows in code type."""
    text = page.read_text()
    return (
        "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`(make [^`\n]*)`", text)) + "\n"
    )


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_what_is_not_there_yet_is_not_there() -> None:
    """The list of what is missing must shrink with the work."""
    assert not {"Executor"} & set(hpclaunch.__all__)
