"""The files through which jobs and the job manager speak: tickets, logs, and the journal of job ids.

All paths are in the cluster's run directory, on a file system that the compute nodes share and that may be slow:
everything here blocks. A file that is only half written is taken as not there yet.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from hpclaunch import file_errors, remains
from hpclaunch.jobs.job import JobFiles

#: Bytes of a log that are read for an error, and for a person who asks for it.
TAIL_BYTES = 16 * 1024
LOG_BYTES = 1024 * 1024
#: Bytes of all logs together, for a person who asks for all.
ALL_LOGS_BYTES = 64 * 1024 * 1024

_NAME = re.compile(r"(?P<id>.+)\.(?P<kind>start|exit|fail)")


class RunFiles:
    """Reads what the jobs of one cluster leave behind.

    :param tickets: where the jobs leave their tickets; the journal is there, too.
    :param log_directory: where the batch system puts the jobs' output.
    """

    def __init__(self, tickets: Path, log_directory: Path) -> None:
        self._jobs = tickets
        self._logs = log_directory
        self._journal = self._jobs / "ledger.jsonl"
        self._seen: dict[str, int] = {}  # file name: time of change in ns
        self._known: dict[str, JobFiles] = {}
        self._has_written = False
        self._unwritten = ""  # lines for which there was no room

    # --- tickets

    def look(self) -> dict[str, JobFiles]:
        """Return the jobs of which a file is new since the last look, with all that is known of each."""
        changed: dict[str, JobFiles] = {}
        for entry in self._new_entries():
            match = _NAME.fullmatch(entry.name)
            assert match is not None
            job_id = match["id"]
            known = JobFiles() if match["kind"] == "start" else self._known.get(job_id, JobFiles())
            files = _absorb(known, match["kind"], _read_text(Path(entry.path)))
            if files is None:
                del self._seen[entry.name]
                continue
            self._known[job_id] = changed[job_id] = files
        return changed

    def has_ticket(self, job_id: str) -> bool:
        """Say whether a job has left a start ticket here."""
        return (self._jobs / f"{job_id}.start").exists()

    def start_of(self, job_id: str) -> tuple[int, int] | None:
        """Return what tells a job's start ticket from one of an earlier or later start; None if there is none."""
        try:
            info = (self._jobs / f"{job_id}.start").stat()
        except OSError:
            return None
        return info.st_ino, info.st_mtime_ns

    def skip(self) -> None:
        """Take all files that are there as seen: they are of an earlier head's jobs."""
        self._new_entries()

    def _new_entries(self) -> list[os.DirEntry[str]]:
        """Return the tickets that are new or written again; start tickets first, for they open a new run."""
        try:
            entries = [entry for entry in os.scandir(self._jobs) if _NAME.fullmatch(entry.name)]
        except FileNotFoundError:
            return []
        new = []
        for entry in entries:
            changed = _changed_at(entry)
            if changed is not None and self._seen.get(entry.name) != changed:
                self._seen[entry.name] = changed
                new.append(entry)
        return sorted(new, key=lambda entry: (not entry.name.endswith(".start"), entry.name))

    # --- logs

    def log_path(self, job_id: str) -> Path:
        """Return where a job's output goes."""
        return self._logs / f"{job_id}.log"

    def log_tail(self, job_id: str) -> str:
        """Return the end of a job's log, and that the disk is full if it is; empty if there is none of both."""
        text = _read_end(self.log_path(job_id), TAIL_BYTES) or ""
        for place in dict.fromkeys((self._logs, self._jobs)):
            if note := file_errors.note_of_full_disk(place):
                return f"{text.rstrip()}\nhpclaunch: {note}".lstrip()
        return text

    def log_text(self, job_id: str, limit: int = LOG_BYTES) -> str:
        """Return a job's log (of a huge one the end), or a sentence that says why there is none."""
        path = self.log_path(job_id)
        try:
            text = _read_end(path, min(limit, LOG_BYTES))
        except OSError as error:
            return f"The log of job {job_id} cannot be read: {path} ({error.strerror})."
        if text is None:
            return f"Job {job_id} has written no log yet, or could not; it would be at {path}."
        return text

    # --- the journal

    def write_journal(self, word: str, ids: Iterable[str]) -> None:
        """Write down that jobs were submitted or have ended, and what could not be written before.

        :raises OSError: the disk is full, or the like; the next call writes these ids too.
        """
        self._unwritten += json.dumps({word: list(ids)}) + "\n"
        self.finish_journal()

    def finish_journal(self) -> None:
        """Write what earlier calls of :meth:`write_journal` could not.

        :raises OSError: it still can't be written.
        """
        if not self._unwritten:
            return
        with file_errors.naming(self._journal):
            self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "ab", buffering=0) as file:
                if not self._has_written and file.tell():
                    self._unwritten = "\n" + self._unwritten  # an earlier write may have ended within a line
                self._has_written = False
                data = self._unwritten.encode()
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._has_written, self._unwritten = True, ""

    def leftovers(self) -> list[str]:
        """Return the jobs that the journal has as submitted and not as ended, in order of submission."""
        return remains.read_journal(self._journal)


def _absorb(known: JobFiles, kind: str, text: str) -> JobFiles | None:
    """Return what is known of a job with one more file; None if the file is not complete."""
    words = text.split()
    if kind == "fail":
        return msgspec.structs.replace(known, gave_up=" ".join(words)) if words else None
    try:
        if kind == "exit":
            return msgspec.structs.replace(known, exit_code=int(words[0]))
        return msgspec.structs.replace(known, started=float(words[0]), host=words[1])
    except (IndexError, ValueError):
        return None


def _changed_at(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_mtime_ns
    except OSError:
        return None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_end(path: Path, limit: int) -> str | None:
    """Return the last ``limit`` bytes of a file as text; None if there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            text = file.read(limit).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return text if size <= limit else f"[the first {size - limit} bytes are left out]\n{text}"
