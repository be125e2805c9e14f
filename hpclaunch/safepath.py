"""Which Pythons of ours look into whose directories.

A Python puts the script's directory, or for ``-m`` the current one, first on ``sys.path``. In a shared directory
that runs what other users have left there, and in the user's own it takes his ``queue.py`` for the standard
library's. So every Python that hpclaunch starts for itself gets ``-P``, and the command line drops what Python has
put there. The user's directories come last, and only where tasks run.

``-P`` is an option of one process, unlike ``$PYTHONSAFEPATH``, which tasks and what they start would inherit.
"""

import os
import sys

_chosen: list[str] = []


def module_command(python: str, module: str) -> list[str]:
    """Return the argv that runs one of our modules in a Python of its own."""
    return [python, *run_module(module)]


def run_module(module: str) -> list[str]:
    """Return the arguments of a Python that runs one of our modules."""
    return ["-P", "-m", module]


def drop_start_directory() -> None:
    """Drop what Python has put first on ``sys.path``: for programs of ours that a person starts."""
    if not sys.flags.safe_path and sys.path:
        del sys.path[0]
    _chosen[:] = [""]


def set_start_directory(directory: str) -> None:
    """Say where the user's script lies, in a program of ours that runs it."""
    _chosen[:] = [directory]


def start_directory() -> str:
    """Return where the user's script lies; empty if that is the current directory, or if there is none."""
    if _chosen:
        return _chosen[0]
    return sys.path[0] if sys.path and not sys.flags.safe_path else ""


def user_python_path() -> list[str]:
    """Return where a user's own modules may lie: the script's directory and the current one."""
    first = start_directory()
    try:
        paths = [os.path.abspath(first), os.getcwd()]
    except OSError:  # the current directory is gone
        paths = [first] if os.path.isabs(first) else []
    return [path for path in dict.fromkeys(paths) if os.path.isdir(path)]
