"""The command line in this process: what it prints and its exit code, without a new Python for each question."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from hpclaunch.cli.main import main

#: Arguments as they are typed; keywords are environment variables.
Typed = Callable[..., subprocess.CompletedProcess[str]]


def run_typed(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own would, in this one's environment and directory."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", ["hpclaunch", *argv])
        for name, value in env.items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
    assert isinstance(code, int), code  # a text would have been printed
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


@pytest.fixture
def typed() -> Typed:
    """Run the command line in this process. What a test says of the process itself needs one."""
    return run_typed


@pytest.fixture
def at_home(typed: Typed, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Run the command line in this process, with ``tmp_path`` as an empty home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return typed
