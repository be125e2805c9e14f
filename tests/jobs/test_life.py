"""Whatever happens to jobs, and in whatever order its answers come: the wish is kept, or a failure is reported."""

from __future__ import annotations

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hpclaunch.batch.base import JobState
from hpclaunch.jobs import commands as c
from hpclaunch.jobs.job import State
from hpclaunch.jobs.reasons import Kind
from tests.jobs.world import World

WISHES = st.integers(0, 5)
PICK = st.integers(0, 1000)


class Life(RuleBasedStateMachine):
    """Jobs start, die, stick and vanish; commands are answered late and in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(walltime=None)
        self.seen = 0

    # --- the user

    @initialize(wish=st.integers(1, 5))
    def begin(self, wish: int) -> None:
        self.world.scale(wish)
        self.world.run()

    @rule(wish=WISHES)
    def scale(self, wish: int) -> None:
        self.world.scale(wish)

    # --- the shell

    @precondition(lambda self: self.world.pending)
    @rule(pick=PICK)
    def run_a_command(self, pick: int) -> None:
        self.world.run_one(pick % len(self.world.pending))

    @rule(ticks=st.integers(1, 8))
    def follow(self, ticks: int) -> None:
        """The shell keeps up: all commands are answered, and some deadlines pass."""
        for _ in range(ticks):
            self.world.run()
            self.world.tick()

    @rule()
    def tick(self) -> None:
        self.world.tick()

    @rule(seconds=st.sampled_from([0.0, 0.3, 2.0, 15.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.world.batch.now += seconds
        self.world.do(self.world.ledger.on_clock(self.world.now))

    # --- the batch system

    def _has(self, *states: JobState) -> bool:
        return any(job.state in states for job in self.world.batch.jobs.values())

    def _pick(self, pick: int, *states: JobState) -> str | None:
        ids = [job.id for job in self.world.batch.jobs.values() if job.state in states]
        return ids[pick % len(ids)] if ids else None

    @precondition(lambda self: self._has(JobState.QUEUED))
    @rule(pick=PICK)
    def job_starts(self, pick: int) -> None:
        if job_id := self._pick(pick, JobState.QUEUED):
            self.world.batch.start(job_id)

    @precondition(lambda self: self._has(JobState.RUNNING))
    @rule(pick=PICK, worker=st.sampled_from(["w0", "w1"]))
    def worker_joins(self, pick: int, worker: str) -> None:
        if job_id := self._pick(pick, JobState.RUNNING):
            self.world.join(job_id, worker)

    @precondition(lambda self: self._has(JobState.RUNNING))
    @rule(pick=PICK, worker=st.sampled_from(["w0", "w1"]))
    def worker_leaves(self, pick: int, worker: str) -> None:
        if job_id := self._pick(pick, JobState.RUNNING):
            self.world.leave(job_id, worker)

    @precondition(lambda self: self._has(JobState.RUNNING))
    @rule(pick=PICK, code=st.sampled_from([0, 1, 127, 137]))
    def job_ends(self, pick: int, code: int) -> None:
        if job_id := self._pick(pick, JobState.RUNNING):
            self._end(job_id, lambda: self.world.batch.end(job_id, code))

    @precondition(lambda self: self._has(JobState.RUNNING, JobState.QUEUED))
    @rule(pick=PICK, said=st.sampled_from(["walltime reached", "cancelled by qdel", "killed: memory", ""]))
    def job_is_killed(self, pick: int, said: str) -> None:
        if job_id := self._pick(pick, JobState.RUNNING, JobState.QUEUED):
            self._end(job_id, lambda: self.world.batch.end(job_id, reason=said))

    @precondition(lambda self: self._has(JobState.RUNNING, JobState.QUEUED))
    @rule(pick=PICK)
    def job_vanishes(self, pick: int) -> None:
        if job_id := self._pick(pick, JobState.RUNNING, JobState.QUEUED):
            self._end(job_id, lambda: self.world.batch.vanish(job_id))

    @precondition(lambda self: self._has(JobState.QUEUED))
    @rule(pick=PICK)
    def job_is_stuck(self, pick: int) -> None:
        if job_id := self._pick(pick, JobState.QUEUED):
            self.world.batch.stick(job_id)

    @precondition(lambda self: self._has(JobState.RUNNING))
    @rule(pick=PICK)
    def job_is_put_back(self, pick: int) -> None:
        if job_id := self._pick(pick, JobState.RUNNING):
            self.world.drop_workers(job_id)
            self.world.batch.put_back(job_id)

    @precondition(lambda self: self._has(JobState.RUNNING))
    @rule(pick=PICK, is_put_back=st.booleans(), is_noted=st.booleans())
    def job_is_told_to_end(self, pick: int, is_put_back: bool, is_noted: bool) -> None:
        """A notice comes, the job ends by itself, and may be put back in the queue."""
        job_id = self._pick(pick, JobState.RUNNING)
        if job_id is None:
            return
        world, batch = self.world, self.world.batch
        world.do(world.ledger.on_job_ends(job_id, 1000.0, "SIGUSR2", world.now))
        world.drop_workers(job_id)
        batch.end(job_id, 0 if is_noted else None)
        if is_put_back:
            batch.put_back(job_id)
            batch.jobs[job_id].is_listed = True

    @rule(is_down=st.booleans(), refuses=st.booleans(), lists_ended=st.booleans(), accounting=st.booleans())
    def fault(self, is_down: bool, refuses: bool, lists_ended: bool, accounting: bool) -> None:
        batch = self.world.batch
        batch.is_down, batch.submit_error = is_down, "no" if refuses else ""
        batch.lists_ended, batch.has_accounting = lists_ended, accounting

    @precondition(lambda self: self._has(JobState.RUNNING, JobState.QUEUED))
    @rule(pick=PICK)
    def listing_loses_a_job(self, pick: int) -> None:
        if job_id := self._pick(pick, JobState.RUNNING, JobState.QUEUED):
            self.world.batch.jobs[job_id].is_listed = False

    def _end(self, job_id: str, how: object) -> None:
        assert callable(how)
        how()
        self.world.drop_workers(job_id)

    # --- promises

    @invariant()
    def sound(self) -> None:
        self.world.ledger.check()

    @invariant()
    def nothing_wanted_is_cancelled(self) -> None:
        ledger = self.world.ledger
        for command in self.world.log[self.seen :]:
            ids = command.ids if isinstance(command, c.Cancel) else ()
            ids += (command.id,) if isinstance(command, c.RetireWorkers) else ()
            for job_id in ids:
                job = ledger.jobs[job_id]
                assert job.state in (State.DRAINING, State.ENDED)
                assert job.doom is None or job.doom.kind in (Kind.CANCELLED, Kind.STUCK, Kind.SILENT, Kind.OUTSIDE)
        self.seen = len(self.world.log)

    def teardown(self) -> None:
        """All faults are mended, every job that can start does, and there is time enough."""
        world = self.world
        batch = world.batch
        batch.is_down, batch.submit_error, batch.has_accounting = False, "", True
        for job in batch.jobs.values():
            job.is_listed = job.is_alive or batch.lists_ended
        for _ in range(200):
            world.start_all()
            for job in batch.jobs.values():
                known = world.ledger.jobs.get(job.id)
                if job.state is JobState.RUNNING and known is not None and not known.workers:
                    world.join(job.id)
            world.pass_time(15.0)
        assert not world.pending
        wish = world.ledger.wish
        if world.ledger.failure:
            assert world.failures
            assert world.ledger.book.live_count() <= wish
        else:
            assert world.ledger.book.live_count() == wish, world.states()
        assert sorted(world.live_ids()) == sorted(batch.alive()), (world.states(), batch.jobs)
        assert "draining" not in world.states().values()
        assert not world.ledger.book.tickets
        for row in world.ledger.rows(world.now):
            assert row.state != "ended" or (row.reason and any("ended: " in line for line in row.story))
        self._close()

    def _close(self) -> None:
        """Closing leaves no job in the batch system and nothing more to do."""
        world = self.world
        world.do(world.ledger.on_close(world.now))
        ids = world.ledger.book.to_cancel()
        world.batch.cancel(ids)
        world.do(world.ledger.on_cancelled(ids, world.now))
        assert world.batch.alive() == []
        assert not list(world.ledger.book.alive())
        assert world.ledger.wake_at() is None


Life.TestCase.settings = settings(max_examples=settings().max_examples * 5 // 2, stateful_step_count=50)
TestLife = Life.TestCase
