"""A ledger and a fake batch system in one made-up time: runs the ledger's commands when told to."""

from __future__ import annotations

from random import Random

from hpclaunch.batch.base import JobState
from hpclaunch.errors import CancelError, CommandError, SubmitError
from hpclaunch.jobs import commands as c
from hpclaunch.jobs.job import JobFiles, Limits, State
from hpclaunch.jobs.ledger import Ledger
from hpclaunch.jobs.reasons import Terms
from tests.jobs.fake_queue import FakeBatch

TERMS = Terms(title="Grid Engine", walltime=60, memory=10**9, python="/opt/env/bin/python")


class World:
    """``do(commands)`` queues commands, ``run()`` runs them; ``pass_time`` jumps from deadline to deadline."""

    def __init__(self, limits: Limits | None = None, *, walltime: int | None = 60, seed: int = 1) -> None:
        self.batch = FakeBatch()
        terms = Terms(title=TERMS.title, walltime=walltime, memory=TERMS.memory, python=TERMS.python)
        self.ledger = Ledger(terms, Random(seed), limits)
        self.pending: list[tuple[float, c.Command]] = []  # with the time of issue
        self.log: list[c.Command] = []
        self.failures: list[str] = []
        self.seen_files: dict[str, JobFiles] = {}

    @property
    def now(self) -> float:
        return self.batch.now

    # --- facts

    def scale(self, wish: int) -> None:
        self.do(self.ledger.on_scale(wish, self.now))

    def join(self, job_id: str, worker: str = "w0") -> None:
        self.do(self.ledger.on_worker_joined(job_id, f"{job_id}/{worker}", "node1", "10.1.0.1:40123", self.now))

    def leave(self, job_id: str, worker: str = "w0", reason: str = "connection lost") -> None:
        self.do(self.ledger.on_worker_left(job_id, f"{job_id}/{worker}", reason, self.now))

    def drop_workers(self, job_id: str) -> None:
        """All connections to a job's workers end."""
        job = self.ledger.jobs.get(job_id)
        for worker in sorted(job.workers) if job else ():
            self.do(self.ledger.on_worker_left(job_id, worker, "lost", self.now))

    def start_all(self) -> None:
        """Every queued job starts, and a worker of it connects."""
        for job_id in self.batch.queued():
            self.batch.start(job_id)
            self.join(job_id)

    # --- commands

    def do(self, commands: list[c.Command]) -> None:
        self.ledger.check()
        for command in commands:
            self.log.append(command)
            if isinstance(command, c.ReportFailure):
                self.failures.append(command.text)
            elif not isinstance(command, c.Journal):
                self.pending.append((self.now, command))

    def run(self) -> None:
        """Run all commands, and those that follow from them."""
        while self.pending:
            self.run_one(0)

    def run_one(self, place: int) -> None:
        asked_at, command = self.pending.pop(place)
        self.do(self._answer(command, asked_at))

    def _answer(self, command: c.Command, asked_at: float) -> list[c.Command]:
        ledger, batch, now = self.ledger, self.batch, self.now
        match command:
            case c.Submit(ticket, count):
                try:
                    return ledger.on_submitted(ticket, batch.submit(count), now)
                except SubmitError as error:
                    return ledger.on_submit_failed(ticket, str(error), now)
            case c.Poll(ids):
                try:
                    return ledger.on_status(batch.poll(ids), now, now)
                except CommandError as error:
                    return ledger.on_status_failed(str(error), now)
            case c.Cancel(ids):
                return self._cancel(ids)
            case _:
                return self._answer_question(command)

    def _cancel(self, ids: tuple[str, ...]) -> list[c.Command]:
        """Cancel; workers of a job that is gone are gone, too."""
        error = ""
        try:
            self.batch.cancel(ids)
        except CancelError as caught:
            error = str(caught)
        for job_id in ids:
            if not self.batch.jobs[job_id].is_alive:
                self.drop_workers(job_id)
        if error:
            return self.ledger.on_cancel_failed(ids, error, self.now)
        return self.ledger.on_cancelled(ids, self.now)

    def _answer_question(self, command: c.Command) -> list[c.Command]:
        ledger, batch, now = self.ledger, self.batch, self.now
        match command:
            case c.AskUsage(ids):
                try:
                    return ledger.on_usage(ids, batch.usage(ids), now)
                except CommandError:
                    return ledger.on_usage(ids, {}, now)
            case c.AskReason(job_id):
                try:
                    return ledger.on_reason(job_id, batch.explain(job_id), now)
                except CommandError:
                    return ledger.on_reason(job_id, "", now)
            case c.AskPutBack(job_id):
                return ledger.on_put_back(job_id, "its node failed (node1)" * (job_id in batch.put_backs), now)
            case c.LookAtFiles():
                return ledger.on_files(self._new_files(), now)
            case c.ReadLog(job_id):
                return ledger.on_log(job_id, f"/run/logs/{job_id}.log", batch.jobs[job_id].log, now)
            case c.RetireWorkers(job_id, _, _, _):
                for worker in sorted(ledger.jobs[job_id].workers):
                    self.do(ledger.on_worker_left(job_id, worker, "retired", now))
                return ledger.on_retired(job_id, now)
        raise AssertionError(command)

    def _new_files(self) -> dict[str, JobFiles]:
        found = {job.id: job.files() for job in self.batch.jobs.values() if job.files() != JobFiles()}
        new = {job_id: files for job_id, files in found.items() if self.seen_files.get(job_id) != files}
        self.seen_files.update(new)
        return new

    # --- time

    def tick(self) -> bool:
        """Go to the next deadline, and run what is due. False if there is none."""
        wake = self.ledger.wake_at()
        if wake is None:
            return False
        self.batch.now = max(self.now, wake)
        self.do(self.ledger.on_clock(self.now))
        return True

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass, running everything that falls due."""
        end = self.now + seconds
        self.run()
        for _ in range(3000):
            wake = self.ledger.wake_at()
            if wake is None or wake > end:
                self.batch.now = end
                return
            self.tick()
            self.run()
        raise AssertionError("the ledger does not come to rest")

    # --- questions

    def states(self) -> dict[str, str]:
        return {job.id: str(job.state) for job in self.ledger.jobs.values()}

    def live_ids(self) -> list[str]:
        return [job.id for job in self.ledger.jobs.values() if job.is_live]

    def reason(self, job_id: str) -> str:
        return self.ledger.jobs[job_id].reason

    def count(self, kind: type[c.Command]) -> int:
        return sum(isinstance(command, kind) for command in self.log)


__all__ = ["TERMS", "JobState", "State", "World"]
