"""Fixtures for all tests: the test beds, an empty home, and a check that no test leaves anything running."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from .testbed.beds import Bed, BedError, SgeBed, SlurmBed, wait_until

# Every process that a test starts inherits this variable, also one that left its parent.
MARK_NAME = "HPCLAUNCH_TEST_RUN"
MARK = uuid.uuid4().hex
BEDS: dict[str, Bed] = {}
LOCAL_PATIENCE = 15.0  # seconds


# No test may fail for being slow.
settings.register_profile("quick", deadline=None, max_examples=15)
settings.register_profile("everyday", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=1000)


def pytest_configure() -> None:
    """Mark this test run (each of its processes marks its own), and have Hypothesis try as much as is asked for.

    ``HPCLAUNCH_TEST_PROFILE`` is "quick" (as in ``make check``), "everyday" or "thorough": 15, 100, 1000 examples.
    """
    os.environ[MARK_NAME] = MARK
    settings.load_profile(os.environ.get("HPCLAUNCH_TEST_PROFILE", "everyday"))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; what is ignored stays so in our children,
        signal.signal(signal.SIGHUP, lambda *_: None)  # and what is handled does not


def pytest_xdist_auto_num_workers() -> int:
    """Run one more test at a time than there are processors, since many tests wait; but not dozens."""
    return min(8, len(os.sched_getaffinity(0)) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for a bed, also those that forgot to say so."""
    for item in items:
        for name in {"slurm", "sge"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(name)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Look for no garbage while tests are collected, and never again at what there is then: all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_unconfigure() -> None:
    """Stop the beds that this run started, whatever ended it."""
    for bed in BEDS.values():
        bed.down()


# Test beds


def _why_not() -> str | None:
    """Return the reason why no test bed can be on this machine; None if one can."""
    try:
        system = Path("/etc/os-release").read_text()
    except OSError:
        system = ""
    if "ID=debian" not in system.splitlines():
        return "the test beds are made of Debian's packages, and this is another system"
    if os.geteuid() != 0:
        return "only root can install and start the test beds' daemons"
    return None


def _start(kind: type[Bed]) -> Bed:
    """Return the running bed. In CI it is an error if it cannot be had; elsewhere the test is skipped."""
    if kind.name in BEDS:
        return BEDS[kind.name]
    reason = _why_not()
    if reason is None:
        bed = BEDS[kind.name] = kind()
        try:
            bed.up()
        except BedError as error:
            reason = str(error)
            BEDS.pop(kind.name).down()
        else:
            return bed
    if os.environ.get("CI") == "true":
        pytest.fail(f"no {kind.name} test bed: {reason}", pytrace=False)
    pytest.skip(f"no {kind.name} test bed: {reason}")


@pytest.fixture(scope="session")
def slurm_bed() -> Bed:
    """The running Slurm; tests ask for ``slurm``, which also checks what they leave."""
    return _start(SlurmBed)


@pytest.fixture(scope="session")
def sge_bed() -> Bed:
    """The running Grid Engine; tests ask for ``sge``, which also checks what they leave."""
    return _start(SgeBed)


@pytest.fixture
def slurm(slurm_bed: Bed) -> Iterator[Bed]:
    """A real Slurm, for this test alone. Jobs, processes and run directories that it leaves fail it."""
    yield from _framed(slurm_bed)


@pytest.fixture
def sge(sge_bed: Bed) -> Iterator[Bed]:
    """A real Grid Engine, for this test alone. Jobs, processes and run directories that it leaves fail it."""
    yield from _framed(sge_bed)


def _framed(bed: Bed) -> Iterator[Bed]:
    with bed.alone():
        bed.begin()
        yield bed
        left = bed.end()
    if left:
        pytest.fail(f"left on {bed.name} after the test:\n  " + "\n  ".join(left), pytrace=False)


# Tests on this machine


@pytest.fixture(scope="session", autouse=True)
def _empty_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the developer's own configuration and clusters out of the tests."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in list(os.environ):
            if name != MARK_NAME and name.startswith(("HPCLAUNCH_", "XDG_", "SLURM_", "SGE_")):
                patch.delenv(name)
        yield home


@pytest.fixture(autouse=True)
def _nothing_left(_empty_home: Path) -> Iterator[None]:
    """Fail a test that leaves a process or a cluster's run directory behind, and end both."""
    runs = _empty_home / ".hpclaunch" / "run"
    before = _pids(), set(runs.glob("*"))
    yield
    try:
        wait_until(lambda: not _left(*before, runs), "processes to end", LOCAL_PATIENCE)
    except TimeoutError:
        left = _left(*before, runs)
    else:
        return
    for what in left:
        if isinstance(what, Path):
            shutil.rmtree(what, ignore_errors=True)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(what[0], signal.SIGKILL)
    lines = [f"directory {what}" if isinstance(what, Path) else f"process {what[0]}: {what[1]}" for what in left]
    pytest.fail("left after the test:\n  " + "\n  ".join(lines), pytrace=False)


def _pids() -> set[str]:
    return {name for name in os.listdir("/proc") if name.isdigit()}


def _left(pids: set[str], directories: set[Path], runs: Path) -> list[tuple[int, str] | Path]:
    """Return this run's processes and run directories that were not there before."""
    found: list[tuple[int, str] | Path] = [path for path in runs.glob("*") if path not in directories]
    mark = f"{MARK_NAME}={MARK}".encode()
    for pid in _pids() - pids:
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                # A helper of the standard library's, which lives as long as this process.
                if words and "multiprocessing.resource_tracker" not in words:
                    found.append((int(pid), words.strip()))
    return found
