"""Run directories: whose word is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpclaunch import rundir
from hpclaunch.errors import ClusterNotFoundError


def test_a_cluster_file_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    rundir.write_file(path, b'{"id": "x", "name": "x", "addresses": [], "security": false}')
    assert rundir.read_facts(tmp_path)["name"] == "x"
    path.chmod(0o666)
    with pytest.raises(ClusterNotFoundError, match="not yours alone"):
        rundir.read_facts(tmp_path)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"id": 1}', b"\xff"])
def test_what_is_no_cluster_file(tmp_path: Path, text: bytes) -> None:
    rundir.write_file(tmp_path / "cluster.json", text)
    with pytest.raises(ClusterNotFoundError, match="is not a cluster file"):
        rundir.read_facts(tmp_path)
