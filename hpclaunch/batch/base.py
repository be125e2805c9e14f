"""What a batch system is to us: a codec. It says which command to run and what its output means.

A codec never runs anything, keeps no state and reads no clock or environment, so it is tested with recorded
text. :class:`~hpclaunch.batch.queue.BatchQueue` runs the commands over a transport.

Job ids are text. An element of a job array has an id of its own in the batch system's spelling: ``4711.3``
(Grid Engine, local) or ``53_3`` (Slurm).
"""

from __future__ import annotations

import enum
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import msgspec

from hpclaunch.config.schema import JobConfig
from hpclaunch.directives import Dialect
from hpclaunch.transport.base import Completed as Completed


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


#: How sites' own checks of submissions say that there are too many jobs.
TOO_MANY_JOBS = re.compile(
    r"too many (\w+ )?jobs|\b(job|submit|submission)s? (limit|quota)\b|\bmax(imum|\.)? (number of )?(\w+ )?jobs\b|"
    r"\b(only|at most|no more than|more than) \d+ (\w+ )?jobs\b|\b(limit|quota) (of|on) (\w+ ){0,3}jobs\b",
    re.IGNORECASE,
)


class BatchSystem(ABC):
    """A codec for one batch system: argument lists out, text in. A subclass has the abstract methods at least.

    The ``parse_*`` methods raise :class:`~hpclaunch.errors.CommandError`'s subclasses when the output is a
    refusal, never for a job that is merely missing. :mod:`hpclaunch.testing` checks a codec.
    """

    name: ClassVar[str]  # the word of configuration: "slurm"
    title: ClassVar[str]  # as a person writes it: "Grid Engine"
    dialect: ClassVar[Dialect]  # how directives of its scripts are written
    template: ClassVar[str]  # file name of the template for a job of workers
    ranks_template: ClassVar[str] = ""  # that of a job of MPI ranks; empty if there is none
    template_directory: ClassVar[Path | None] = None  # where they are; None: among hpclaunch's own
    max_array: ClassVar[int] = 1000  # jobs that one submission may have
    needed_commands: ClassVar[tuple[str, ...]] = ()  # without these there are no jobs
    useful_commands: ClassVar[tuple[str, ...]] = ()  # without these the reasons of jobs' ends are known less well
    rank_launcher: ClassVar[str] = "mpirun -np {count}"  # what starts a job's ranks; has {count} and {cores}
    process_launcher: ClassVar[str] = ""  # what starts ranks without MPI; empty: as rank_launcher

    @classmethod
    @abstractmethod
    def from_config(cls, config: JobConfig, directory: Path) -> Self:
        """Return the codec for the jobs of a configuration.

        :param directory: the cluster's run directory.
        :raises ScriptError: the user's own directives send jobs where they can't be followed.
        """

    @classmethod
    def launcher(cls, *, count: int, cores: int) -> str:
        """Return the shell code that starts ``count`` ranks of so many cores each, before the program's words."""
        return cls.rank_launcher.format(count=count, cores=cores)

    # --- job ids

    @abstractmethod
    def is_job_id(self, text: str) -> bool:
        """Say whether a text is a job id of this system's, and so may stand in a command line."""

    # --- submitting

    @abstractmethod
    def submit(self, script: Path, count: int | None) -> tuple[str, ...]:
        """Return the argv that submits ``count`` jobs in one go, as an array; None: one job that is no array."""

    @abstractmethod
    def parse_submit(self, done: Completed, count: int | None) -> list[str]:
        """Return the ``count`` job ids, or that of the one job. Raise SubmitError if nothing was submitted."""

    def is_lost(self, done: Completed) -> bool:
        """Say whether a submission without an answer may have been carried out all the same."""
        return done.is_late

    def is_too_many(self, words: str) -> bool:
        """Say whether a submission was refused in these words since its job array is too long for this site."""
        return False

    def limit(self, words: str) -> str:
        """Return which limit on the number of jobs a refusal is about, in words; empty if it is about none.

        Fewer jobs may be taken then, or the same later.
        """
        return "the site's limit of jobs" if TOO_MANY_JOBS.search(words) else ""

    def hint(self, done: Completed) -> str:
        """Return what to do about a submission that was refused in these words; empty if there is no advice."""
        return ""

    @abstractmethod
    def find(self, script: Path) -> tuple[str, ...]:
        """Return the argv that looks for jobs by their script, of which an answer was lost."""

    @abstractmethod
    def parse_find(self, done: Completed, script: Path) -> list[str]:
        """Return the ids of this script's jobs. Raise StatusError if the batch system did not answer."""

    # --- watching

    @abstractmethod
    def status(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        """Return one argv that lists all these jobs."""

    @abstractmethod
    def parse_status(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the jobs that the listing has. Raise StatusError if the batch system did not answer."""

    def second_look(self, job_ids: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the argvs that ask for jobs by their ids, past all filters of listings that a site may have.

        They are asked in turn about jobs that the listing lacks, as long as there are such.
        """
        return []

    def parse_second_look(
        self, done: Completed, job_ids: Iterable[str], seen: Iterable[str]
    ) -> dict[str, JobStatus]:
        """Return the jobs that this answer has; ``seen`` are those that earlier answers had.

        Raise StatusError if the batch system did not answer.
        """
        return {}

    def explain(self, job_id: str) -> tuple[str, ...]:
        """Return the argv that asks why one job waits or is stuck."""
        return self.status([job_id])

    def parse_explain(self, done: Completed, job_id: str) -> str:
        """Return the reason in words; empty if the batch system gives none."""
        status = self.parse_status(done, [job_id]).get(job_id)
        return status.reason if status is not None else ""

    # --- ending

    @abstractmethod
    def cancel(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        """Return one argv that cancels all these jobs."""

    @abstractmethod
    def parse_cancel(self, done: Completed, job_ids: Sequence[str]) -> dict[str, str]:
        """Return the jobs whose cancellation was refused, with the batch system's words.

        A job that is already gone is not a refusal.
        """

    @abstractmethod
    def usage(self, job_ids: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the argvs that ask accounting about these jobs: few, but some systems take one number each."""

    @abstractmethod
    def parse_usage(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobUsage]:
        """Return the jobs that accounting knows as ended. Raise StatusError if it did not answer."""

    def put_back(self, job_id: str) -> tuple[str, ...]:
        """Return the argv that asks accounting about the earlier runs of a job; empty if there can be none."""
        return ()

    def parse_put_back(self, done: Completed, job_id: str) -> str:
        """Return why the run before this one ended, in words; empty if accounting has no such run.

        Raise StatusError if it did not answer.
        """
        return ""
