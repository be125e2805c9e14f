"""The local batch system as a codec: jobs are processes of this machine, kept by ``localctl.py``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hpclaunch.batch.base import BatchSystem, Completed, JobState, JobStatus, JobUsage
from hpclaunch.config.schema import JobConfig
from hpclaunch.dialects import NONE
from hpclaunch.errors import StatusError, SubmitError

_JOB_ID = re.compile(r"\d{1,18}\.\d{1,9}", re.ASCII)


class LocalProcesses(BatchSystem):
    """The codec; see :class:`hpclaunch.batch.base.BatchSystem` for what each method is for.

    :param python: an interpreter for the little batch system itself.
    :param program: the path of ``localctl.py``.
    :param spool: the directory where it keeps its jobs.
    :param walltime: seconds that a job may run; None for no limit.
    """

    name = "local"
    title = "the local batch system"
    dialect = NONE
    template = "local.sh.j2"
    ranks_template = "local_ranks.sh.j2"

    def __init__(self, *, python: str, program: str, spool: Path, walltime: int | None = None) -> None:
        # -I -S: nothing of the user's environment, and no site-packages, is looked at: it starts in 15 ms
        self._command = (python, "-I", "-S", program, str(spool))
        self._walltime = walltime or 0

    @classmethod
    def from_config(cls, config: JobConfig, directory: Path) -> LocalProcesses:
        program = str(Path(__file__).with_name("localctl.py"))
        return cls(python=sys.executable, program=program, spool=directory / "local", walltime=config.walltime)

    def is_job_id(self, text: str) -> bool:
        return _JOB_ID.fullmatch(text) is not None

    def submit(self, script: Path, count: int | None) -> tuple[str, ...]:
        return (*self._command, "submit", str(count or 1), str(self._walltime), str(script))

    def parse_submit(self, done: Completed, count: int | None) -> list[str]:
        lines = [line for line in done.stdout.split() if line.isdigit() and line.isascii()]
        number = lines[-1] if lines else ""
        if done.exit_code != 0 or not number:
            raise SubmitError("not submitted", output=(done.stderr + done.stdout).strip())
        return [f"{number}.{i}" for i in range(1, (count or 1) + 1)]

    def hint(self, done: Completed) -> str:
        return "Is the disk of the cluster's run directory full?" if "space" in done.stderr else ""

    def limit(self, words: str) -> str:
        return ""

    def find(self, script: Path) -> tuple[str, ...]:
        return (*self._command, "list")

    def parse_find(self, done: Completed, script: Path) -> list[str]:
        return [row["id"] for row in self._rows(done)]

    def status(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        return (*self._command, "status", *job_ids)

    def parse_status(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        found: dict[str, JobStatus] = {}
        for row in self._rows(done, "state"):
            state = JobState(row["state"])
            found[row["id"]] = JobStatus(row["id"], state, row.get("reason", ""), row.get("host", ""))
        return {job_id: found[job_id] for job_id in job_ids if job_id in found}

    def cancel(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        return (*self._command, "cancel", *job_ids)

    def parse_cancel(self, done: Completed, job_ids: Sequence[str]) -> dict[str, str]:
        return {} if done.exit_code == 0 else dict.fromkeys(job_ids, (done.stderr + done.stdout).strip())

    def usage(self, job_ids: Sequence[str]) -> list[tuple[str, ...]]:
        return [(*self._command, "usage", *job_ids)]

    def parse_usage(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobUsage]:
        wanted = set(job_ids)
        return {
            row["id"]: JobUsage(
                row["id"],
                row["reason"],
                exit_code=row["exit_code"],
                signal=row["signal"],
                host=row["host"],
                wall_seconds=row["wall_seconds"],
                cpu_seconds=row["cpu_seconds"],
                max_memory_bytes=row["max_memory_bytes"],
            )
            for row in self._rows(done, "reason", "exit_code", "signal", "host")
            if row["id"] in wanted
        }

    def _rows(self, done: Completed, *keys: str) -> list[dict[str, Any]]:
        wanted = {"id", *keys}
        try:
            if done.exit_code == 0:
                rows = [json.loads(line) for line in done.stdout.splitlines()]
                if all(isinstance(row, dict) and wanted <= row.keys() for row in rows):
                    return rows
        except ValueError:
            pass
        raise StatusError(
            "the local batch system does not answer",
            argv=done.argv,
            exit_code=done.exit_code,
            output=done.stderr or done.stdout,
        )
