"""The run directory of a cluster: where it is, what is in it, which clusters there are.

One private directory per cluster, on a file system that login and compute nodes share::

    <base>/<cluster id>/
        ca.pem head.pem client.pem worker.pem   who may talk to the cluster
        head.json                               what the head is to do; written by the process that starts it
        cluster.json                            what the head says of itself: addresses, process, host
        head.log
        head-gone                               the head is gone; left by a worker that has made sure of it
        job.sh                                  the job script as it is submitted; job-gpu.sh that of the group gpu
        jobs/                                   start tickets, exit codes and reasons of jobs, by job id; jobs-gpu/
        logs/                                   the jobs' output, unless log-directory says otherwise

All directories are 0700 and all files 0600. A run directory elsewhere than in the usual place has a symbolic link
there, so that the cluster is found by its name. Both halves use this module; it imports nothing of either.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hpclaunch import file_errors, homes, trusted
from hpclaunch.errors import ClusterNotFoundError, ConfigError, SiteError
from hpclaunch.trusted import write_file as write_file  # what is in a run directory is written whole, and private

#: Says that the head is gone, and who has made sure of that; then each host believes it.
GONE = "head-gone"
_SAFE = re.compile(r"[^A-Za-z0-9_.]+")
#: Seconds after which a run directory without a head is taken as one that never got a head.
_BIRTH_SECONDS = 600.0
#: Tries to remove a directory in which a process may still write its last words, and seconds between them.
_REMOVALS, _REMOVAL_PAUSE = 5, 0.05


class ClusterFacts(NamedTuple):
    """One run directory that has a head, or had one."""

    directory: Path
    facts: dict[str, Any]
    is_alive: bool | None  # None: it runs on another host, so we can't see

    @property
    def name(self) -> str:
        """The cluster's name."""
        return str(self.facts.get("name", self.directory.name))

    @property
    def has_owner(self) -> bool:
        """True while the process lives that the head was to end with, here."""
        return is_owned_here(self.facts)


def base_directory(configured: str | None = None) -> Path:
    """Return where run directories lie: configured, ``$HPCLAUNCH_RUN_DIRECTORY``, or ``~/.hpclaunch/run``."""
    chosen = configured or os.environ.get("HPCLAUNCH_RUN_DIRECTORY") or "~/.hpclaunch/run"
    try:
        return homes.expanded(chosen, "shared-temp-directory (or HPCLAUNCH_RUN_DIRECTORY)").absolute()
    except OSError as error:  # a current directory that is gone
        raise ConfigError(
            f"no directory {chosen} can be found for the cluster's files: {error}. Set shared-temp-directory (or "
            "HPCLAUNCH_RUN_DIRECTORY) to the whole path of a directory of yours that the nodes share",
            key="shared-temp-directory",
        ) from None


def choose(base: Path, name: str) -> Path:
    """Return the path of a new run directory for a cluster of this name; nothing is made."""
    import secrets  # it takes a while to import, and a client that joins a cluster makes no directory

    return base / f"{_SAFE.sub('-', name).strip('-')[:40] or 'cluster'}-{secrets.token_hex(4)}"


def create(directory: Path, *, is_listed: bool = True) -> Path:
    """Make a run directory, whose path :func:`choose` gave, and return it.

    :param is_listed: the cluster is to be found by its name; not so one that is only for those who started it.
    :raises ConfigError: it can't be made there; nothing of it is left.
    """
    base = directory.parent
    made: list[Path] = []
    try:
        made = trusted.make_base(base)
        for path in (directory, directory / "jobs", directory / "logs"):
            os.close(trusted.make_directory(str(path)))
    except OSError as error:
        remove(directory)
        trusted.unmake(made)
        raise ConfigError(
            f"the cluster's files can't be put into {base}: {file_errors.told(error, error.filename or base)} Set "
            "shared-temp-directory to a directory of yours on a file system that the nodes share",
            key="shared-temp-directory",
        ) from None
    except SiteError as error:
        remove(directory)
        trusted.unmake(made)
        raise ConfigError(
            f"the cluster's files can't be put into {base}: {error}", key="shared-temp-directory"
        ) from None
    if is_listed and base != base_directory():
        with contextlib.suppress(OSError, SiteError):  # it can't be found by name then, but by its path
            trusted.make_base(base_directory())
            _link_of(directory).symlink_to(directory)
    return directory


def _link_of(directory: Path) -> Path:
    """Return where the link to a run directory in an unusual place is."""
    return base_directory() / directory.name


def script_path(directory: Path, group: str = "") -> Path:
    """Return where the job script of a group lies."""
    return directory / (f"job-{group}.sh" if group else "job.sh")


def tickets_path(directory: Path, group: str = "") -> Path:
    """Return the directory of start tickets, exit codes and the journal of a group's jobs."""
    return directory / (f"jobs-{group}" if group else "jobs")


def groups_of(directory: Path) -> list[str]:
    """Return the groups that a cluster has; the first is the cluster's own, whose name is empty."""
    return ["", *sorted(path.stem.removeprefix("job-") for path in directory.glob("job-*.sh"))]


