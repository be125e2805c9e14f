"""Tests that every codec of a batch system passes, for packages that add one; they run under pytest.

A package subclasses :class:`BatchSystemTests` in its own tests, names its codec, and fills the tables with what
its batch system really prints::

    from hpclaunch.testing import BatchSystemTests, Ends

    class TestPBS(BatchSystemTests):
        codec = PBS
        recordings = Path(__file__).parent / "recorded"
        submissions = {"qsub-array": (3, ["7[1].pbs", "7[2].pbs", "7[3].pbs"])}
        ...

The package must be installed (``pip install --editable .``), since the tests look at its entry point too. A table
that is left empty fails its test: what is not recorded is not known.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec
import pytest

from hpclaunch import rundir, scripts
from hpclaunch.batch.base import BatchSystem, Completed, JobState
from hpclaunch.batch.systems import codec as codec_of
from hpclaunch.config.layers import load
from hpclaunch.config.schema import JobConfig
from hpclaunch.errors import CommandError, ScriptError, StatusError, SubmitError

_SCRIPT = Path("/shared/a b;c'd$(e)/job.sh")
#: Answers that say nothing about jobs: no such command, a command that was killed for its time, an empty failure.
_NO_ANSWERS = (
    Completed(("command",), 127, "", "bash: command: command not found\n"),
    Completed(("command",), None, "", "", is_late=True),
    Completed(("command",), 255, "", "ssh: connect to host login port 22: Connection refused\n"),
)
_NOISE = ("", "\n", "|||\n", "{}", "[]", "<a>", "1 2 3\n", "Job Id:\n    job_state\n", "ä\udcff\0")

_Table = TypeVar("_Table", bound=Sequence[str] | Mapping[str, Any])
_Error = TypeVar("_Error", bound=CommandError)


class Ends(NamedTuple):
    """How accounting says that a job ended; None where it does not."""

    exit_code: int | None = None
    signal: int | None = None


def read_recording(path: Path) -> Completed:
    """Read a recorded command.

    A recording is the command after ``$``, its standard output, standard error below ``--- stderr``, and the exit
    code in ``--- exit N``; all but the output may be missing.
    """
    argv: tuple[str, ...] = ()
    code = 0
    pieces: dict[str, list[str]] = {"stdout": [], "stderr": []}
    into = "stdout"
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("$ "):
            argv = tuple(line[2:].split())
        elif line.startswith("--- stderr"):
            into = "stderr"
        elif line.startswith("--- exit "):
            code = int(line.split()[-1])
        else:
            pieces[into].append(line)
    return Completed(argv, code, "".join(pieces["stdout"]), "".join(pieces["stderr"]))


class BatchSystemTests:
    """What hpclaunch expects of a codec. The tables name recordings in the directory ``recordings``."""

    codec: ClassVar[type[BatchSystem]]
    #: Directory of recorded commands, ``NAME.txt``; see :func:`read_recording`.
    recordings: ClassVar[Path]
    #: Configuration that a job needs here, beside cores and memory.
    config: ClassVar[Mapping[str, Any]] = {}
    #: Submission -> the count that was asked for (None: one job that is no array) and the ids it gives.
    submissions: ClassVar[Mapping[str, tuple[int | None, Sequence[str]]]] = {}
    #: Submissions that were refused.
    refusals: ClassVar[Sequence[str]] = ()
    #: Those of them that a limit on the number of jobs has refused.
    limits: ClassVar[Sequence[str]] = ()
    #: Listing -> the states of its jobs.
    listings: ClassVar[Mapping[str, Mapping[str, JobState]]] = {}
    #: Answers to a status question that know none of the jobs asked for, and are no failure.
    absences: ClassVar[Sequence[str]] = ()
    #: Status commands that failed: the batch system did not answer.
    silences: ClassVar[Sequence[str]] = ()
    #: Accounting -> how its jobs ended.
    ends: ClassVar[Mapping[str, Mapping[str, Ends]]] = {}
    #: Cancellation -> the ids it was about, and those of them that were refused.
    cancellations: ClassVar[Mapping[str, tuple[Sequence[str], Sequence[str]]]] = {}
    #: False: scripts of this batch system have no directives.
    has_directives: ClassVar[bool] = True
    #: What the batch system sets in a job's environment, and the id that the job must know itself by.
    job_environment: ClassVar[Mapping[str, str]] = {}
    job_id: ClassVar[str] = ""

    # --- helpers

    def make(self) -> BatchSystem:
        """Return the codec under test, for a plain configuration."""
        return self.codec.from_config(self.job_config(), Path("/shared/run"))

    def job_config(self, **changes: Any) -> JobConfig:
        """Return a configuration of the batch system under test, with these keys changed."""
        given = {"cores": 2, "processes": 1, "memory": "4 GiB", **self.config, **changes}
        return load(self.codec.name, given, env={}, paths=[]).job

    def recording(self, name: str) -> Completed:
        """Return a recorded command."""
        return read_recording(self.recordings / f"{name}.txt")

    def render(self, directory: Path, *, command: Sequence[str] = ("true",), **changes: Any) -> str:
        """Return the script of a job of workers that runs ``command`` instead."""
        return scripts.render(
            self.job_config(**changes),
            cluster_id="test-00000000",
            directory=directory,
            work_directory=directory,
            worker_command=list(command),
        )

    def known_ids(self) -> list[str]:
        """Return ids as the batch system spells them, from the recorded submissions."""
        _filled(self.submissions, "submissions")
        return list(dict.fromkeys(one for _, ids in self.submissions.values() for one in ids))

    # --- what a codec says of itself

    def test_is_found_by_its_name(self) -> None:
        assert codec_of(self.codec.name) is self.codec, "another codec is installed under this name"
        assert re.fullmatch(r"[a-z][a-z0-9-]*", self.codec.name), "name is lower case, as a word of YAML"
        assert self.codec.title, "title is missing"
        assert self.codec.max_array >= 1, "max_array is at least 1"
        assert self.codec.dialect.prefix.startswith("#"), "directives are comments to the shell"

    def test_commands_are_argument_lists(self) -> None:
        codec, ids = self.make(), self.known_ids()
        needed = [
            codec.submit(_SCRIPT, None),
            codec.submit(_SCRIPT, 3),
            codec.find(_SCRIPT),
            codec.status(ids),
            codec.cancel(ids),
        ]
        for argv in needed:
            is_known = not codec.needed_commands or {*codec.needed_commands} & {
                Path(word).name for word in argv[:3]
            }
            assert is_known, f"{argv[0]} is not in needed_commands, which doctor looks for"
        for argv in (*needed, codec.explain(ids[0]), *codec.usage(ids), *codec.second_look(ids)):
            assert isinstance(argv, tuple), f"{argv}: not a tuple"
            assert argv, "an empty argv"
            assert all(isinstance(word, str) and word for word in argv), f"{argv}: words are text, and not empty"

    def test_script_is_one_word_of_the_submission(self) -> None:
        for count in (None, 1, 3):
            argv = self.make().submit(_SCRIPT, count)
            assert argv.count(str(_SCRIPT)) == 1, (
                f"{argv}: the script's path is one word, neither quoted nor split"
            )
        three, four = self.make().submit(_SCRIPT, 3), self.make().submit(_SCRIPT, 4)
        assert three != four, f"{three}: the count of jobs is not there"

    def test_all_jobs_are_in_one_question(self) -> None:
        ids = self.known_ids()
        for argv in (self.make().status(ids), self.make().cancel(ids)):
            words = " ".join(argv)
            lost = [one for one in ids if _number(one) not in words]
            assert not lost or _asks_for_all(self.make().status, ids), f"{argv} lacks {lost}"
        assert not [one for one in ids if _number(one) not in " ".join(self.make().cancel(ids))], (
            "not all cancelled"
        )

    def test_job_ids_are_told_from_other_texts(self) -> None:
        """Ids come back from files and from workers, and go into commands."""
        codec = self.make()
        refused = [one for one in (*self.known_ids(), self.job_id) if not codec.is_job_id(one)]
        assert not refused, f"is_job_id refuses {refused}"
        number = _number(self.known_ids()[0])
        signs = ("{} x", "{};x", "{}\n", "{}$(x)", "{}/../x", "-{}", "{}`x`", "{},7", "{}*", " {}")
        hostile = ["", "-x", "--user=root", "all", "*", "'*'", *(sign.format(number) for sign in signs)]
        accepted = [one for one in hostile if codec.is_job_id(one)]
        assert not accepted, f"is_job_id accepts {accepted}"

    # --- submissions

    def test_submission_gives_the_ids(self) -> None:
        for name, (count, ids) in _filled(self.submissions, "submissions").items():
            found = self.make().parse_submit(self.recording(name), count)
            assert found == list(ids), name
            assert len(found) == (count or 1) == len(set(found)), f"{name}: one id for each job"

    def test_submission_is_read_past_a_banner(self) -> None:
        for name, (count, ids) in _filled(self.submissions, "submissions").items():
            done = self.recording(name)
            loud = msgspec.structs.replace(done, stdout=f"*** Welcome. Quota: 12% of 500 GB ***\n{done.stdout}")
            assert self.make().parse_submit(loud, count) == list(ids), (
                f"{name}: a site's wrapper prints a line first"
            )

    def test_refused_submission_raises(self) -> None:
        for name in _filled(self.refusals, "refusals"):
            done = self.recording(name)
            error = _raised(SubmitError, partial(self.make().parse_submit, done, 2), name)
            words = (done.stderr + done.stdout).strip().splitlines()[-1].strip()
            assert words in error.output, f"{name}: the error lacks the batch system's words {words!r}"

    def test_limit_on_jobs_is_told_from_other_refusals(self) -> None:
        for name in _filled(self.refusals, "refusals"):
            done = self.recording(name)
            limit = self.make().limit(done.stderr + done.stdout)
            assert bool(limit) == (name in self.limits), f"{name}: limit() says {limit!r}"

    def test_submission_without_an_answer_raises(self) -> None:
        for done in _NO_ANSWERS:
            _raised(SubmitError, partial(self.make().parse_submit, done, 2), str(done))
        assert self.make().is_lost(_NO_ANSWERS[1]), "qsub was killed: the job may be there, so is_lost is true"

    # --- listings

    def test_listing_gives_states(self) -> None:
        for name, states in _filled(self.listings, "listings").items():
            found = self.make().parse_status(self.recording(name), [*states, "no-such-job"])
            assert {one: status.state for one, status in found.items()} == dict(states), name
            assert all(status.job_id == one for one, status in found.items()), f"{name}: job_id is another's"

    def test_listing_gives_only_what_was_asked_for(self) -> None:
        for name, states in _filled(self.listings, "listings").items():
            one = next(iter(states))
            assert set(self.make().parse_status(self.recording(name), [one])) == {one}, name
            assert self.make().parse_status(self.recording(name), []) == {}, name

    def test_every_state_that_matters_is_recorded(self) -> None:
        seen = {state for states in _filled(self.listings, "listings").values() for state in states.values()}
        assert {JobState.QUEUED, JobState.RUNNING} <= seen, f"listings have {sorted(seen)} only"

    def test_unknown_job_is_no_error_and_not_ended(self) -> None:
        for name in _filled(self.absences, "absences"):
            assert self.make().parse_status(self.recording(name), self.known_ids()) == {}, name

    def test_silence_is_not_taken_for_an_empty_queue(self) -> None:
        """An empty listing means that the jobs are gone; a cluster would replace all of them."""
        recorded = [self.recording(name) for name in _filled(self.silences, "silences")]
        for done in (*recorded, *_NO_ANSWERS):
            codec, what = self.make(), f"{done}: taken for an answer"
            _raised(StatusError, partial(codec.parse_status, done, self.known_ids()), what)
            _raised(StatusError, partial(codec.parse_find, done, _SCRIPT), what)

    def test_noise_is_survived(self) -> None:
        ids = self.known_ids()
        for text in _NOISE:
            done = Completed(("command",), 0, text, text)
            codec = self.make()
            asked: tuple[Callable[[], Iterable[str]], ...] = (
                partial(codec.parse_status, done, ids),
                partial(codec.parse_usage, done, ids),
                partial(codec.parse_second_look, done, ids, []),
            )
            for ask in asked:
                try:
                    found = ask()
                except CommandError:
                    continue
                assert set(found) <= set(ids), f"{text!r} gives jobs that were not asked for"

    # --- ends

    def test_accounting_gives_ends(self) -> None:
        for name, ends in _filled(self.ends, "ends").items():
            found = self.make().parse_usage(self.recording(name), [*ends, "no-such-job"])
            assert {one: Ends(use.exit_code, use.signal) for one, use in found.items()} == dict(ends), name
            assert all(use.reason for use in found.values()), f"{name}: the reason of an end is a sentence"

    def test_refused_cancellations_are_named(self) -> None:
        for name, (ids, refused) in _filled(self.cancellations, "cancellations").items():
            found = self.make().parse_cancel(self.recording(name), list(ids))
            assert set(found) == set(refused), f"{name}: a job that is gone already is no refusal"
            assert all(words.strip() for words in found.values()), (
                f"{name}: a refusal has the batch system's words"
            )

    # --- scripts

    def test_script_asks_for_what_the_configuration_says(self, tmp_path: Path) -> None:
        self.need_directives()
        base = self.directives(self.render(tmp_path))
        changes = {"queue": "marked", "account": "marked", "walltime": "03:21:09", "name": "marked"}
        for key, value in changes.items():
            assert self.directives(self.render(tmp_path, **{key: value})) != base, f"{key} changes nothing"
        assert "marked" in self.directives(self.render(tmp_path, queue="marked")), "queue is not in the script"

    def test_users_own_directive_stands_in_the_script_and_wins(self, tmp_path: Path) -> None:
        self.need_directives()
        dialect = self.codec.dialect
        assert dialect.queue_option, "the dialect has no queue_option"
        joint = "=" if dialect.queue_option.startswith("--") else " "
        line = f"{dialect.queue_option}{joint}theirs"
        text = self.directives(self.render(tmp_path, queue="ours", job_extra_directives=[line]))
        assert f"{dialect.prefix} {line}" in text.splitlines(), "job-extra-directives are missing"
        assert "ours" not in text, "a directive of the user's does not replace hpclaunch's: use wants(...)"
        text = self.directives(self.render(tmp_path, queue="ours", job_directives_skip=[dialect.queue_option]))
        assert "ours" not in text, "job-directives-skip has no effect: use wants(...)"

    def test_hostile_name_is_quoted_or_refused(self, tmp_path: Path) -> None:
        self.need_directives()
        plain = self.directives(self.render(tmp_path, queue="plain")).splitlines()
        for name in ("a b", 'a"b', "a'b", "a;b", "a#b", "-a", "a$(b)"):
            try:
                lines = self.directives(self.render(tmp_path, queue=name)).splitlines()
            except (ScriptError, ValueError):
                continue
            (line,) = set(lines) - set(plain)
            assert not line.endswith((f" {name}", f"={name}")), f"{line!r}: use the filter d"

    def test_script_is_bash(self, tmp_path: Path) -> None:
        text = self.render(tmp_path, job_script_prologue=["true"], job_script_epilogue=["true"])
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_job_knows_itself_by_the_id_of_its_submission(self, tmp_path: Path) -> None:
        """Run the script as the batch system would: its start and its exit code are noted under its id."""
        assert self.job_id, "job_id and job_environment say what a job's environment is"
        tickets = rundir.tickets_path(tmp_path)
        tickets.mkdir()
        (tmp_path / "logs").mkdir()
        script = tmp_path / "job.sh"
        script.write_text(self.render(tmp_path, command=["bash", "-c", "exit 3"]), encoding="utf-8")
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path), **self.job_environment}
        done = subprocess.run(
            ["bash", str(script)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 3, f"{done.stdout}{done.stderr}"
        found = sorted(path.name for path in tickets.iterdir())
        assert found == [f"{self.job_id}.exit", f"{self.job_id}.start"], "HPCLAUNCH_JOB is not the job's id"

    def need_directives(self) -> None:
        """Skip a test where scripts have no directives."""
        if not self.has_directives:
            pytest.skip(f"scripts of {self.codec.title} have no directives")

    def directives(self, text: str) -> str:
        """Return the directive lines of a script."""
        return "\n".join(line for line in text.splitlines() if line.startswith(f"{self.codec.dialect.prefix} "))


def _filled(table: _Table, name: str) -> _Table:
    assert table, f"the table `{name}` is empty: record what the batch system prints"
    return table


def _raised(kind: type[_Error], ask: Callable[[], object], what: str) -> _Error:
    try:
        found = ask()
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"{what}: raises {error!r}, and {kind.__name__} is expected") from error
    raise AssertionError(f"{what}: returns {found!r}, and {kind.__name__} is expected")


def _asks_for_all(status: Callable[[Sequence[str]], tuple[str, ...]], ids: Sequence[str]) -> bool:
    """Say whether a status command asks for all jobs of the user, whatever ids are given."""
    return status(ids) == status(["no-such-job"])


def _number(job_id: str) -> str:
    """Return the number at the beginning of an id, which its array has too."""
    match = re.match(r"\d+", job_id)
    return match[0] if match else job_id
