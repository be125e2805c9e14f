"""Whether failures are few enough to go on. Pure.

It owns three rows of failures (early deaths, removals by others, refused submissions), the waits that follow from
them, and the one error at the end. An end counts if the job was not yet proved and we did not cancel it.
"""

from __future__ import annotations

from random import Random

from hpclaunch.config.units import format_duration
from hpclaunch.jobs import reasons
from hpclaunch.jobs.backoff import Backoff, Bucket
from hpclaunch.jobs.commands import Command, ReadLog, ReportFailure
from hpclaunch.jobs.job import Job
from hpclaunch.jobs.reasons import Ending, Kind, Terms


class Verdict:
    """Judges ends of jobs. ``failure`` is the text of the error; empty while all is well."""

    def __init__(self, terms: Terms, rng: Random, submit_rate: float = 60.0) -> None:
        self._terms = terms
        self.submissions = Bucket(submit_rate)
        self.deaths = Backoff(rng)
        self.removals = Backoff(rng)
        self.refusals = Backoff(rng, cap_seconds=30.0, limit=24)
        self.failure = ""
        self.is_stopped = False  # also while the last log is being read for the error
        self._is_about_silence = False
        self._failing: tuple[str, str] | None = None  # job id, headline

    @property
    def not_before(self) -> float:
        """Unix time before which nothing is submitted."""
        failed = max(self.deaths.not_before, self.removals.not_before, self.refusals.not_before)
        return max(failed, self.submissions.not_before)

    def reset(self) -> None:
        """A client asked to try again: forget everything."""
        self.failure = ""
        self.is_stopped = self._is_about_silence = False
        self._failing = None
        for backoff in (self.deaths, self.removals, self.refusals):
            backoff.reset()

    def on_proved(self, job: Job) -> None:
        """A worker of this job stayed up: jobs can work here."""
        self.deaths.on_success(job.generation)
        self.removals.on_success(job.generation)

    def on_ending(self, job: Job, ending: Ending, now: float, *, newest: int, others_up: int) -> list[Command]:
        """Count a job's end, once. ``newest`` is the last generation submitted."""
        if job.is_judged or ending.kind is Kind.CANCELLED:
            return []
        job.is_judged = True
        if job.is_proved or (ending.kind is Kind.WALLTIME and job.first_join is not None):
            return []
        is_removal = ending.kind is Kind.OUTSIDE
        backoff = self.removals if is_removal else self.deaths
        if not backoff.on_failure(job.generation, newest, now):
            return []
        if not self.is_stopped and backoff.is_exhausted(others_up=others_up > 0):
            return self._give_up(job, ending, backoff.rounds, others_up)
        return [] if is_removal else [ReadLog(job.id)]

    def on_refused(self, text: str, now: float, *, newest: int) -> list[Command]:
        """A submission that no call waits for was refused, and there is no job that could work meanwhile."""
        self.refusals.on_failure(newest, newest, now)
        if self.is_stopped or not self.refusals.is_exhausted(others_up=False):
            return []
        return self._stop(
            f"{self._terms.title} refused to take jobs {self.refusals.rounds} times in a row.\n{text}"
        )

    def on_silence(self, seconds: float, text: str) -> list[Command]:
        """The batch system has been silent for too long."""
        if self.is_stopped:
            return []
        self._is_about_silence = True
        since = format_duration(seconds)
        return self._stop(f"{self._terms.title} has not answered for {since}; jobs are not replaced.\n{text}")

    def on_answer(self) -> None:
        """The batch system answers again."""
        if self._is_about_silence:
            self.reset()

    def on_log(self, job: Job, reason: str, path: str, log: str, *, others_up: int) -> list[Command]:
        """The log of a job was read; if the error waits for it, the error is ready."""
        if self._failing is None or self._failing[0] != job.id:
            return []
        _, headline = self._failing
        has_run = job.running_since is not None and not job.is_stuck
        quote = reasons.quote_log(path, log) if log or has_run else ""
        advice = [reasons.hint(log, self._terms), "Call scale() again once this is mended."]
        return self._report(job, reason, headline + _others(others_up), quote, advice)

    def _give_up(self, job: Job, ending: Ending, rounds: int, others_up: int) -> list[Command]:
        self.is_stopped = True
        if ending.kind is Kind.OUTSIDE:
            headline = f"Jobs were cancelled from outside {rounds} times in a row; no more are submitted."
            advice = [
                "If that was not you, ask the people who run this cluster. Calling scale() again tries again."
            ]
            return self._report(job, ending.text, headline + _others(others_up), "", advice)
        self._failing = (job.id, f"Jobs ended early {rounds} times in a row; no more are submitted.")
        return [ReadLog(job.id)]

    def _report(self, job: Job, reason: str, headline: str, quote: str, advice: list[str]) -> list[Command]:
        self._failing = None
        where = f" on {job.host}" if job.host else ""
        parts = [
            headline,
            f"  the last one, job {job.id}{where}: {reason}",
            quote,
            *(f"  {a}" for a in advice if a),
        ]
        return self._stop("\n".join(part for part in parts if part))

    def _stop(self, text: str) -> list[Command]:
        self.is_stopped = True
        self.failure = text
        return [ReportFailure(text)]


def _others(count: int) -> str:
    if not count:
        return ""
    return f" {count} other job{'s are' if count > 1 else ' is'} up and {'go' if count > 1 else 'goes'} on."
