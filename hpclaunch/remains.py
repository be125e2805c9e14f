"""What a head leaves in its run directory that has died with its owner, and what its last worker does about it.

A supervisor that gives its head up, and has made sure that the head is gone (:mod:`hpclaunch.heartbeat`), removes
the cluster's keys, which are of no use to any process any more. The last of them removes the whole directory.
It is kept

* while jobs may still wait in the batch system: what ``hpclaunch clean`` needs to cancel them is in it;
* if the cluster had no owner: its user may want to know how its head has died;
* while its owner lives, who sees to it himself.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpclaunch import rundir


def on_head_gone(directory: Path, facts: Mapping[str, Any], job_id: str) -> None:
    """Remove what is not needed any more, for a job that ends because the head is gone.

    Several may do this at once. What can't be removed is left to ``hpclaunch clean``.

    :param facts: what ``cluster.json`` says.
    :param job_id: the job that asks; it has left its ``.fail`` ticket.
    """
    note_gone(directory, f"job {job_id} on {socket.gethostname()}")
    remove_keys(directory)
    if facts.get("owner_pid") and not rundir.is_owned_here(facts) and not unended_jobs(directory) - {job_id}:
        rundir.remove(directory)


def ownerless(*, had_owner: bool = False) -> list[rundir.ClusterFacts]:
    """Return this user's clusters whose head is dead and whose owner, if there was one, is gone; not swept yet.

    :param had_owner: only those that had one.
    """
    return [
        one
        for one in rundir.all_clusters()
        if one.is_alive is False
        and not one.has_owner
        and (one.facts.get("owner_pid") or not had_owner)
        and not (one.directory / "swept").exists()
    ]


def note_gone(directory: Path, witness: str) -> None:
    """Leave a note for those who can't see it themselves."""
    with contextlib.suppress(OSError):
        rundir.write_file(directory / rundir.GONE, f"{witness}\n".encode())


def remove_keys(directory: Path) -> None:
    """Remove the credentials of a cluster whose head is gone."""
    for path in directory.glob("*.pem"):
        with contextlib.suppress(OSError):
            path.unlink()


def unended_jobs(directory: Path) -> set[str]:
    """Return the jobs that may still be there: submitted or started, with no sign of an end after that."""
    jobs: set[str] = set()
    ends: dict[str, int] = {}
    starts: dict[str, int] = {}
    for group in rundir.groups_of(directory):
        tickets = rundir.tickets_path(directory, group)
        jobs |= set(read_journal(tickets / "ledger.jsonl"))
        for entry in _entries(tickets):
            job_id, _, kind = entry.name.rpartition(".")
            with contextlib.suppress(OSError):
                if kind == "start":
                    starts[job_id] = entry.stat().st_mtime_ns
                elif kind in ("exit", "fail"):
                    ends[job_id] = max(ends.get(job_id, 0), entry.stat().st_mtime_ns)
    return {job for job in jobs | starts.keys() if job not in ends or ends[job] < starts.get(job, 0)}


def read_journal(path: Path) -> list[str]:
    """Return the jobs that a journal has as submitted and not as ended, in order of submission."""
    left: dict[str, None] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line of a head that was killed while it wrote
        left |= dict.fromkeys(entry.get("submitted", ()))
        for job_id in entry.get("ended", ()):
            left.pop(job_id, None)
    return list(left)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(directory))
    except OSError:
        return []
