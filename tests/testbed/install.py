"""Installs the project from this checkout where the test beds' unprivileged user can run it.

A checkout and its virtual environment often lie in a home directory that other users cannot read. So the wheel
is built from the checkout and installed under ``/var/tmp`` with Debian's own Python. Each state of the sources
gets an environment of its own that never changes afterwards, so two test runs at once do not disturb one another;
the dependencies are installed once and shared by all of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = Path("/var/tmp/hpclaunch-bed")  # noqa: S108  # made 0755 by root; users only read there
SYSTEM_PYTHON = Path("/usr/bin/python3")
EXTRA_REQUIREMENTS = ("numpy>=1.26", "dask[array]>=2024.8", "mpi4py>=4.0", "scikit-learn>=1.3", "joblib>=1.3")
KEPT = 5  # environments of earlier sources
HOME = os.environ.get(
    "HOME", "/"
)  # as it was before the tests got an empty one: pip's settings and cache are there


class InstallError(RuntimeError):
    """The project could not be installed for the test beds; the text has the command and its output."""


def environment() -> Path:
    """Return an environment that has this checkout's project in it, made now if there is none yet."""
    with _lock():
        packages = _dependencies()
        path = BASE / f"venv-{_digest(_sources(), packages.name)}"
        if not (path / "complete").exists():
            _install_project(path, packages)
        link = BASE / "venv"
        temporary = BASE / "venv.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(path.name)
        temporary.replace(link)
        os.utime(path)
        _forget_old()
        return path


@contextmanager
def _lock() -> Iterator[None]:
    BASE.mkdir(mode=0o755, exist_ok=True)
    if BASE.stat().st_uid != os.geteuid():
        raise InstallError(f"{BASE} belongs to another user; remove it, or ask its owner to")
    with (BASE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sources() -> list[Path]:
    """Return the files that the wheel is made of."""
    single = [ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    trees = [path for name in ("hpclaunch", "templates", "configs") for path in (ROOT / name).rglob("*")]
    return sorted(path for path in [*single, *trees] if path.is_file() and "__pycache__" not in path.parts)


def _digest(files: Sequence[Path], *words: str) -> str:
    digest = hashlib.sha256(repr(words).encode())
    for path in files:
        digest.update(repr((str(path), path.stat().st_size)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _dependencies() -> Path:
    """Return the environment with all that the project depends on."""
    if not SYSTEM_PYTHON.exists():
        raise InstallError(f"{SYSTEM_PYTHON} is missing: apt-get install python3")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *EXTRA_REQUIREMENTS]
    version = _run([str(SYSTEM_PYTHON), "--version"])
    path = BASE / f"packages-{_digest([], version, *wanted)}"
    if not (path / "complete").exists():
        _make(path)
        _pip(path, *wanted)
        (path / "complete").touch()
    return path


def _install_project(path: Path, packages: Path) -> None:
    _make(path)
    site, shared = _site_packages(path), _site_packages(packages)
    (site / "dependencies.pth").write_text(f"{shared}\n")
    wheels = path / "wheel"
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(ROOT)])
    _pip(path, "--no-deps", *map(str, wheels.glob("*.whl")))
    (path / "complete").touch()


def _make(path: Path) -> None:
    """Make an environment without pip: Debian's Python has no ensurepip unless python3-venv is installed."""
    shutil.rmtree(path, ignore_errors=True)
    _run([str(SYSTEM_PYTHON), "-m", "venv", "--without-pip", str(path)])


def _pip(path: Path, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(path / "bin/python"), "install", "--quiet"]
    _run([*pip, "--root-user-action=ignore", *arguments])


def _site_packages(path: Path) -> Path:
    (found,) = path.glob("lib/python3*/site-packages")
    return found


def _forget_old() -> None:
    """Remove all but the newest few environments of earlier sources."""
    found = sorted(BASE.glob("venv-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def _run(argv: Sequence[str]) -> str:
    """Run a command whose files other users can read; return what it printed."""
    before = os.umask(0o022)
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "HOME": HOME},
            timeout=900,
        )
    finally:
        os.umask(before)
    if done.returncode != 0:
        raise InstallError(f"{' '.join(argv)}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
