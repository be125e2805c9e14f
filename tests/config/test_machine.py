"""The limits of this machine, and of the job or container that we are in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hpclaunch.config.machine import Machine, cgroup_limits, this_machine


def test_this_machine_has_something() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory >= 1 << 26


def test_a_share_is_by_cores_and_never_more_than_all() -> None:
    machine = Machine(cores=4, memory=1000)
    assert [machine.memory_of(cores) for cores in (1, 3, 4, 9)] == [250, 750, 1000, 1000]


@pytest.fixture
def groups(tmp_path: Path) -> tuple[Path, Path]:
    inner = tmp_path / "cgroup" / "system.slice" / "job.scope"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("2147483648\n")
    (tmp_path / "cgroup" / "memory.max").write_text("4294967296\n")
    (tmp_path / "memory.max").write_text("1\n")  # outside of the tree: not ours
    return tmp_path / "proc", tmp_path / "cgroup"


def test_limits_of_all_control_groups_above_count(groups: tuple[Path, Path]) -> None:
    proc, root = groups
    proc.write_text("7:memory:/other\n0::/system.slice/job.scope\n")
    assert cgroup_limits(proc, root) == [2147483648, 4294967296]


@pytest.mark.parametrize("text", ["", "7:memory:/x\n", "0::/gone/away\n"])
def test_without_control_groups_there_is_no_limit(groups: tuple[Path, Path], text: str) -> None:
    proc, root = groups
    proc.write_text(text)
    assert cgroup_limits(proc, root) in ([], [4294967296])
    assert cgroup_limits(proc.with_name("nothing"), root) == []


def test_a_limit_of_address_space_counts() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from hpclaunch.config.machine import this_machine; print(this_machine().memory)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) <= 1 << 30
