"""The conformance suite finds faults: each codec here has one, and the test that is to find it fails."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from hpclaunch import scripts
from hpclaunch.batch import systems
from hpclaunch.batch.base import BatchSystem, Completed, JobState, JobStatus, JobUsage
from hpclaunch.batch.slurm import Slurm
from hpclaunch.errors import HPCLaunchError, StatusError, SubmitError

from . import test_conformance


class SilenceIsEmpty(Slurm):
    def parse_status(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        try:
            return super().parse_status(done, job_ids)
        except StatusError:
            return {}


class MissingIsEnded(Slurm):
    def parse_status(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        ended = {one: JobStatus(one, JobState.ENDED) for one in job_ids}
        return {**ended, **super().parse_status(done, list(ended))}


class ForeignJobs(Slurm):
    def parse_status(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return super().parse_status(done, [line.partition("|")[0] for line in done.stdout.splitlines()])


class SplitPath(Slurm):
    def submit(self, script: Path, count: int | None) -> tuple[str, ...]:
        *words, path = super().submit(script, count)
        return (*words, *path.split())


class CountIsLost(Slurm):
    def submit(self, script: Path, count: int | None) -> tuple[str, ...]:
        return super().submit(script, None if count is None else 1)


class ShellCommand(Slurm):
    def cancel(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        return ("sh", "-c", f"kill {' '.join(job_ids)}")


class RefusalIsNoJob(Slurm):
    def parse_submit(self, done: Completed, count: int | None) -> list[str]:
        try:
            return super().parse_submit(done, count)
        except SubmitError:
            return []


class RefusalWithoutWords(Slurm):
    def parse_submit(self, done: Completed, count: int | None) -> list[str]:
        try:
            return super().parse_submit(done, count)
        except SubmitError:
            raise SubmitError("not submitted") from None


class FirstLineOnly(Slurm):
    def parse_submit(self, done: Completed, count: int | None) -> list[str]:
        first = done.stdout.partition("\n")[0]
        return super().parse_submit(Completed(done.argv, done.exit_code, first, done.stderr), count)


class EveryRefusalIsALimit(Slurm):
    def limit(self, words: str) -> str:
        return "some limit"


class SignalIsExitCode(Slurm):
    def parse_usage(self, done: Completed, job_ids: Iterable[str]) -> dict[str, JobUsage]:
        found = super().parse_usage(done, job_ids)
        return {
            one: JobUsage(one, use.reason, exit_code=use.signal or use.exit_code) for one, use in found.items()
        }


class NeverRefused(Slurm):
    def parse_cancel(self, done: Completed, job_ids: Sequence[str]) -> dict[str, str]:
        return {}


class AnyJobId(Slurm):
    def is_job_id(self, text: str) -> bool:
        return text.strip() != ""


class NeverLost(Slurm):
    def is_lost(self, done: Completed) -> bool:
        return False


class OtherTemplate(Slurm):
    """Its script tells the job another id than the submission did, and has no directives of Slurm's."""

    template = "sge.sh.j2"


FAULTS: list[tuple[type[BatchSystem], set[str]]] = [
    (Slurm, set()),
    (SilenceIsEmpty, {"test_silence_is_not_taken_for_an_empty_queue"}),
    (MissingIsEnded, {"test_unknown_job_is_no_error_and_not_ended", "test_listing_gives_states"}),
    (ForeignJobs, {"test_listing_gives_only_what_was_asked_for"}),
    (SplitPath, {"test_script_is_one_word_of_the_submission"}),
    (CountIsLost, {"test_script_is_one_word_of_the_submission"}),
    (ShellCommand, {"test_commands_are_argument_lists"}),
    (RefusalIsNoJob, {"test_refused_submission_raises", "test_submission_without_an_answer_raises"}),
    (RefusalWithoutWords, {"test_refused_submission_raises"}),
    (FirstLineOnly, {"test_submission_is_read_past_a_banner"}),
    (EveryRefusalIsALimit, {"test_limit_on_jobs_is_told_from_other_refusals"}),
    (SignalIsExitCode, {"test_accounting_gives_ends"}),
    (NeverRefused, {"test_refused_cancellations_are_named"}),
    (AnyJobId, {"test_job_ids_are_told_from_other_texts"}),
    (NeverLost, {"test_submission_without_an_answer_raises"}),
    (OtherTemplate, {"test_job_knows_itself_by_the_id_of_its_submission"}),
]


@pytest.mark.parametrize(("faulty", "expected"), FAULTS)
def test_fault_is_found(
    faulty: type[BatchSystem], expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "codec", lambda name: faulty)
    monkeypatch.setattr("hpclaunch.testing.codec_of", lambda name: faulty)
    scripts._environment_of.cache_clear()
    suite = type("Suite", (test_conformance.TestSlurm,), {"codec": faulty})()
    failed = set()
    for name, test in inspect.getmembers(suite, inspect.ismethod):
        if name.startswith("test_"):
            directory = tmp_path / name
            directory.mkdir()
            try:
                test(*([directory] if inspect.signature(test).parameters else []))
            except (AssertionError, HPCLaunchError):
                failed.add(name)
    assert expected <= failed
    assert bool(expected) == bool(failed)


def test_codec_of_another_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(systems._OWN, "slurm", ("hpclaunch.batch.sge", "GridEngine"))
    systems.codec.cache_clear()
    try:
        with pytest.raises(AssertionError, match="another codec"):
            test_conformance.TestSlurm().test_is_found_by_its_name()
    finally:
        systems.codec.cache_clear()


def test_empty_tables_fail() -> None:
    class Empty(test_conformance.TestSlurm):
        silences = ()
        listings = {}

    with pytest.raises(AssertionError, match="`silences` is empty"):
        Empty().test_silence_is_not_taken_for_an_empty_queue()
    with pytest.raises(AssertionError, match="`listings` is empty"):
        Empty().test_listing_gives_states()
