"""The table of a cluster's jobs, as a person reads it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_COLUMNS = ("job", "state", "for", "host", "workers", "what happened")


class JobTable(list[dict[str, Any]]):
    """A cluster's jobs, one dict each (id, state, since, host, workers, reason, story); prints as a table."""

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells as text."""
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
            return "no jobs"
        rows = [_COLUMNS, *((*row[:-1], " ".join(row[-1].split())) for row in self.rows())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS) - 1)]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            lines.append("  ".join([*cells, row[-1]]).rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        body = "".join(
            "<tr>" + "".join(f"<td style='white-space:pre-wrap'>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


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
