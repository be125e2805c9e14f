"""What is read of control groups, of both versions, and where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpclaunch.cgroup import ControlGroup, oom_kills_of_machine

ENDLESS_1 = str((1 << 63) - 4096)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    return tmp_path / "proc"


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


def put(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text + "\n")


def test_version_2(proc: Path, mounted: Path) -> None:
    (proc / "cgroup").write_text("0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0\n")
    job = mounted / "system.slice/slurmstepd.scope/job_7"
    put(
        job / "step_batch/user/task_0",
        memory__events="low 0\nhigh 0\nmax 12\noom 2\noom_kill 2",
        memory__max="max",
    )
    put(job, memory__max="419430400")
    put(mounted / "system.slice", memory__max="max")
    group = ControlGroup(proc, mounted)
    assert group.oom_kills() == 2
    assert group.limit() == 419430400


def test_version_1_beside_version_2(proc: Path, mounted: Path) -> None:
    (proc / "cgroup").write_text("9:cpu,cpuacct:/x\n4:memory:/slurm/uid_1000/job_7/step_batch\n0::/y\n")
    job = mounted / "memory/slurm/uid_1000/job_7"
    put(
        job / "step_batch",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3",
        memory__limit_in_bytes=ENDLESS_1,
    )
    put(job, memory__limit_in_bytes="400000000")
    put(mounted / "memory", memory__limit_in_bytes=ENDLESS_1)
    group = ControlGroup(proc, mounted)
    assert group.oom_kills() == 3
    assert group.limit() == 400000000


def test_in_a_container_its_own_group_is_what_is_mounted(proc: Path, mounted: Path) -> None:
    (proc / "cgroup").write_text("0::/../../elsewhere\n")
    put(mounted, memory__events="oom_kill 1", memory__max="1000")
    group = ControlGroup(proc, mounted)
    assert group.oom_kills() == 1
    assert group.limit() == 1000


@pytest.mark.parametrize("text", ["", "0::/\n", "4:memory:/gone\n", "1:name=systemd:/init.scope\n"])
def test_where_nothing_is_known(proc: Path, mounted: Path, text: str) -> None:
    (proc / "cgroup").write_text(text)
    group = ControlGroup(proc, mounted)
    assert group.oom_kills() == 0
    assert group.limit() == 0


def test_an_old_kernel_does_not_count(proc: Path, mounted: Path) -> None:
    (proc / "cgroup").write_text("4:memory:/job\n")
    put(mounted / "memory/job", memory__oom_control="oom_kill_disable 0\nunder_oom 0")
    assert ControlGroup(proc, mounted).oom_kills() == 0


def test_without_proc(tmp_path: Path) -> None:
    assert ControlGroup(tmp_path / "gone", tmp_path).limit() == 0


def test_this_machine() -> None:
    assert ControlGroup().oom_kills() >= 0
    assert (oom_kills_of_machine() or 0) >= 0


@pytest.mark.parametrize(
    ("text", "kills"),
    [("nr_free_pages 100\noom_kill 7\nswap_ra 0\n", 7), ("nr_free_pages 100\n", None), ("torn", None), ("", None)],
)
def test_what_the_kernel_counts_for_all_of_the_machine(tmp_path: Path, text: str, kills: int | None) -> None:
    (tmp_path / "vmstat").write_text(text)
    assert oom_kills_of_machine(tmp_path / "vmstat") == kills
    assert oom_kills_of_machine(tmp_path / "gone") is None
