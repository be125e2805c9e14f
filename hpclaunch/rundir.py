"""The run directory of a cluster: where it is, what is in it, which clusters there are.

One private directory per cluster, on a file system that login and compute nodes share::

    <base>/<cluster id>/
        ca.pem head.pem client.pem worker.pem   who may talk to the cluster
        head.json                               what the head is to do; written by whoever starts it
        cluster.json                            what the head says of itself: addresses, process, host
        head.log
        job.sh                                  the job script as it is submitted
        jobs/                                   start tickets, exit codes and reasons of jobs, by job id
        logs/                                   the jobs' output, unless log-directory says otherwise

All directories are 0700 and all files 0600. Both halves use this module; it imports nothing of either.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import stat
from pathlib import Path
from typing import Any, NamedTuple

from hpclaunch.errors import ClusterNotFoundError, ConfigError

_SAFE = re.compile(r"[^A-Za-z0-9_.]+")


class ClusterFacts(NamedTuple):
    """One run directory that has a head, or had one."""

    directory: Path
    facts: dict[str, Any]
    is_alive: bool | None  # None: it runs on another host, so we can't see

    @property
    def name(self) -> str:
        """The cluster's name."""
        return str(self.facts.get("name", self.directory.name))


def base_directory(configured: str | None = None) -> Path:
    """Return where run directories lie: configured, ``$HPCLAUNCH_RUN_DIRECTORY``, or ``~/.hpclaunch/run``."""
    chosen = configured or os.environ.get("HPCLAUNCH_RUN_DIRECTORY") or "~/.hpclaunch/run"
    return Path(chosen).expanduser().absolute()


def create(base: Path, name: str) -> Path:
    """Make a new run directory for a cluster of this name.

    :raises ConfigError: it can't be made there.
    """
    directory = base / f"{_SAFE.sub('-', name).strip('-')[:40] or 'cluster'}-{secrets.token_hex(4)}"
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (directory, directory / "jobs", directory / "logs"):
            path.mkdir(mode=0o700)
            path.chmod(0o700)  # a loose umask cannot widen mkdir's mode, but a strict one may narrow it
    except OSError as error:
        raise ConfigError(
            f"the cluster's files can't be put into {base}: {error.strerror}. Set shared-temp-directory to a "
            "directory of yours on a file system that the nodes share",
            key="shared-temp-directory",
        ) from None
    return directory


def write_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a private file whole: another process sees all of it or nothing."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    part.rename(path)


def remove(directory: Path) -> None:
    """Remove a run directory; what is in use or already gone is left."""
    shutil.rmtree(directory, ignore_errors=True)


def process_start(pid: int) -> str:
    """Return what tells a process from a later one with the same number; empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def read_facts(directory: Path) -> dict[str, Any]:
    """Return what a head says of itself in its run directory.

    :raises ClusterNotFoundError: there is no such file, or it is none of ours.
    """
    path = directory / "cluster.json"
    try:
        info = path.stat()
        if info.st_uid != os.geteuid() or info.st_mode & 0o077:
            raise ClusterNotFoundError(
                f"{path} is not yours alone (mode 0600), so nothing that it says is believed"
            )
        facts = json.loads(path.read_bytes())
    except OSError as error:
        raise ClusterNotFoundError(f"no cluster at {directory}: {error.strerror}") from None
    except ValueError:
        raise ClusterNotFoundError(f"{path} is not a cluster file") from None
    if not isinstance(facts, dict) or not {"id", "name", "addresses"} <= facts.keys():
        raise ClusterNotFoundError(f"{path} is not a cluster file")
    return facts


def all_clusters(base: Path | None = None) -> list[ClusterFacts]:
    """Return the clusters of this user, by age, also those whose head has died."""
    root = base or base_directory()
    found = []
    for path in root.glob("*/cluster.json"):
        try:
            info = path.stat()
            facts = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if info.st_uid == os.geteuid() and isinstance(facts, dict) and stat.S_ISREG(info.st_mode):
            found.append(ClusterFacts(path.parent, facts, _is_alive(facts)))
    return sorted(found, key=lambda one: one.facts.get("started", 0))


def _is_alive(facts: dict[str, Any]) -> bool | None:
    if facts.get("host") != socket.gethostname():
        return None
    start = process_start(int(facts.get("pid", 0)))
    return bool(start) and start == facts.get("process_start")


def find_cluster(what: str | os.PathLike[str]) -> Path:
    """Return the run directory of a running cluster.

    :param what: a cluster's name or id, its run directory, its ``cluster.json``, or one of its addresses.
    :raises ClusterNotFoundError: there is none, or several; the text lists those that run.
    """
    path = Path(what).expanduser()
    if path.name == "cluster.json" and path.is_file():
        return path.parent
    if (path / "cluster.json").is_file():
        return path
    text = os.fspath(what).removeprefix("tls://").removeprefix("tcp://")
    running = [one for one in all_clusters() if one.is_alive is not False]
    fits = [one for one in running if text in (one.name, one.directory.name, *one.facts.get("addresses", ()))]
    if len(fits) == 1:
        return fits[0].directory
    if fits:
        ids = ", ".join(one.directory.name for one in fits)
        raise ClusterNotFoundError(f"several clusters are named {text!r}; use one of {ids}")
    names = ", ".join(one.name for one in running) or "none"
    raise ClusterNotFoundError(f"no running cluster is named {text!r}; there are: {names} (`hpclaunch ps`)")
