"""Which run of a job is its newest.

A job that a batch system puts back can begin its second run before the first is gone: Grid Engine has a host end
what runs there only after that host's next report. Both runs' supervisors then come for the same job, and the
workers of both have the same names. Pure.
"""

from __future__ import annotations

from hpclaunch.comm.messages import Hello


class JobRuns:
    """The runs of all jobs, as told by the supervisors that came; each is a process of a host."""

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[str, int]]] = {}  # by job id; the newest is last

    def take(self, hello: Hello) -> bool:
        """Note the supervisor that says this; say whether it is of a run after others, and has not come before."""
        known = self._known.setdefault(hello.job_id, [])
        run = hello.host, hello.pid
        if run in known:
            return False
        known.append(run)
        return len(known) > 1

    def newer(self, hello: Hello) -> str:
        """Return the host of a newer run than this supervisor's, or nothing if its own is the newest."""
        known = self._known.get(hello.job_id, [])
        run = hello.host, hello.pid
        return known[-1][0] if run in known[:-1] else ""
