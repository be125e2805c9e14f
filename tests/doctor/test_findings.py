"""What follows from a job's report, and the page that tells it."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from hpclaunch.config.layers import load
from hpclaunch.config.schema import JobConfig
from hpclaunch.doctor.findings import Finding, Grade, Reached, Report, of_report, of_umask, of_way_to_node
from hpclaunch.doctor.page import is_well, page

GOOD = Report(
    host="node7",
    time=0.0,
    python="/env/bin/python",
    version="3.12.1",
    hpclaunch="1.0",
    reached=[Reached("10.0.0.1:4000", milliseconds=1.5)],
    clock_ahead=0.01,
    addresses={"eth0": "10.0.0.7"},
    temporary="/scratch",
    temporary_free=10**11,
    temporary_kind="xfs",
)
HEADS = {"10.0.0.1": "eth0", "192.168.0.1": "eth1", "127.0.0.1": "lo"}


def config() -> JobConfig:
    return load("slurm", {"cores": 1, "memory": "1 GB"}, env={}, paths=[]).job


def found(**changes: Any) -> list[Finding]:
    report = msgspec.structs.replace(GOOD, **changes)
    return list(of_report(report, config(), memory=10**9, own_version="1.0", heads=HEADS))


def test_all_is_well() -> None:
    assert {finding.grade for finding in found()} == {Grade.OK}


REFUSED = Reached("10.0.0.1:4000", "Connection refused")
FAULTS: list[tuple[dict[str, Any], Grade, str, dict[str, Any]]] = [
    (
        {"hpclaunch": "", "import_error": "no module"},
        Grade.BAD,
        "cannot import hpclaunch: no module",
        {"python": ...},
    ),
    ({"hpclaunch": "0.9"}, Grade.BAD, "it has hpclaunch 0.9, and here is 1.0", {}),
    ({"reached": [REFUSED]}, Grade.BAD, r"reached none: 10.0.0.1:4000 \(eth0\): Conn", {"interface": "eth1"}),
    (
        {"reached": [Reached("192.168.0.1:4", "no answer"), Reached("10.0.0.1:4")]},
        Grade.NOTE,
        r"tried? first is blocked|try first is blocked: 192.168.0.1:4 \(eth1\): no answer",
        {"interface": "eth0"},
    ),
    ({"clock_ahead": 90_000.0}, Grade.NOTE, "25.0 hours ahead of this host's", {}),
    ({"clock_ahead": -75.0}, Grade.NOTE, "75 s behind this host's", {}),
    ({"memory": 4 * 10**8}, Grade.BAD, "400 MB of memory; 1 GB were meant", {}),
    ({"cores": 0}, Grade.BAD, "may use 0 cores; 1 were asked for", {}),
    ({"files": 64}, Grade.NOTE, "may open 64 files only", {"job-script-prologue": ["ulimit -n 4096"]}),
    ({"temporary_error": "/x can't be written"}, Grade.BAD, "/x can't be written", {"local-directory": ...}),
    ({"temporary_kind": "tmpfs"}, Grade.NOTE, r"/scratch is in memory \(tmpfs\)", {"local-directory": ...}),
    ({"temporary_free": 10**6}, Grade.NOTE, "/scratch has 1 MB left", {"local-directory": ...}),
    ({"logs_error": "/logs can't be written"}, Grade.BAD, "log-directory: /logs", {"log-directory": None}),
    (
        {"locale_error": "LANG=xx_XX"},
        Grade.NOTE,
        "does not exist on node7: LANG=xx_XX",
        {"job-script-prologue": ...},
    ),
    ({"encoding": "ascii"}, Grade.NOTE, "reads and writes ascii", {"job-script-prologue": ...}),
    ({"umask": 0o777}, Grade.BAD, "umask is 0777: you can't use your own", {}),
    ({"umask": 0}, Grade.NOTE, "umask is 0000: others may write", {}),
    (
        {"variables": {"PYTHONPATH": "/old"}},
        Grade.NOTE,
        "PYTHONPATH=/old is set in the job",
        {"job-script-prologue": ["unset PYTHONPATH"]},
    ),
]


@pytest.mark.parametrize(("changes", "grade", "words", "write"), FAULTS)
def test_each_fault_is_named(changes: dict[str, Any], grade: Grade, words: str, write: dict[str, Any]) -> None:
    (fault,) = [finding for finding in found(**changes) if finding.grade is not Grade.OK]
    assert fault.grade is grade
    assert re.search(words, fault.text)
    assert dict(fault.write).keys() == write.keys()
    assert all(value is ... or fault.write[key] == value for key, value in write.items())


def test_the_way_to_the_node() -> None:
    assert of_way_to_node([Reached("10.0.0.7:1")], "node7").grade is Grade.OK
    fault = of_way_to_node([Reached("10.0.0.7:1", "no answer")], "node7")
    assert fault.grade is Grade.NOTE
    assert "come through the head" in fault.advice
    assert of_way_to_node([], "node7").grade is Grade.NOTE


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_usual_umasks_are_not_remarked_on(mask: int) -> None:
    assert of_umask(mask, "your") is None


LONG = "x" * 10 + " and " * 40
SHOWN = [
    Finding("job", Grade.OK, LONG),
    Finding("Python in the job", Grade.BAD, "it is not there", LONG, {"python": "/env/bin/python"}),
    Finding(
        "environment", Grade.NOTE, "A", "", {"job-script-prologue": ["unset A"], "walltime-limit": "01:00:00"}
    ),
    Finding("environment", Grade.NOTE, "B", "", {"job-script-prologue": ["unset B"], "python": "another"}),
]


def test_the_page_fits_and_says_what_to_write() -> None:
    text = page("hpclaunch doctor slurm", SHOWN, section="slurm", file="/home/u/f.yaml", is_coloured=False)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "Jobs do not work here yet: 1 thing to mend." in text
    assert "/home/u/f.yaml:\n" in text
    assert text.endswith(
        "  jobqueue:\n    slurm:\n      python: /env/bin/python\n      job-script-prologue:\n"
        "        - unset A\n        - unset B\n      walltime-limit: '01:00:00'\n"
    )
    assert not is_well(SHOWN)


def test_colours_only_mark_and_are_the_terminals_own() -> None:
    plain = page("t", SHOWN, section="s", file="f", is_coloured=False)
    coloured = page("t", SHOWN, section="s", file="f", is_coloured=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    assert set(re.findall(r"\x1b\[([0-9;]*)m", coloured)) == {"0", "1", "32", "35;1", "31;1"}


def test_a_page_without_faults() -> None:
    text = page("t", [SHOWN[0], SHOWN[2]], section="s", file="f", is_coloured=False)
    assert "Jobs work here. 1 note above." in text
    assert is_well([SHOWN[0], SHOWN[2]])
    assert "What to write" not in page("t", [SHOWN[0]], section="s", file="f", is_coloured=False)
