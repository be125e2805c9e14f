"""What a batch system is to us: a codec. It says which command to run and what its output means.

A codec never runs anything, keeps no state and reads no clock or environment, so it is tested with recorded
text. :class:`~hpclaunch.batch.queue.BatchQueue` runs the commands over a transport.

Job ids are text. An element of a job array has an id of its own in the batch system's spelling: ``4711.3``
(Grid Engine, local) or ``53_3`` (Slurm).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec


class JobState(enum.StrEnum):
    """Where a job stands in the batch system's eyes. States are ordered; UNKNOWN says nothing."""

    UNKNOWN = "unknown"  # not in the listing: may be too new, or over. Accounting decides, not we.
    QUEUED = "queued"
    STARTING = "starting"  # given to a host, not yet running (SGE t, Slurm CONFIGURING)
    RUNNING = "running"
    SUSPENDED = "suspended"
    STUCK = "stuck"  # will never run as it is (SGE Eqw); the reason says why
    ENDING = "ending"  # being cancelled or cleaned up (SGE d, Slurm COMPLETING)
    ENDED = "ended"


class JobStatus(msgspec.Struct, frozen=True):
    """One job's line in a status listing."""

    job_id: str
    state: JobState
    reason: str = ""  # in the batch system's words: why it waits, or how it ended
    host: str = ""


class JobUsage(msgspec.Struct, frozen=True):
    """What accounting says of one ended job. None where the batch system does not say."""

    job_id: str
    reason: str  # one sentence: "walltime reached", "cancelled by qdel", "exit code 3", ...
    exit_code: int | None = None
    signal: int | None = None
    host: str = ""
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    max_memory_bytes: int | None = None  # resident (Slurm MaxRSS) or virtual (SGE maxvmem)


class Completed(msgspec.Struct, frozen=True):
    """A command that a transport has run. exit_code is None if it could not start or ran out of time."""

    argv: tuple[str, ...]
    exit_code: int | None
    stdout: str
    stderr: str
    is_late: bool = False  # it ran out of time and was killed: nobody knows what it has done


#: How sites' own checks of submissions say that there are too many jobs.
TOO_MANY_JOBS = re.compile(
    r"too many (\w+ )?jobs|\b(job|submit|submission)s? (limit|quota)\b|\bmax(imum|\.)? (number of )?(\w+ )?jobs\b|"
    r"\b(only|at most|no more than|more than) \d+ (\w+ )?jobs\b|\b(limit|quota) (of|on) (\w+ ){0,3}jobs\b",
    re.IGNORECASE,
)


class BatchSystem(Protocol):
    """A codec for one batch system: argument lists out, text in.

    The ``parse_*`` methods raise :class:`~hpclaunch.errors.CommandError`'s subclasses when the output is a
    refusal, never for a job that is merely missing.
    """

    name: str  # the words of configuration: "sge", "slurm", "local"
    title: str  # as a person writes it: "Grid Engine"
    template: str  # file name of the job script's template
    max_array: int  # jobs that one submission may have

    def is_job_id(self, text: str) -> bool:
        """Say whether a text is a job id of this system's, and so may stand in a command line."""

    def submit(self, script: Path, count: int | None) -> tuple[str, ...]:
        """Return the argv that submits ``count`` jobs in one go, as an array; None: one job that is no array."""

    def parse_submit(self, done: Completed, count: int | None) -> list[str]:
        """Return the ``count`` job ids, or that of the one job. Raise SubmitError if nothing was submitted."""

    def is_lost(self, done: Completed) -> bool:
        """Say whether a submission without an answer may have been carried out all the same."""

    def is_too_many(self, words: str) -> bool:
        """Say whether a submission was refused in these words since its job array is too long for this site."""

    def find(self, script: Path) -> tuple[str, ...]:
        """Return the argv that looks for jobs by their script, of which an answer was lost."""

    def parse_find(self, done: Completed, script: Path) -> list[str]:
        """Return the ids of this script's jobs. Raise StatusError if the batch system did not answer."""

    def status(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        """Return one argv that lists all these jobs."""

    def parse_status(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the jobs that the listing has. Raise StatusError if the batch system did not answer."""

    def second_look(self, job_ids: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the argvs that ask for jobs by their ids, past all filters of listings that a site may have.

        They are asked in turn about jobs that the listing lacks, as long as there are such.
        """

    def parse_second_look(
        self, done: Completed, job_ids: Iterable[str], seen: Iterable[str]
    ) -> dict[str, JobStatus]:
        """Return the jobs that this answer has; ``seen`` are those that earlier answers had.

        Raise StatusError if the batch system did not answer.
        """

    def explain(self, job_id: str) -> tuple[str, ...]:
        """Return the argv that asks why one job waits or is stuck."""

    def parse_explain(self, done: Completed, job_id: str) -> str:
        """Return the reason in words; empty if the batch system gives none."""

    def cancel(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        """Return one argv that cancels all these jobs."""

    def parse_cancel(self, done: Completed, job_ids: Sequence[str]) -> dict[str, str]:
        """Return the jobs whose cancellation was refused, with the batch system's words.

        A job that is already gone is not a refusal.
        """

    def usage(self, job_ids: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the argvs that ask accounting about these jobs: few, but some systems take one number each."""

    def parse_usage(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobUsage]:
        """Return the jobs that accounting knows as ended. Raise StatusError if it did not answer."""

    def put_back(self, job_id: str) -> tuple[str, ...]:
        """Return the argv that asks accounting about the earlier runs of a job; empty if there can be none."""

    def parse_put_back(self, done: Completed, job_id: str) -> str:
        """Return why the run before this one ended, in words; empty if accounting has no such run.

        Raise StatusError if it did not answer.
        """

    def limit(self, words: str) -> str:
        """Return which limit on the number of jobs a refusal is about, in words; empty if it is about none.

        Fewer jobs may be taken then, or the same later.
        """

    def hint(self, done: Completed) -> str:
        """Return what to do about a submission that was refused in these words; empty if there is no advice."""
