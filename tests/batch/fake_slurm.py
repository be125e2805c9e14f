"""A Slurm in memory behind the interface of a transport, with the faults that real ones have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hpclaunch.batch.base import Completed

Done = tuple[int | None, str, str]


class FakeSlurm:
    """A transport to a Slurm in memory, with faults to switch on."""

    def __init__(self) -> None:
        self.jobs: dict[str, Path] = {}
        self.commands: list[tuple[str, ...]] = []
        self.longest_array = 1001
        self.room = 10_000
        self.refusal = "Job violates accounting/QOS policy"  # of what is over that
        self.hidden: set[str] = set()  # jobs that listings leave out
        self.loses: set[str] = set()  # commands that are carried out without an answer
        self.swallows: set[str] = set()  # commands that are not carried out and get no answer
        self.deaf_to_scancel = 0  # scancels that have no effect
        self.down_for = 0  # commands that find no controller
        self.foreign: set[str] = set()
        self.mailbox: list[tuple[str, ...]] = []  # sbatches that were heard and not yet carried out
        self.delays = 0  # sbatches that are carried out only by deliver()
        self.count = 100

    async def run(self, argv: Sequence[str], *, timeout: float = 60.0, cwd: Path | None = None) -> Completed:
        """Run a command."""
        words = tuple(argv)
        self.commands.append(words)
        late = Completed(words, None, "", "no end within 60 s; it was killed", is_late=True)
        if self.down_for:
            self.down_for -= 1
            return Completed(words, 1, "", "error: Unable to contact slurm controller (connect failure)")
        if words[0] in self.swallows:
            return late
        if self.delays and words[0] == "sbatch":
            self.delays -= 1
            self.mailbox.append(words)
            return late
        code, out, err = getattr(self, words[0])(words)
        return late if words[0] in self.loses else Completed(words, code, out, err)

    def sbatch(self, words: tuple[str, ...]) -> Done:
        """Take an array."""
        count = int(re.search(r"--array=1-(\d+)", " ".join(words))[1])
        if count >= self.longest_array:
            return 1, "", "sbatch: error: Batch job submission failed: Invalid job array specification"
        if len(self.jobs) + count > self.room:
            return 1, "", f"sbatch: error: Batch job submission failed: {self.refusal}"
        self.count += 1
        number = self.count
        self.jobs.update({f"{number}_{i}": Path(words[-1]) for i in range(1, count + 1)})
        return 0, f"{number}\n", ""

    def deliver(self) -> None:
        """Carry out the submissions that came unnoticed."""
        for words in self.mailbox:
            self.sbatch(words)
        self.mailbox.clear()

    def squeue(self, words: tuple[str, ...]) -> Done:
        """List jobs."""
        if "--me" in words:
            return 0, "".join(f"{job_id}|{path}\n" for job_id, path in self.jobs.items()), ""
        numbers = words[-1].removeprefix("--jobs=").split(",")
        shown = [job_id for job_id in self.jobs if job_id not in self.hidden]
        rows = [f"{i}|PENDING||Resources\n" for i in shown if i.partition("_")[0] in numbers]
        return (0, "".join(rows), "") if rows else (1, "", "slurm_load_jobs error: Invalid job id specified")

    def scontrol(self, words: tuple[str, ...]) -> Done:
        """Show the elements of an array."""
        ids = [job_id.split("_") for job_id in self.jobs if job_id.partition("_")[0] == words[-1]]
        rows = [f"JobId=1{n} ArrayJobId={n} ArrayTaskId={i} JobState=PENDING Reason=Resources\n" for n, i in ids]
        return (0, "".join(rows), "") if rows else (1, "", "slurm_load_jobs error: Invalid job id specified")

    def scancel(self, words: tuple[str, ...]) -> Done:
        """End jobs."""
        if self.deaf_to_scancel:
            self.deaf_to_scancel -= 1
            return 0, "", ""
        denied = [job_id for job_id in words[1:] if job_id in self.foreign]
        for job_id in set(words[1:]) - self.foreign:
            self.jobs.pop(job_id, None)
        lines = [f"scancel: error: Kill job error on job id {i}: Access/permission denied\n" for i in denied]
        return (210 if lines else 0), "", "".join(lines)

    def sacct(self, words: tuple[str, ...]) -> Done:
        """Account for jobs: it knows none."""
        return 0, "", ""
