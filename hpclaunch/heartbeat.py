"""Whether the head of a run directory lives, as any host can tell that shares the directory.

A connection that fails proves nothing: the network may be split. So the head touches its ``cluster.json`` every
few seconds, and who wants to know looks whether the time of change moves. Two readings of one file are compared,
so no two clocks have to agree. A head counts as gone if all of these hold:

* The time of change has stood still for :data:`STILL_BEATS` beats, by the observer's own clock.
* None of its addresses accepts a connection. The kernel accepts them for a head that is stopped or very busy.
* On its own host, its process is gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpclaunch import rundir

#: Seconds between two beats, at most; less where workers wait for their head for a short time only.
MOST_SECONDS = 10.0
_LEAST_SECONDS = 0.2
#: Beats that must be missing.
STILL_BEATS = 3
#: Seconds that an address may take to accept a connection.
_CONNECT_SECONDS = 2.0


def beat_seconds(death_timeout: float) -> float:
    """Return the seconds between two beats: several must fit into the time that workers wait for a lost head."""
    return min(MOST_SECONDS, max(_LEAST_SECONDS, death_timeout / (2 * STILL_BEATS)))


class Heart:
    """Beats in a thread of its own, so that a busy event loop does not look like a dead head.

    :param path: the file that is touched.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, name="hpclaunch-heart", daemon=True).start()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()

    def _beat(self) -> None:
        while not self._stopped.wait(self._seconds):
            with contextlib.suppress(OSError):  # needs no space; a file server that is away is away for all
                os.utime(self._path)


class Observer:
    """Looks at a head's beats.

    :param directory: the run directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "cluster.json"
        self._seen: int | None = None
        self._since = 0.0

    def look(self) -> float:
        """Look once; return for how many seconds there was no beat, since the first look at the earliest."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)  # NFS asks the server only on opening
        except OSError:
            self._seen = None
            return 0.0
        try:
            changed = os.fstat(descriptor).st_mtime_ns
        finally:
            os.close(descriptor)
        now = time.monotonic()
        if changed != self._seen:
            self._seen, self._since = changed, now
        return now - self._since


def has_died(facts: Mapping[str, Any], still_seconds: float) -> bool:
    """Say whether a head is gone for sure; blocks while it tries the head's addresses.

    :param facts: what ``cluster.json`` says.
    :param still_seconds: what :meth:`Observer.look` returned.
    """
    beat = facts.get("beat_seconds")
    if not isinstance(beat, int | float) or still_seconds < STILL_BEATS * beat:
        return False
    if facts.get("host") == socket.gethostname() and rundir.is_head_process(facts):
        return False
    return not accepts_any(facts.get("addresses", ()))


def find_dead(clusters: Iterable[rundir.ClusterFacts]) -> list[rundir.ClusterFacts]:
    """Return those of some clusters whose heads are gone for sure; takes half a minute if any looks like it."""
    observed = []
    for one in clusters:
        beat = one.facts.get("beat_seconds", MOST_SECONDS)
        with contextlib.suppress(OSError):
            age = time.time() - (one.directory / "cluster.json").stat().st_mtime
            if age > STILL_BEATS * beat:  # by two clocks, which may be wrong: it is only worth a look
                observed.append((one, Observer(one.directory)))
    for _, observer in observed:
        observer.look()
    if observed:
        time.sleep(STILL_BEATS * max(one.facts.get("beat_seconds", MOST_SECONDS) for one, _ in observed))
    return [one for one, observer in observed if has_died(one.facts, observer.look())]


def accepts_any(addresses: Iterable[str]) -> bool:
    """Say whether any address, ``host:port``, accepts a connection."""
    for address in addresses:
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
            return True
    return False
