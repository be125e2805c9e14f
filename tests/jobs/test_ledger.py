"""The ledger's promises, one by one, in made-up time."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from hpclaunch.batch.base import JobState, JobStatus, JobUsage
from hpclaunch.errors import IllegalTransitionError
from hpclaunch.jobs import commands as c
from hpclaunch.jobs.job import ARROWS, Job, JobFiles, Limits, State
from tests.jobs.world import World


@pytest.fixture
def world() -> World:
    return World()


def up(world: World, jobs: int) -> None:
    """Scale, and let all jobs come up."""
    world.scale(jobs)
    world.run()
    world.start_all()
    world.pass_time(1.0)


@pytest.mark.parametrize(("old", "new"), list(product(State, State)))
def test_only_the_arrows_of_the_table_can_be_taken(old: State, new: State) -> None:
    job = Job(1, 1, 0.0, id="7.1", state=old)
    if new in ARROWS[old]:
        job.move(new, 1.5, "because")
        assert job.state is new
        assert job.story_lines() == ["+0.0 s submitting", "+1.5 s because"]
    else:
        with pytest.raises(IllegalTransitionError, match=r"Its story:\n\+0.0 s submitting"):
            job.move(new, 1.5, "because")


def test_a_story_tells_the_whole_life(world: World) -> None:
    world.scale(1)
    world.run()
    world.pass_time(0.5)
    world.batch.start("1.1", "node7")
    world.pass_time(1.0)
    assert world.states() == {"1.1": "starting"}
    world.join("1.1")
    world.pass_time(200.0)
    world.batch.end("1.1", reason="walltime reached")
    world.leave("1.1")
    world.pass_time(1.0)
    row = world.ledger.rows(world.now)[0]
    assert (row.id, row.state, row.workers, row.host) == ("1.1", "ended", 0, "node1")
    assert row.reason == "walltime reached (00:01:00)"
    assert row.story[:2] == ["+0.0 s submitting", "+0.0 s queued"]
    assert row.story[2].endswith(" s starting on node7, python not yet up")
    assert row.story[3:] == [
        "+1.5 s up on node1: worker 1.1/w0 connected, reaching the head at 10.1.0.1:40123",
        "+0:03:21 its last worker, 1.1/w0, left: connection lost",
        "+0:03:21 ended: walltime reached (00:01:00)",
        row.story[-1],
    ]
    assert "accounting: ran 00:03:2" in row.story[-1]
    assert row.story[-2].endswith(" ended: walltime reached (00:01:00)")


def test_n_jobs_are_one_submission(world: World) -> None:
    world.scale(1000)
    assert world.pending[0][1] == c.Submit(1, 1000)
    world.run()
    assert len(world.batch.submissions) == 1
    assert world.ledger.book.live_count() == 1000


def test_a_job_ended_by_walltime_is_replaced_at_once(world: World) -> None:
    up(world, 2)
    world.pass_time(60.0)
    world.batch.end("1.1", reason="walltime reached")
    world.leave("1.1")
    world.pass_time(0.5)
    assert world.live_ids() == ["1.2", "2.1"]
    assert not world.ledger.verdict.deaths.rounds


@pytest.mark.parametrize("lists_ended", [True, False])
def test_a_job_cancelled_from_outside_is_replaced(world: World, lists_ended: bool) -> None:
    world.batch.lists_ended = lists_ended
    up(world, 2)
    world.batch.end("1.2", reason="cancelled by qdel")
    world.leave("1.2")
    world.pass_time(3.0)
    assert world.live_ids() == ["1.1", "2.1"]
    assert world.reason("1.2") == "cancelled from outside (cancelled by qdel)"


def test_a_queued_job_that_leaves_no_trace_was_cancelled(world: World) -> None:
    world.scale(1)
    world.run()
    world.batch.vanish("1.1")
    world.pass_time(30.0)
    assert world.live_ids() == ["2.1"]
    assert "before it started" in world.reason("1.1")


def test_endless_early_deaths_end_in_one_error_that_quotes_reason_and_log(world: World) -> None:
    world.scale(4)
    for _ in range(200):
        world.run()
        for job_id in world.batch.queued():
            world.batch.start(job_id, "node7")
            world.batch.jobs[job_id].log = "hello\n/opt/env/bin/python: No module named hpclaunch\n"
            world.batch.end(job_id, 1)
        world.tick()
    assert len(world.batch.submissions) == 3
    assert len(world.failures) == 1
    error = world.failures[0]
    assert error == world.ledger.failure
    assert error.startswith("Jobs ended early 3 times in a row; no more are submitted.\n")
    assert "on node7: exit code 1\n" in error
    assert "last lines of its log, /run/logs/3." in error
    assert "  | /opt/env/bin/python: No module named hpclaunch\n" in error
    assert "set the key `python`" in error
    assert error.endswith("Call scale() again once this is mended.")
    assert world.ledger.wake_at() is None or world.ledger.wake_at() > world.now


def test_waits_between_rounds_grow(world: World) -> None:
    world.scale(1)
    times = [world.now]
    while len(times) < 3:
        world.run()
        for job_id in world.batch.queued():
            world.batch.start(job_id)
            world.batch.end(job_id, 1)
        world.tick()
        if world.count(c.Submit) > len(times):
            times.append(world.now)
    waits = [after - before for before, after in pairwise(times)]
    assert 1.0 <= waits[0] < 2.0 <= waits[1] < 4.0


@pytest.mark.parametrize("wish", [1, 8])
def test_submissions_are_bounded_when_jobs_die_one_by_one(world: World, wish: int) -> None:
    """A busy cluster with one free slot that kills whatever starts there."""
    world.scale(wish)
    for _ in range(2000):
        world.run()
        if queued := world.batch.queued():
            world.batch.start(queued[0])
            world.batch.end(queued[0], 1)
        world.pass_time(0.7)
    assert sum(len(ids) for ids in world.batch.submissions) <= 3 * wish
    assert len(world.failures) == 1


def test_a_new_wish_clears_the_failure_and_tries_again(world: World) -> None:
    test_endless_early_deaths_end_in_one_error_that_quotes_reason_and_log(world)
    world.scale(2)
    world.run()
    world.start_all()
    world.pass_time(20.0)
    assert not world.ledger.failure
    assert world.ledger.book.live_count() == 2


def test_other_jobs_that_are_up_give_more_patience_and_are_named(world: World) -> None:
    up(world, 1)
    world.pass_time(20.0)
    world.scale(2)
    for _ in range(3000):
        world.run()
        for job_id in world.batch.queued():
            world.batch.start(job_id)
            world.batch.end(job_id, 1)
        world.tick()
    assert len(world.batch.submissions) == 1 + 8
    assert "1 other job is up and goes on." in world.failures[0]
    assert world.live_ids() == ["1.1"]


def test_crashing_right_after_joining_counts_as_early(world: World) -> None:
    world.scale(1)
    for _ in range(100):
        world.run()
        for job_id in world.batch.queued():
            world.batch.start(job_id)
            world.join(job_id)
            world.pass_time(2.0)
            world.batch.end(job_id, 1)
            world.leave(job_id)
        world.pass_time(1.0)
    assert len(world.batch.submissions) == 3
    assert len(world.failures) == 1


def test_one_good_job_forgives_earlier_deaths(world: World) -> None:
    world.scale(1)
    for job_id in ("1.1", "2.1"):
        world.run()
        world.batch.start(job_id)
        world.batch.end(job_id, 1)
        world.pass_time(5.0)
    world.start_all()
    world.pass_time(11.0)
    assert world.ledger.verdict.deaths.rounds == 0


def test_repeated_removal_from_the_queue_stops_in_its_own_words(world: World) -> None:
    world.scale(2)
    for _ in range(400):
        world.run()
        for job_id in world.batch.queued():
            world.batch.end(job_id, reason="cancelled by qdel")
        world.pass_time(1.0)
    assert len(world.batch.submissions) == 3
    assert world.failures[0].startswith("Jobs were cancelled from outside 3 times in a row")
    assert world.count(c.ReadLog) == 0


def test_eqw_ends_a_job_with_the_reason_and_the_job_is_cancelled(world: World) -> None:
    world.scale(1)
    world.run()
    world.batch.stick("1.1")
    world.pass_time(0.5)
    assert world.states()["1.1"] == "ended"
    assert world.reason("1.1") == "Grid Engine put it in Eqw: can't chdir to /scratch/x"
    assert world.batch.cancels == [("1.1",)]
    assert world.batch.alive() == []
    for _ in range(50):
        for job_id in world.batch.queued():
            world.batch.stick(job_id)
        world.pass_time(1.0)
    assert len(world.batch.submissions) == 3
    assert "Grid Engine put it in Eqw: can't chdir to /scratch/x" in world.failures[0]
    assert "its log" not in world.failures[0]  # it never started: there is none


def test_accounting_does_not_talk_over_our_own_reason(world: World) -> None:
    world.scale(1)
    world.run()
    world.batch.stick("1.1")
    world.pass_time(0.5)
    reason = world.reason("1.1")
    world.do(world.ledger.on_usage(["1.1"], {"1.1": JobUsage("1.1", "cancelled by qdel")}, world.now))
    assert world.reason("1.1") == reason


@pytest.mark.parametrize(("listed", "seconds"), [("cancelled", 2.5), ("failed: JobLaunchFailure", 6.0)])
def test_a_vague_listing_gives_accounting_more_time(world: World, listed: str, seconds: float) -> None:
    world.batch.lists_ended, world.batch.has_accounting = True, False
    world.scale(1)
    world.run()
    world.batch.end("1.1", reason=listed)
    world.pass_time(seconds - 1.5)
    assert world.states()["1.1"] == "queued"
    world.pass_time(1.5)
    assert world.states()["1.1"] == "ended"


def test_a_job_that_runs_without_a_worker_for_too_long_is_ended() -> None:
    world = World(Limits(startup=90.0), walltime=None)
    world.ledger.lifecycle.head_addresses = "10.1.0.1:40123, 10.2.0.1:40123"
    world.scale(1)
    world.run()
    world.batch.start("1.1", "node7")
    world.batch.jobs["1.1"].log = "trying 10.1.0.1\n"
    world.pass_time(89.0)
    assert world.states() == {"1.1": "starting"}
    world.pass_time(2.0)
    reason = world.reason("1.1")
    assert reason.startswith(
        "it runs on node7 but no worker connected within 90 s (the head listens at 10.1.0.1:40123,"
    )
    assert reason.endswith("its log ends: trying 10.1.0.1")
    assert world.batch.cancels == [("1.1",)]
    world.pass_time(3.0)
    assert world.live_ids() == ["2.1"]


def test_a_suspended_job_is_given_its_time() -> None:
    world = World(Limits(startup=90.0), walltime=None)
    world.scale(1)
    world.run()
    world.batch.start("1.1")
    world.pass_time(2.0)
    world.batch.jobs["1.1"].state = JobState.SUSPENDED
    world.pass_time(1000.0)
    assert world.states() == {"1.1": "starting"}


def test_a_job_whose_workers_went_silent_is_replaced(world: World) -> None:
    """Its node died; the batch system still calls the job running."""
    up(world, 1)
    world.pass_time(30.0)
    world.leave("1.1", reason="no heartbeat for 10 s")
    world.batch.undying.add("1.1")
    world.pass_time(world.ledger.limits.alone + 2.0)
    assert world.live_ids() == ["2.1"]
    assert world.states()["1.1"] == "draining"
    assert "may still be there" in world.reason("1.1")
    world.batch.undying.clear()
    world.pass_time(15.0)
    assert world.states()["1.1"] == "ended"
    assert "went silent and did not come back" in world.reason("1.1")


def test_a_batch_system_that_is_down_for_a_minute_costs_nothing(world: World) -> None:
    up(world, 1)
    world.scale(3)
    world.run()
    world.batch.is_down = True
    world.pass_time(60.0)
    assert len(world.batch.submissions) == 2
    reasons = {row.id: row.reason for row in world.ledger.rows(world.now)}
    assert "Grid Engine has not answered for" in reasons["2.1"]
    assert reasons["1.1"] == ""  # its worker is connected
    world.batch.is_down = False
    world.pass_time(20.0)
    assert len(world.batch.submissions) == 2
    assert world.live_ids() == ["1.1", "2.1", "2.2"]
    assert all("not answered" not in row.reason for row in world.ledger.rows(world.now))


def test_long_silence_is_a_failure_that_heals(world: World) -> None:
    world.scale(1)
    world.run()
    world.batch.is_down = True
    world.pass_time(1900.0)
    assert len(world.failures) == 1
    assert world.failures[0].startswith("Grid Engine has not answered for 00:30:")
    world.batch.is_down = False
    world.pass_time(20.0)
    assert not world.ledger.failure
    assert world.live_ids() == ["1.1"]


def test_a_refused_replacement_is_tried_again_and_again_and_then_given_up(world: World) -> None:
    up(world, 1)
    world.pass_time(20.0)
    world.batch.submit_error = "out of slots"
    world.batch.end("1.1", reason="walltime reached")
    world.leave("1.1")
    world.pass_time(60.0)
    assert not world.failures
    assert 4 <= world.count(c.Submit) <= 8
    world.batch.submit_error = ""
    world.pass_time(31.0)
    assert world.ledger.book.live_count() == 1
    world.batch.submit_error = "out of slots"
    world.batch.vanish("2.1")
    world.pass_time(3600.0)
    assert len(world.failures) == 1
    assert "refused to take jobs 24 times" in world.failures[0]
    assert "out of slots" in world.failures[0]


def test_a_refused_wish_is_taken_back(world: World) -> None:
    up(world, 2)
    world.scale(4)
    ticket = next(command.ticket for _, command in world.pending if isinstance(command, c.Submit))
    world.pending.clear()
    world.do(world.ledger.on_submit_failed(ticket, "no", world.now, wish=2))
    world.pass_time(100.0)
    assert world.live_ids() == ["1.1", "1.2"]
    assert len(world.batch.submissions) == 1


def test_shrinking_lets_queued_jobs_go_first_and_retires_running_ones(world: World) -> None:
    world.scale(3)
    world.run()
    world.batch.start("1.1")
    world.join("1.1")
    world.scale(0)
    assert (c.Cancel(("1.3", "1.2")) in world.log) or (c.Cancel(("1.2", "1.3")) in world.log)
    assert [one.id for one in world.log if isinstance(one, c.RetireWorkers)] == ["1.1"]
    world.run()
    assert world.batch.alive() == ["1.1"]  # its script has a moment to come to its end
    world.pass_time(world.ledger.limits.goodbye + 0.1)
    assert world.batch.alive() == []
    assert set(world.states().values()) == {"ended"}


def test_a_retired_job_that_ends_by_itself_is_not_cancelled(world: World) -> None:
    up(world, 1)
    world.scale(0)
    world.run()
    world.batch.end("1.1", 0)
    world.pass_time(10.0)
    assert world.batch.cancels == []
    assert world.reason("1.1").startswith("not wanted any more")


def test_workers_that_do_not_retire_in_time_are_cancelled(world: World) -> None:
    up(world, 1)
    world.scale(0)
    world.pending.clear()  # the retirement never ends
    world.pass_time(world.ledger.limits.retire + 5.0)
    assert world.batch.cancels == [("1.1",)]


def test_connected_jobs_are_hardly_asked_about(world: World) -> None:
    up(world, 3)
    world.pass_time(5.0)
    polls = len(world.batch.polls)
    world.pass_time(3600.0)
    assert 1 <= len(world.batch.polls) - polls <= 13


def test_one_listing_asks_for_all_jobs_with_a_growing_interval(world: World) -> None:
    world.scale(5)
    world.run()
    world.pass_time(600.0)
    assert set(world.batch.polls) == {("1.1", "1.2", "1.3", "1.4", "1.5")}
    assert len(world.batch.polls) < 60
    before = len(world.batch.polls)
    world.pass_time(150.0)
    assert 9 <= len(world.batch.polls) - before <= 10, "the cap, and a tenth more by chance"


def test_the_floor_of_the_interval_is_kept() -> None:
    world = World(Limits(poll_floor=5.0))
    world.scale(2)
    world.run()
    world.pass_time(4.9)
    assert world.batch.polls == []


def test_losing_the_last_worker_asks_soon(world: World) -> None:
    up(world, 1)
    world.pass_time(100.0)
    polls = len(world.batch.polls)
    world.leave("1.1")
    world.pass_time(0.3)
    assert len(world.batch.polls) == polls + 1


def test_a_waiting_job_says_why(world: World) -> None:
    world.scale(2)
    world.run()
    world.pass_time(6.0)
    assert {row.reason for row in world.ledger.rows(world.now)} == {"not enough free slots"}
    assert world.count(c.AskReason) == 1


def test_state_letters_are_no_reason_for_waiting(world: World) -> None:
    world.scale(1)
    world.run()
    world.batch.jobs["1.1"].reason = "hqw"
    world.pass_time(4.0)
    assert world.reason("1.1") == ""
    world.pass_time(2.0)
    assert world.reason("1.1") == "not enough free slots"
    world.batch.jobs["1.1"].reason = "jobs of higher priority go first (Priority)"
    world.pass_time(20.0)
    assert world.reason("1.1") == "jobs of higher priority go first (Priority)"
    asked = world.count(c.AskReason)
    world.pass_time(1000.0)
    assert world.count(c.AskReason) == asked


def test_a_worker_may_be_quicker_than_the_answer_to_its_submission(world: World) -> None:
    world.scale(2)
    world.join("1.2")
    assert [row.state for row in world.ledger.rows(world.now)] == ["up", "submitting"]
    assert [row.id for row in world.ledger.rows(world.now)] == ["1.2", ""]
    world.run()
    assert world.states() == {"1.2": "up", "1.1": "queued"}
    assert world.batch.cancels == []


def test_early_workers_of_two_submissions_do_not_confuse_the_count(world: World) -> None:
    world.scale(1)
    world.scale(2)
    world.join("2.1")  # it is of the second submission, but we cannot know
    world.run()
    world.pass_time(1.0)
    assert sorted(world.batch.alive()) == ["1.1", "2.1"]
    assert len(world.batch.submissions) == 2


def test_a_stale_listing_says_nothing(world: World) -> None:
    up(world, 1)
    asked_at = world.now - 0.5
    world.pass_time(1.0)
    world.leave("1.1")
    stale = {"1.1": JobStatus("1.1", JobState.ENDED, "gone")}
    world.do(world.ledger.on_status(stale, asked_at, world.now))
    assert world.ledger.jobs["1.1"].over_since is None


def test_a_job_put_back_in_the_queue_starts_anew(world: World) -> None:
    up(world, 1)
    world.pass_time(30.0)
    job = world.batch.jobs["1.1"]
    job.state, job.host, job.started, job.exit_code = JobState.QUEUED, "", None, None
    world.leave("1.1")
    world.pass_time(15.0)
    assert world.states() == {"1.1": "queued"}
    world.start_all()
    assert world.states() == {"1.1": "up"}


def test_a_listing_that_lags_behind_a_start_ticket_puts_nothing_back(world: World) -> None:
    world.scale(1)
    world.run()
    world.do(world.ledger.on_files({"1.1": JobFiles(world.now, "node7")}, world.now))
    world.pass_time(3.0)
    assert world.states() == {"1.1": "starting"}
    assert world.ledger.jobs["1.1"].host == "node7"


def test_late_accounting_betters_the_reason(world: World) -> None:
    world.scale(1)
    world.run()
    world.batch.start("1.1")
    world.pass_time(1.0)
    world.batch.vanish("1.1")
    world.pass_time(10.0)
    assert "it vanished" in world.reason("1.1")
    world.batch.jobs["1.1"].usage = JobUsage("1.1", "failed to open the log file /x")
    world.pass_time(20.0)
    assert world.reason("1.1") == "failed to open the log file /x"
    assert world.ledger.rows(world.now)[0].story[-1].endswith("accounting says: failed to open the log file /x")


@pytest.mark.parametrize("code", [0, 143])
def test_exit_codes_that_may_hide_a_cancellation_wait_for_accounting(world: World, code: int) -> None:
    up(world, 1)
    world.batch.has_accounting = False
    world.batch.end("1.1", code, reason="x")
    world.leave("1.1")
    world.pass_time(1.0)
    assert world.states()["1.1"] == "up"
    world.batch.jobs["1.1"].usage = JobUsage("1.1", "CANCELLED by 1001")
    world.pass_time(3.0)
    assert world.reason("1.1") == "cancelled from outside (CANCELLED by 1001)"


def test_a_job_whose_end_was_only_assumed_is_cancelled_lest_it_comes_back(world: World) -> None:
    world.scale(1)
    world.run()
    world.batch.jobs["1.1"].is_listed = False
    world.pass_time(10.0)
    assert world.batch.cancels == [("1.1",)]
    assert len(world.batch.alive()) == 1


def test_a_job_that_comes_back_is_counted_again(world: World) -> None:
    world.scale(1)
    world.run()
    world.batch.undying.add("1.1")
    world.batch.jobs["1.1"].is_listed = False
    world.pass_time(10.0)
    assert world.live_ids() == ["2.1"]
    world.batch.start("1.1")
    world.join("1.1")
    assert world.live_ids() == ["1.1"]  # it works already; the queued one goes
    assert "its end had only been assumed" in world.ledger.jobs["1.1"].story_lines()[-1]


def test_adopted_jobs_are_kept_and_watched(world: World) -> None:
    world.batch.submit(2)
    world.do(world.ledger.on_adopted(["1.1", "1.2"], world.now))
    world.pass_time(1.0)
    assert world.ledger.wish == 2
    assert world.batch.cancels == []
    world.start_all()
    assert world.states() == {"1.1": "up", "1.2": "up"}


def test_a_submission_answered_after_closing_is_still_cancelled(world: World) -> None:
    world.scale(2)
    world.do(world.ledger.on_close(world.now))
    world.run()
    assert world.ledger.book.to_cancel() == ["1.1", "1.2"]
    assert set(world.states().values()) == {"draining"}
    assert world.ledger.wake_at() is None


def test_the_table_of_a_long_life_stays_short() -> None:
    world = World(Limits(keep_ended=5))
    up(world, 1)
    for number in range(1, 30):
        world.pass_time(60.0)
        world.batch.end(f"{number}.1", reason="walltime reached")
        world.leave(f"{number}.1")
        world.pass_time(1.0)
        world.start_all()
    assert len(world.ledger.jobs) <= 7
    assert world.ledger.book.live_count() == 1


def test_journal_has_every_job_twice(world: World) -> None:
    up(world, 2)
    world.scale(0)
    world.pass_time(10.0)
    journal = [command for command in world.log if isinstance(command, c.Journal)]
    submitted = [i for command in journal if command.word == "submitted" for i in command.ids]
    ended = [i for command in journal if command.word == "ended" for i in command.ids]
    assert sorted(submitted) == sorted(ended) == ["1.1", "1.2"]


def test_a_flickering_listing_ends_no_job(world: World) -> None:
    world.scale(1)
    world.run()
    world.batch.start("1.1")
    for listed in [False, True] * 20:
        world.batch.jobs["1.1"].is_listed = listed
        polls = len(world.batch.polls)
        while len(world.batch.polls) == polls:
            world.tick()
            world.run()
        assert world.states() == {"1.1": "starting"} or not listed
    assert world.states()["1.1"] == "starting"


def test_an_exit_code_that_came_before_the_worker_left_ends_the_job_at_once(world: World) -> None:
    up(world, 1)
    world.batch.is_down = True
    world.do(world.ledger.on_files({"1.1": JobFiles(exit_code=1)}, world.now))
    assert world.states() == {"1.1": "up"}
    world.leave("1.1")
    world.pass_time(0.1)
    assert world.states()["1.1"] == "ended"


def test_a_job_is_not_judged_before_its_files_were_looked_at(world: World) -> None:
    """Accounting may be quicker than the next look, and knows less than the worker."""
    world.scale(1)
    world.run()
    world.batch.start("1.1")
    world.pass_time(30.0)
    world.batch.end("1.1", 1).gave_up = "could not reach the head"
    world.do(world.ledger.on_status(world.batch.poll(["1.1"]), world.now, world.now))
    world.do(world.ledger.on_usage(["1.1"], world.batch.usage(["1.1"]), world.now))
    assert world.states() == {"1.1": "starting"}
    world.pass_time(0.0)
    assert world.states() == {"1.1": "ended"}
    assert world.reason("1.1") == "the worker gave up: could not reach the head"


def test_questions_do_not_pile_up_on_a_slow_batch_system(world: World) -> None:
    world.scale(2)
    world.run()
    for _ in range(20):
        world.batch.now += 60.0
        world.ledger.watch.stir(world.now)
        world.do(world.ledger.on_clock(world.now))
    kinds = [type(command) for _, command in world.pending]
    assert sorted(kind.__name__ for kind in kinds) == ["AskReason", "LookAtFiles", "Poll"]


def test_submissions_are_limited_however_often_somebody_changes_his_mind(world: World) -> None:
    for _ in range(300):
        world.scale(2)
        world.run()
        world.scale(0)
        world.run()
        world.batch.now += 0.1
        world.do(world.ledger.on_clock(world.now))
    assert 10 < len(world.batch.submissions) <= 10 + 31, "half a minute"
    world.scale(3)
    world.pass_time(5)
    assert len(world.live_ids()) == 3, "what is wished for comes all the same"


def test_a_batch_system_that_is_down_is_asked_at_longer_and_uneven_intervals() -> None:
    times: list[list[float]] = []
    for seed in (1, 2):
        world = World(seed=seed)
        world.scale(1)
        world.run()
        world.batch.is_down = True
        asked: list[float] = []
        while len(asked) < 25:
            before = world.count(c.Poll)
            world.tick()
            world.run()
            asked += [world.now] * (world.count(c.Poll) - before)
        times.append(asked)
    for asked in times:
        waits = [after - before for before, after in pairwise(asked)]
        assert waits[0] < 1.0
        assert min(waits[-3:]) >= 15.0
        assert max(waits) <= 15.0 * 1.11
        assert len(set(waits[-3:])) == 3, "no two are the same"
    assert times[0] != times[1], "two clusters do not ask in step"


def test_why_a_job_was_put_back_is_told(world: World) -> None:
    up(world, 1)
    world.pass_time(30.0)
    world.drop_workers("1.1")
    world.batch.put_back("1.1")
    world.pass_time(15.0)
    assert world.states() == {"1.1": "queued"}
    assert [line.partition(" s ")[2] for line in world.ledger.jobs["1.1"].story_lines()[-2:]] == [
        "put back in the queue by the batch system",
        "why it was put back: its node failed (node1)",
    ]


def test_a_second_run_that_began_before_any_listing_said_so_is_told(world: World) -> None:
    up(world, 1)
    world.pass_time(30.0)
    world.drop_workers("1.1")
    world.batch.start("1.1", "node2")
    world.pass_time(1.0)
    job = world.ledger.jobs["1.1"]
    assert (str(job.state), job.host) == ("starting", "node2")
    assert 30.0 <= job.used_before < 33.0
    assert "its node failed" in "".join(job.story_lines())
    world.join("1.1")
    world.pass_time(5.0)
    assert world.live_ids() == ["1.1"]
    assert len(world.batch.submissions) == 1


def test_a_second_run_whose_workers_came_before_anything_said_so_is_told(world: World) -> None:
    up(world, 1)
    world.pass_time(30.0)
    world.drop_workers("1.1")
    world.batch.start("1.1", "node2")
    world.join("1.1")
    world.pass_time(1.0)
    job = world.ledger.jobs["1.1"]
    assert str(job.state) == "up"
    assert [line.partition(" s ")[2] for line in job.story_lines()[-2:]] == [
        "put back in the queue by the batch system, and it runs again",
        "why it was put back: its node failed (node1)",
    ]
    assert len(world.batch.submissions) == 1


def test_workers_that_only_lost_their_connection_are_no_second_run(world: World) -> None:
    up(world, 1)
    world.pass_time(30.0)
    world.drop_workers("1.1")
    world.join("1.1")
    world.pass_time(30.0)
    assert "put back" not in "".join(world.ledger.jobs["1.1"].story_lines())


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_job_that_was_told_to_end_and_put_back_is_not_run_again(world: World, is_listed: bool) -> None:
    """Before ``qmod -rj`` there is a notice, as before an end; another job is in its place by then."""
    up(world, 1)
    world.pass_time(30.0)
    world.do(world.ledger.on_job_ends("1.1", 1000.0, "SIGUSR2", world.now))
    world.drop_workers("1.1")
    if is_listed:
        world.batch.put_back("1.1")
    else:
        world.batch.start("1.1", "node2")
        world.batch.now += 20.0
        world.batch.start("1.1", "node2")
    world.pass_time(15.0)
    assert world.live_ids() == ["2.1"]
    assert world.states()["1.1"] == "ended"
    assert world.batch.cancels == [("1.1",)]
    story = "".join(world.ledger.jobs["1.1"].story_lines())
    assert story.count("put back in the queue by the batch system, and cancelled") == 1
    assert "why it was put back: its node failed (node1)" in story
    assert "from outside" not in story
    assert world.reason("1.1").startswith("put back in the queue by the batch system, and not run again")


def told_to_end(world: World, exit_code: int) -> None:
    """The batch system sends a notice, and the job ends by itself before a listing says more."""
    world.do(world.ledger.on_job_ends("1.1", 1000.0, "SIGUSR2", world.now))
    world.drop_workers("1.1")
    world.batch.jobs["1.1"].exit_code = exit_code
    world.do(world.ledger.on_files({"1.1": JobFiles(world.now - 30, "node1", exit_code)}, world.now))


def test_a_job_that_ended_before_it_was_seen_to_be_put_back_is_told_of_rightly_and_cancelled(world: World) -> None:
    up(world, 1)
    world.pass_time(30.0)
    told_to_end(world, 0)
    world.batch.put_back("1.1")
    assert world.states()["1.1"] == "ended"
    world.run()
    world.pass_time(5.0)
    assert world.reason("1.1").startswith("put back in the queue by the batch system, and not run again")
    story = "".join(world.ledger.jobs["1.1"].story_lines())
    assert "why it was put back: its node failed (node1)" in story
    assert "from outside" not in story
    assert world.batch.cancels == [("1.1",)], "it must not run again"
    assert world.batch.alive() == world.live_ids() == ["2.1"]


def test_a_job_that_was_told_to_end_and_is_gone_was_cancelled_from_outside(world: World) -> None:
    up(world, 1)
    world.pass_time(30.0)
    told_to_end(world, 0)
    world.batch.end("1.1", 0)
    world.run()
    world.pass_time(5.0)
    assert world.reason("1.1") == "cancelled from outside: the batch system told it to end (SIGUSR2)"
    assert world.live_ids() == ["2.1"]


def test_a_second_life_that_is_told_to_end_is_not_taken_for_put_back_again(world: World) -> None:
    up(world, 1)
    world.pass_time(30.0)
    world.drop_workers("1.1")
    world.batch.put_back("1.1")
    world.pass_time(15.0)
    world.start_all()
    world.pass_time(30.0)
    told_to_end(world, 0)
    world.batch.end("1.1", 0)
    world.run()
    world.pass_time(5.0)
    assert world.reason("1.1") == "the batch system told it to end (SIGUSR2)"


def test_accounting_of_a_job_that_never_ran_says_so(world: World) -> None:
    world.scale(1)
    world.run()
    world.batch.end("1.1", reason="cancelled by qdel")
    world.pass_time(5.0)
    assert world.ledger.jobs["1.1"].story_lines()[-1].endswith("accounting: it never ran")


@pytest.mark.parametrize("is_stuck", [True, False])
def test_a_job_that_is_in_the_queue_again_after_its_end_is_cancelled(is_stuck: bool) -> None:
    """Grid Engine puts a job back for exit code 99, and into an error state for 100."""
    world = World()
    world.scale(1)
    world.run()
    (job_id,) = world.batch.jobs
    world.batch.start(job_id)
    world.batch.end(job_id, 100)
    world.batch.put_back(job_id)
    world.batch.jobs[job_id].is_listed = True
    if is_stuck:
        world.batch.stick(job_id)
    world.pass_time(60.0)
    assert world.states()[job_id] == "ended"
    assert job_id in [one for command in world.log if isinstance(command, c.Cancel) for one in command.ids]
    assert not world.batch.jobs[job_id].is_alive


def test_a_job_that_is_over_is_not_asked_for_for_ever() -> None:
    world = World()
    world.scale(1)
    world.run()
    (job_id,) = world.batch.jobs
    world.batch.start(job_id)
    world.batch.end(job_id, 0)
    world.scale(0)
    world.pass_time(900.0)
    before = len(world.batch.polls)
    world.pass_time(3600.0)
    assert len(world.batch.polls) == before


@pytest.mark.parametrize("ahead", [3 * 86400.0, -3 * 86400.0, 30.0])
def test_a_start_file_by_a_clock_that_is_off_is_not_taken_for_another_run(world: World, ahead: float) -> None:
    """The worker connects before the head sees the start file, whose time is the node's."""
    world.scale(1)
    world.run()
    world.batch.start("1.1")
    world.join("1.1")
    world.do(world.ledger.on_clock_told("1.1", "node1", ahead, world.now))
    world.do(world.ledger.on_files({"1.1": JobFiles(world.now + ahead - 1, "node1")}, world.now))
    world.join("1.1", "w1")
    world.do(world.ledger.on_clock_told("1.1", "node1", ahead, world.now))
    story = "\n".join(world.ledger.jobs["1.1"].story_lines())
    assert "put back" not in story
    assert story.count("the clock of node1 is 3.0 days") == (abs(ahead) > 60)
    world.leave("1.1", "w1")
    world.pass_time(60.0)
    assert world.states()["1.1"] == "up"
