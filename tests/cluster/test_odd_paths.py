"""A script, a working directory and a cluster's own directories with paths that are not UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
    import os, sys
    import numbers_beside as beside
    from hpclaunch import Client, LocalCluster

    def where(x):
        return os.fsencode(os.getcwd()), beside.seven(), x

    def fail():
        raise ValueError(__file__)

    def large():
        return bytes(3_000_000)

    if __name__ == "__main__":
        own = os.environ.get("OWN_DIRECTORY")
        places = {"shared_temp_directory": own, "local_directory": own, "log_directory": own} if own else {}
        with LocalCluster(n_workers=2, **places) as cluster, Client(cluster) as client:
            here = os.fsencode(os.getcwd())
            assert client.gather(client.map(where, range(4))) == [(here, 7, i) for i in range(4)]
            assert len(client.submit(large).result(30)) == 3_000_000
            assert client.run(where, 1)
            try:
                client.submit(fail).result(30)
            except ValueError as error:
                assert error.args == (__file__,), error
                assert "\\\\udce9" in str(error.__cause__), error.__cause__
            cluster.scale(1)
            print(os.fsencode(cluster.name if own is None else str(cluster.directory)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["the script's", "the cluster's too"])
def test_paths_that_are_not_utf8(tmp_path: Path, own: bool) -> None:
    directory = tmp_path / os.fsdecode(b"sc\xe9ne 1")
    directory.mkdir()
    script = directory / os.fsdecode(b"s\xe9.py")
    script.write_text(textwrap.dedent(SCRIPT))
    (directory / "numbers_beside.py").write_text("def seven(): return 7\n")
    environment = dict(os.environ)
    if own:
        environment["OWN_DIRECTORY"] = str(directory / os.fsdecode(b"own\xff"))
    done = subprocess.run(
        [sys.executable, script], cwd=directory, env=environment, capture_output=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="backslashreplace")
    assert done.stderr == b""
    if own:
        assert b"own\\xff" in done.stdout