def remove(directory: Path) -> None:
    """Remove a run directory and the link to it; what can't be removed is left."""
    import shutil

    for attempts_left in reversed(range(_REMOVALS)):
        shutil.rmtree(directory, ignore_errors=True)
        if not attempts_left or not directory.exists():
            break
        time.sleep(_REMOVAL_PAUSE)
    link = _link_of(directory)
    with contextlib.suppress(OSError):
        if link.is_symlink() and not link.exists():
            link.unlink()


def process_start(pid: int) -> str:
    """Return what tells a process from a later one with the same number; empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
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
        facts = json.loads(trusted.read_file(path))
    except SiteError as error:
        raise ClusterNotFoundError(str(error)) from None
    except OSError as error:
        raise ClusterNotFoundError(f"no cluster at {directory}: {error.strerror}") from None
    except ValueError:
        raise ClusterNotFoundError(f"{path} is not a cluster file") from None
    if not isinstance(facts, dict) or not {"id", "name", "addresses"} <= facts.keys():
        raise ClusterNotFoundError(f"{path} is not a cluster file")
    return facts


def all_clusters(base: Path | None = None) -> list[ClusterFacts]:
    """Return the clusters of this user, by age, also those whose head has died."""
    found = []
    for entry in _entries(base or base_directory()):
        path = entry / "cluster.json"
        directory = entry.resolve()
        try:
            facts = json.loads(trusted.read_file(directory / path.name))
        except (OSError, ValueError, SiteError):
            continue
        if isinstance(facts, dict):
            found.append(ClusterFacts(directory, facts, _is_alive(directory, facts)))
    return sorted(found, key=lambda one: one.facts.get("started", 0))


def _entries(base: Path) -> list[Path]:
    """Return what is in a base directory; nothing, if no cluster was ever started there.

    :raises SiteError: it can't be read, so that no cluster can be found.
    """
    try:
        return [base / name for name in os.listdir(base)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SiteError(
            f"the directory of your clusters can't be read: {file_errors.told(error, base)} Or set "
            "HPCLAUNCH_RUN_DIRECTORY to where they are"
        ) from None


def abandoned(base: Path | None = None) -> list[Path]:
    """Return run directories of this user that never got a head, and links to clusters that are gone."""
    found = []
    for path in _entries(base or base_directory()):
        if path.is_symlink() and not path.exists():
            found.append(path)
        elif (path / "head.json").is_file() and not (path / "cluster.json").exists():
            with contextlib.suppress(OSError, SiteError), trusted.private_directory(path) as directory:
                is_old = time.time() - os.fstat(directory).st_mtime > _BIRTH_SECONDS
                found += [path] if is_old else []
    return found


def _is_alive(directory: Path, facts: dict[str, Any]) -> bool | None:
    if facts.get("host") == socket.gethostname():
        return is_head_process(facts)
    return False if (directory / GONE).exists() else None


def is_head_process(facts: Mapping[str, Any]) -> bool:
    """Say whether a head's process is one of this host, by what ``cluster.json`` says of it."""
    pid = facts.get("pid")
    start = process_start(pid) if isinstance(pid, int) else ""
    return start != "" and start == facts.get("process_start")


def is_owned_here(facts: Mapping[str, Any]) -> bool:
    """Say whether the process lives on this host that a head was to end with."""
    owner = facts.get("owner_pid")
    is_here = facts.get("host", socket.gethostname()) == socket.gethostname()
    start = process_start(owner) if is_here and isinstance(owner, int) and owner else ""
    return start != "" and start == facts.get("owner_start", start)


def _told_directory(path: Path) -> Path:
    """Return the run directory that a scheduler file names."""
    try:
        directory = Path(json.loads(path.read_bytes())["directory"])
    except (OSError, ValueError, TypeError, KeyError):
        raise ClusterNotFoundError(f"{path} does not say where a cluster is") from None
    read_facts(directory)
    return directory


def find_cluster(what: str | os.PathLike[str]) -> Path:
    """Return the run directory of a running cluster.

    :param what: a cluster's name or id, its run directory, its ``cluster.json``, one of its addresses, or a file
        that ``hpclaunch mpi --scheduler-file`` has written.
    :raises ClusterNotFoundError: there is none, or several; the text lists those that run.
    """
    path = Path(what).expanduser()
    if path.is_file():
        return path.parent if path.name == "cluster.json" else _told_directory(path)
    if (path / "cluster.json").is_file():
        return path
    text = os.fspath(what).removeprefix("tls://").removeprefix("tcp://")
    clusters = all_clusters()
    fits = [one for one in clusters if text in (one.name, one.directory.name, *one.facts.get("addresses", ()))]
    running = [one for one in fits if one.is_alive is not False]
    if len(running) == 1:
        return running[0].directory
    if running:
        ids = ", ".join(one.directory.name for one in running)
        raise ClusterNotFoundError(f"several clusters are named {text!r}; use one of {ids}")
    if fits:
        raise ClusterNotFoundError(
            f"the head of cluster {text!r} has died; its log is {fits[-1].directory / 'head.log'}. "
            "`hpclaunch clean` cancels what it has left and removes its files"
        )
    names = ", ".join(one.name for one in clusters if one.is_alive is not False) or "none"
    raise ClusterNotFoundError(f"no running cluster is named {text!r}; there are: {names} (`hpclaunch ps`)")
