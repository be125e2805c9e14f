"""The table of a cluster's jobs, as a person reads it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_COLUMNS = ("job", "state", "for", "host", "workers", "what happened")


class JobTable(list[dict[str, Any]]):
    """A cluster's jobs, one dict each (id, state, since, host, workers, reason, story); prints as a table.

    ``notes`` has sentences about the cluster as a whole, such as that a limit of jobs is reached.
    """

    def __init__(self, jobs: Iterable[dict[str, Any]] = (), notes: Iterable[str] = ()) -> None:
        super().__init__(jobs)
        self.notes = list(notes)

    def columns(self) -> tuple[str, ...]:
        """Return the heads of the columns; that of the group only if there are several."""
        return ("group", *_COLUMNS) if self._has_groups() else _COLUMNS

    def _has_groups(self) -> bool:
        return any(job.get("group") for job in self)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells as text."""
        cells = self._cells()
        if self._has_groups():
            return [(job.get("group") or "-", *row) for job, row in zip(self, cells, strict=True)]
        return cells

    def _cells(self) -> list[tuple[str, ...]]:
        now = time.time()
        return [
            (
                job["id"] or "-",
                job["state"],
                _ago(now - job["since"]),
                job["host"] or "-",
                str(job["workers"]),
                job["reason"] or (job["story"][-1] if job["story"] else ""),
            )
            for job in self
        ]

    def stories(self) -> str:
        """Return every job with all that happened to it."""
        lines: list[str] = []
        for job in self:
            lines.append(f"job {job['id'] or '(no id yet)'}: {job['state']}")
            lines += [f"  {line}" for line in job["story"]]
        return "\n".join(lines)

    def told(self) -> list[str]:
        """Return each job's state, the reason for it, and all that happened to it."""
        heads = [f"job {job['id']} is {job['state']}: {job['reason']}".rstrip(": ") for job in self]
        return ["\n  ".join([head, *job["story"]]) for head, job in zip(heads, self, strict=True)]

    def __str__(self) -> str:
        if not self:
            return "\n".join(["no jobs", *self.notes])
        rows = [self.columns(), *((*row[:-1], " ".join(row[-1].split())) for row in self.rows())]
        return "\n".join([_aligned(rows), *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in self.columns())
        body = "".join(
            "<tr>" + "".join(f"<td style='white-space:pre-wrap'>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows()
        )
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


class AdaptLog(list[dict[str, Any]]):
    """What adaptive scaling has decided (time, wish, jobs, submit, release, reason); prints as a table."""

    def __str__(self) -> str:
        if not self:
            return "adaptive scaling has decided nothing"
        rows: list[tuple[str, ...]] = [("time", "jobs", "wanted", "change", "why")]
        for row in self:
            change = row["submit"] - row["release"]
            at = time.strftime("%H:%M:%S", time.localtime(row["time"]))
            rows.append((at, str(row["jobs"]), str(row["wish"]), f"{change:+}" if change else "", row["reason"]))
        return _aligned(rows)

    __repr__ = __str__


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows of cells as lines with straight columns; the last column is as long as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def count_states(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Return how many jobs are in which state: ``3 up, 5 queued``."""
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job["state"]] = counts.get(job["state"], 0) + 1
    order = ("up", "draining", "starting", "queued", "submitting", "ended")
    return ", ".join(f"{counts[state]} {state}" for state in order if state in counts) or "no jobs"


def _ago(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole // 60 % 60:02} h"
