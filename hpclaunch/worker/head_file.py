"""``cluster.json``: what a head says of itself to supervisors, and by whose beats they see that it lives."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from hpclaunch import file_errors, heartbeat, remains, rundir, trusted
from hpclaunch.errors import SiteError


class HeadFile:
    """The file of one cluster.

    :param directory: the run directory.
    :param job_id: the job that reads it.
    :raises SiteError: it can't be read, contradicts the job script, or says that the head is gone.
    """

    def __init__(self, directory: Path, job_id: str, *, security: bool) -> None:
        self._directory = directory
        self._job_id = job_id
        self.facts = self._read()
        self._observer = heartbeat.Observer(directory)
        if self.facts.get("security", True) != security:
            raise SiteError(
                f"{directory / 'cluster.json'} contradicts the job script, which says that security is "
                f"{'on' if security else 'off'}: one of them was changed after the cluster was made"
            )
        if (directory / rundir.GONE).exists():
            remains.on_head_gone(directory, self.facts, job_id)
            raise SiteError("the head of the cluster is gone, as another job of it has found; this one ends")

    def look(self) -> None:
        """Read it again: a restarted head may have other addresses. What can't be read is as it was."""
        self._observer.look()
        with contextlib.suppress(SiteError):
            self.facts = self._read()

    def clean_up(self) -> None:
        """Remove what the head has left, if it is gone for sure and not just out of reach; this job ends now."""
        if heartbeat.has_died(self.facts, self._observer.look()):
            remains.on_head_gone(self._directory, self.facts, self._job_id)

    def _read(self) -> dict[str, Any]:
        path = self._directory / "cluster.json"
        try:
            return dict(json.loads(trusted.read_file(path)))
        except (OSError, ValueError) as error:
            why = file_errors.in_words(error, path) if isinstance(error, OSError) else str(error)
            raise SiteError(
                f"{path} can't be read on {socket.gethostname()}: {why}. The run directory must be on a file "
                "system that login and compute nodes share: set shared-temp-directory to one, or the cluster was "
                "closed"
            ) from None
