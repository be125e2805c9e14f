"""A cluster whose disks fill up: each error names the disk, and ends only what needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpclaunch import Client, LocalCluster
from hpclaunch.errors import ConfigError, HeadError, SetupError, SubmitError
from tests.small_disk import SmallDisk, small_disk
from tests.testbed.beds import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", size=4 << 20) as disk:
        yield disk
        disk.empty()


@pytest.mark.parametrize("free", [0, 4, 12, 20, 40])
def test_a_cluster_that_does_not_fit_is_not_started_and_leaves_nothing(disk: SmallDisk, free: int) -> None:
    disk.fill(free=free << 10)
    words = rf"[Nn]o space left on device: {disk.path}(/\S+)? \(.* free\)"
    with pytest.raises((ConfigError, HeadError, SubmitError), match=words):
        LocalCluster(3, shared_temp_directory=str(disk.path))
    assert [path.name for path in disk.path.iterdir()] == ["filler"]


def test_a_cluster_goes_on_when_its_disk_is_full(disk: SmallDisk) -> None:
    with LocalCluster(1, shared_temp_directory=str(disk.path)) as cluster, Client(cluster) as client:
        disk.fill()
        assert client.gather(client.map(pow, range(100), [2] * 100))[-1] == 99**2
        with pytest.raises(SubmitError, match=r"No space left on device: .* \(0 bytes and \d+ inodes are free\)"):
            cluster.scale(2)
        disk.empty()
        cluster.scale(2)
        cluster.wait_for_workers(2)


def test_results_and_uploads_that_find_no_room_on_a_full_scratch_disk(
    disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPCLAUNCH_DISTRIBUTED__WORKER__MEMORY__TARGET", "0.05")
    module = tmp_path / "module_on_full_disk.py"
    module.write_text("value = 1\n")
    options = {"local_directory": str(disk.path), "memory": "1 GB"}
    with LocalCluster(1, **options) as cluster, Client(cluster) as client:  # type: ignore[arg-type]
        client.upload_file(str(module))
        disk.fill()
        futures = client.map(np.ones, [4_000_000 + i for i in range(3)])
        told = "results stay in memory, for they can't be written to disk: no space left on device: "
        wait_until(lambda: told in str(cluster.logs()), "the worker to say so")
        assert [len(array) for array in client.gather(futures)] == [4_000_000, 4_000_001, 4_000_002]
        module.write_text("value = 2\n" + "#" * 9000)
        with pytest.raises(SetupError) as caught:
            client.upload_file(str(module))
        assert "module_on_full_disk.py (9010 bytes) can't be written: no space left on device: " in str(
            caught.value
        )
        assert client.submit(lambda: __import__("module_on_full_disk").value).result() == 1
        disk.empty()
        client.upload_file(str(module))
        assert client.submit(lambda: __import__("module_on_full_disk").value).result() == 2
