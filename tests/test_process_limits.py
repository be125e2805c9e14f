"""Core dumps are off in what we start, unless they are asked for; a head opens all the files that it may."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("value", "expected"), [(None, "0 9000"), ("0", "0 9000"), ("1", "9000 9000")])
def test_core_dumps(value: str | None, expected: str) -> None:
    program = (
        "import os, resource as r; r.setrlimit(r.RLIMIT_CORE, (9000, 9000));"
        "from hpclaunch.process_limits import no_core_dumps; no_core_dumps(); print(*r.getrlimit(r.RLIMIT_CORE))"
    )
    command = [
        "env",
        *([f"HPCLAUNCH_CORE_DUMPS={value}"] if value is not None else []),
        sys.executable,
        "-c",
        program,
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == expected


def test_open_files() -> None:
    program = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, 500));"
        "from hpclaunch.process_limits import raise_open_files as f; f(); print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "500 500"
