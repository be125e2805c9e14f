"""The scheduler's shell, on one loop: peers over memory, workers in threads of this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hpclaunch.comm import messages as m, serialize
from hpclaunch.comm.framing import Frame
from hpclaunch.comm.memory import memory_pair
from hpclaunch.errors import HandshakeError, JobsFailedError
from hpclaunch.scheduler import heartbeats, invariants, server as server_module
from hpclaunch.scheduler.server import SchedulerServer
from hpclaunch.worker.inprocess import start_inprocess_worker
from hpclaunch.worker.server import WorkerServer
from tests.client import work

Run = Callable[[Callable[[SchedulerServer], Coroutine[Any, Any, None]]], None]


class Peer:
    """A client or worker over memory that says what the test wants."""

    def __init__(self, server: SchedulerServer, role: str = "client", name: str = "", **facts: Any) -> None:
        self.comm, theirs = memory_pair(name or role, "head")
        self.comm.on_frames = self._on_frames
        self.comm.on_lost = self._on_lost
        self.heard: list[m.Message] = []
        self.buffers: list[bytes] = []
        self.lost = ""
        self._news = asyncio.Event()
        hello = m.Hello(m.PROTOCOL_VERSION, role, name or f"a {role}", server.cluster_id, **facts)
        self.welcome = server.on_peer(theirs, hello)

    def _on_frames(self, comm: Any, frames: list[Frame]) -> None:
        for frame in frames:
            self.heard += frame.messages
            self.buffers += [bytes(b) for b in frame.buffers]
        self._news.set()

    def _on_lost(self, comm: Any, reason: str) -> None:
        self.lost = reason
        self._news.set()

    async def hear(self, kind: type, count: int = 1) -> Any:
        """Wait for the ``count``-th message of a kind."""
        while True:
            some = [message for message in self.heard if type(message) is kind]
            if len(some) >= count:
                return some[count - 1]
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 10)

    async def end(self) -> str:
        while not self.lost:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 10)
        return self.lost

    def submit(self, function: Callable[..., Any], *calls: tuple[Any, ...], prefix: str = "k") -> list[str]:
        sent = serialize.dump_function(function)
        self.comm.send(m.DefineFunction(sent.id, sent.name, sent.data))
        keys = [f"{prefix}{i}" for i in range(len(calls))]
        args = [serialize.dump_call(call, None)[0] for call in calls]
        self.comm.send(m.SubmitTasks(sent.id, keys, args))
        return keys


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in threads, or has no event
        await asyncio.sleep(0.001)


async def ticks(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def run() -> Run:
    """Run a scene around a scheduler; anything that a callback raises fails the test."""

    def start(scene: Callable[[SchedulerServer], Coroutine[Any, Any, None]]) -> None:
        raised: list[Any] = []

        async def whole() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: raised.append(context))
            server = SchedulerServer("ours", on_request=_answer)
            try:
                await asyncio.wait_for(scene(server), 20)
                invariants.check(server.reactor.state)
            finally:
                await server.close("the test is over")
                await ticks()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())
        assert not raised, raised

    return start


async def _answer(method: str, params: dict[str, Any]) -> Any:
    if method == "fail":
        raise JobsFailedError("no jobs")
    if method == "bug":
        raise KeyError("oops")
    return {method: params}


# --- tasks through threads of this process


def test_tasks_run_in_threads_of_this_process(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        worker = await start_inprocess_worker(server, name="w", threads=2)
        client = Peer(server)
        client.submit(threading.get_ident, (), ())
        done = await client.hear(m.TasksDone)
        assert serialize.load_value(done.results[0]) != threading.get_ident()
        assert [info.name for info in server.workers()] == ["w"]
        await worker.close()
        await ticks()
        assert server.workers() == []

    run(scene)


def test_large_results_are_fetched_through_the_head(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        await start_inprocess_worker(server, name="w", threads=1)
        client = Peer(server)
        client.submit(work.big, (200_000,))
        stored = await client.hear(m.TasksStored)
        assert stored.holders == [["worker:w"]]
        client.comm.send(m.Fetch(7, ["k0"], "worker:w"))
        data = await client.hear(m.Data)
        assert data.request == 7
        assert serialize.load_value(client.buffers[0]) == work.big(200_000)
        client.comm.send(m.Fetch(8, ["gone"], "worker:w"))
        client.comm.send(m.Fetch(9, ["k0"], "worker:none"))
        assert {(await client.hear(m.Data, i)).buffers for i in (2, 3)} == {-1}

    run(scene)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_drained_worker_always_ends(run: Run, threads: int) -> None:
    """The last thread may be busy for a moment longer than its outcome."""

    async def scene(server: SchedulerServer) -> None:
        client = Peer(server)
        for i in range(20):
            worker = await start_inprocess_worker(server, name=f"w{i}", threads=threads, job_id=f"job{i}")
            keys = client.submit(work.inc, *[(n,) for n in range(30)], prefix=f"r{i}-")
            await ticks(i)
            await server.retire_job(f"job{i}", drain=True, reason="enough")
            assert await asyncio.wait_for(worker.ended, 10) == "enough"
            client.comm.send(m.ReleaseKeys(keys))
            await ticks()
        assert not server.reactor.state.tasks

    run(scene)


def test_draining_waits_for_what_runs_and_gives_back_the_rest(run: Run, tmp_path: Path) -> None:
    async def scene(server: SchedulerServer) -> None:
        worker = await start_inprocess_worker(server, name="w", threads=1)
        client = Peer(server)
        client.submit(
            work.note_and_wait, *[(str(tmp_path / "notes"), str(tmp_path / "gate"), i) for i in range(2)]
        )
        await until(lambda: work.times_called(tmp_path / "notes"))
        retiring = asyncio.ensure_future(server.retire_job("inprocess", drain=True, reason="enough"))
        await until(lambda: server.reactor.state.ready.count == 1)
        assert not worker.ended.done()
        (tmp_path / "gate").touch()
        await retiring
        done = await client.hear(m.TasksDone)
        assert serialize.load_value(done.results[0]) == 0
        assert server.load().tasks_ready == 1

    run(scene)


def test_a_fetch_that_breaks_in_any_way_is_still_answered(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(server: SchedulerServer) -> None:
        worker: WorkerServer = await start_inprocess_worker(server, name="w", threads=1)
        other = Peer(server, "worker", "other", threads=1, job_id="j", addresses=["nowhere"])
        client = Peer(server)
        sent = serialize.dump_function(work.length)
        client.comm.send(m.DefineFunction(sent.id, sent.name, sent.data))
        server.reactor.on_worker_draining("w")
        client.comm.send(m.SubmitTasks(sent.id, ["a"], [serialize.dump_call((b"",), None)[0]]))
        await other.hear(m.RunTasks)
        other.comm.send(m.TasksStored(["a"], [10], [0.1]))
        await client.hear(m.TasksStored)

        async def broken(holders: Any, key: str) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(worker._fetcher, "fetch", broken)
        heard: list[m.Message] = []
        monkeypatch.setattr(worker, "_send", heard.append)
        worker._reactor.on_function_defined(sent.id, None)
        worker._reactor.on_task_sent(m.RunTask(sent.id, "b", b"", [m.Input("a", None, ["nowhere"])]))
        worker._carry_out()
        await until(lambda: heard)
        assert heard == [m.InputMissing("b", ["a"], ["nowhere"])]

    run(scene)


# --- who comes in


def test_names_are_taken_once(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        first = Peer(server, "client", "me")
        Peer(server, "worker", "w", threads=1)
        for role, name in (("client", "me"), ("worker", "w")):
            with pytest.raises(HandshakeError, match=f"a {role} named {name} is connected already"):
                Peer(server, role, name)
        with pytest.raises(HandshakeError, match="no use for a peer"):
            Peer(server, "peer", "p")
        first.comm.close()
        await ticks()
        Peer(server, "client", "me")

    run(scene)


def test_a_supervisor_that_comes_again_takes_its_own_place(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        first = Peer(server, "supervisor", "s", job_id="1", host="node1", pid=7)
        second = Peer(server, "supervisor", "s", job_id="1", host="node1", pid=7)
        assert await first.end() == "another connection of this supervisor has come"
        second.comm.send(m.Heartbeat([m.WorkerVitals("w", 1, 2, 3.0)]))
        await second.hear(m.Heartbeat)

    run(scene)


def test_of_two_runs_of_a_job_the_older_one_ends(run: Run) -> None:
    """A batch system has put the job back, and its first run is still there when the second one comes."""

    async def scene(server: SchedulerServer) -> None:
        client = Peer(server)
        older = Peer(server, "supervisor", "s", job_id="1", host="node1", pid=7)
        its_worker = Peer(server, "worker", "1-0", job_id="1", host="node1", threads=1)
        client.submit(work.inc, (1,))
        await its_worker.hear(m.RunTasks)
        newer = Peer(server, "supervisor", "s", job_id="1", host="node2", pid=7)
        why = "job 1 was put back, and runs again on node2"
        assert (await older.hear(m.StopWorkers)).reason == why
        assert await its_worker.end() == why
        older.comm.send(m.JobEnding("SIGUSR2"))
        older.comm.send(m.Goodbye(why))
        await ticks()
        worker = Peer(server, "worker", "1-0", job_id="1", host="node2", threads=1)
        assert (await worker.hear(m.RunTasks)).keys == ["k0"]
        assert not server.reactor.state.workers["1-0"].refuses
        with pytest.raises(HandshakeError, match=why):
            Peer(server, "supervisor", "s", job_id="1", host="node1", pid=7)
        newer.comm.send(m.Heartbeat([m.WorkerVitals("1-0", 1, 2, 3.0)]))
        await newer.hear(m.Heartbeat)

    run(scene)


def test_who_belongs_to_a_job_that_is_to_end_is_sent_away(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        await server.retire_job("1", drain=False, reason="scaled down")
        for role in ("worker", "supervisor"):
            with pytest.raises(HandshakeError, match="job 1 is to end: scaled down"):
                Peer(server, role, "x", job_id="1", threads=1)

    run(scene)


def test_a_worker_without_threads_counts_as_one(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        Peer(server, "worker", "w", threads=0)
        assert server.load().threads == 1

    run(scene)


# --- what cannot be


@pytest.mark.parametrize(
    "message",
    [
        m.SubmitTasks(b"unknown", ["k"], [b""]),
        m.SubmitTasks(b"f", ["a", "b"], [b""]),
        m.SubmitTasks(b"f", ["a", "b"], [b"", b""], [["x"]]),
    ],
    ids=["unknown function", "too few args", "too few inputs"],
)
def test_a_client_that_says_what_cannot_be_is_dropped_and_leaves_nothing(run: Run, message: m.Message) -> None:
    async def scene(server: SchedulerServer) -> None:
        bad, good = Peer(server, "client", "bad"), Peer(server, "client", "good")
        bad.comm.send(m.DefineFunction(b"f", "f", b""))
        bad.comm.send(message)
        await bad.end()
        await ticks()
        invariants.check(server.reactor.state)
        assert not server.reactor.state.tasks
        good.submit(work.inc, (1,))
        await start_inprocess_worker(server, name="w", threads=1)
        await good.hear(m.TasksDone)

    run(scene)


def test_words_of_the_wrong_role_do_nothing(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        client = Peer(server)
        for message in (m.TasksDone(["k"], [b""], [0.1]), m.RunTasks(b"f", [], []), m.Hello(1, "x", "y", "z")):
            client.comm.send(message)
        client.comm.send(m.Request(1, "echo", b"\x80"))
        await client.hear(m.Reply)
        assert not client.lost

    run(scene)


def test_a_worker_that_answers_for_what_it_never_had(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        worker = Peer(server, "worker", "w", threads=1)
        worker.comm.send(m.TasksDone(["never"], [b""], [0.1]))
        worker.comm.send(m.TasksStored(["never"], [10], [0.1]))
        worker.comm.send(m.TasksReturned(["never"]))
        worker.comm.send(m.InputMissing("never", ["ever"], []))
        worker.comm.send(m.CopiesHeld(["never"], [1]))
        freed = await worker.hear(m.FreeResults, 2)
        assert freed.keys == ["never"]
        invariants.check(server.reactor.state)

    run(scene)


def test_a_worker_with_broken_columns_is_dropped_and_its_tasks_run_elsewhere(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(server: SchedulerServer) -> None:
        monkeypatch.setattr(server_module, "BLAME_SECONDS", 0.01)
        client, worker = Peer(server), Peer(server, "worker", "w", threads=1)
        client.submit(work.inc, (1,), (2,))
        await worker.hear(m.RunTasks)
        worker.comm.send(m.TasksDone(["k0", "k1"], [b""], [0.1]))
        await worker.end()
        await start_inprocess_worker(server, name="w2", threads=1)
        done = await client.hear(m.TasksDone)
        assert done.keys == ["k0", "k1"]

    run(scene)


# --- control


def test_requests_are_answered_with_values_or_errors(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        client = Peer(server)
        client.comm.send(m.Request(1, "echo", b"\x81\xa1a\x01"))
        client.comm.send(m.Request(2, "fail", b"\x80"))
        client.comm.send(m.Request(3, "bug", b"\x80"))
        client.comm.send(m.Request(4, "echo", b"\xc1"))
        replies = {(await client.hear(m.Reply, i)).request: await client.hear(m.Reply, i) for i in (1, 2, 3, 4)}
        assert replies[1].body == b"\x81\xa4echo\x81\xa1a\x01"
        assert replies[2].error == m.ErrorReport("JobsFailedError", "no jobs")
        assert replies[3].error.text == "KeyError: 'oops'"
        assert replies[4].error is not None

    run(scene)


def test_clients_are_told_of_a_failure_now_later_and_until_somebody_tries_again(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        early = Peer(server, "client", "early")
        server.notices.notify(JobsFailedError("no jobs"))
        assert (await early.hear(m.Notice)).error.text == "no jobs"
        late = Peer(server, "client", "late")
        await late.hear(m.Notice)
        server.notices.forgive()
        latest = Peer(server, "client", "latest")
        await ticks()
        assert not latest.heard

    run(scene)


def test_load_counts_what_there_is_to_do_and_not_what_was_done(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        client = Peer(server)
        worker = Peer(server, "worker", "w", threads=1, job_id="j")
        client.submit(work.inc, *[(i,) for i in range(5)])
        client.comm.send(m.SubmitTasks(serialize.dump_function(work.inc).id, ["after"], [b""], [["k4"]]))
        await worker.hear(m.RunTasks)
        load = server.load()
        assert (load.tasks_waiting, load.tasks_ready, load.tasks_assigned) == (1, 3, 2)
        assert load.busy_jobs == {"j": 2}
        worker.comm.send(m.TasksDone(["k0"], [b""], [0.1]))
        worker.comm.send(m.TasksStored(["k1"], [1000], [0.1]))
        await client.hear(m.TasksStored)
        load = server.load()
        assert (load.tasks_waiting, load.tasks_ready + load.tasks_assigned) == (1, 3)
        assert load.held_bytes == {"j": 1000}
        assert (load.workers, load.threads) == (1, 1)

    run(scene)


# --- ends


def test_a_lost_worker_waits_for_its_supervisors_word(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(server: SchedulerServer) -> None:
        client, supervisor = Peer(server), Peer(server, "supervisor", "s", job_id="j")
        worker = Peer(server, "worker", "w", threads=1, job_id="j")
        client.submit(work.inc, (1,), (2,))
        await worker.hear(m.RunTasks)
        worker.comm.close()
        await ticks()
        state = server.reactor.state
        assert state.tasks["k0"].state == state.tasks["k1"].state
        assert not state.idle  # it gets nothing new meanwhile
        supervisor.comm.send(m.WorkerDied("w", None, 9, 1_000_000, ["k1"], True, "killed"))
        await ticks()
        assert state.tasks["k1"].deaths == [("worker", "killed (worker w, job j, host )")]
        assert state.tasks["k0"].deaths is None
        assert state.ready.count == 2

    run(scene)


def test_a_supervisor_speaks_of_its_own_jobs_workers_only(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        other = Peer(server, "supervisor", "s2", job_id="j2")
        Peer(server, "supervisor", "s", job_id="j")
        worker = Peer(server, "worker", "w", threads=1, job_id="j")
        for _ in range(2):  # while the worker is there, and while its own supervisor is waited for
            other.comm.send(m.WorkerDied("w", None, 9, 1_000_000, [], False, "said to be dead"))
            await ticks()
            assert "w" in server.reactor.state.workers
            worker.comm.close()
            await ticks()

    run(scene)


def test_without_a_word_it_was_lost_with_its_job(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(server: SchedulerServer) -> None:
        monkeypatch.setattr(server_module, "BLAME_SECONDS", 0.01)
        client = Peer(server)
        worker = Peer(server, "worker", "w", threads=1, job_id="j", host="node7")
        client.submit(work.inc, (1,))
        await worker.hear(m.RunTasks)
        worker.comm.close("cable cut")
        await until(lambda: server.reactor.state.ready.count)
        ((blame, how),) = server.reactor.state.tasks["k0"].deaths or ()
        assert blame == "job"
        assert how.startswith("worker w (job j, host node7) was lost with its job: ")

    run(scene)


def test_a_silent_job_is_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(server: SchedulerServer) -> None:
        monkeypatch.setattr(heartbeats, "SILENCE_SECONDS", 0.1)
        supervisor = Peer(server, "supervisor", "s", job_id="j", pid=1)
        worker = Peer(server, "worker", "w", job_id="j", threads=1)
        other = Peer(server, "worker", "o", job_id="other", threads=1)
        begin = time.monotonic()
        while time.monotonic() - begin < 0.3:
            supervisor.comm.send(m.Heartbeat())
            await asyncio.sleep(0.01)
        assert not supervisor.lost
        assert "nothing was heard of it" in await supervisor.end()
        assert "nothing was heard of it" in await worker.end()
        assert not other.lost

    run(scene)


def test_workers_of_a_quiet_job_are_silent_before_they_are_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(server: SchedulerServer) -> None:
        monkeypatch.setattr(heartbeats, "QUIET_SECONDS", 0.05)
        supervisor = Peer(server, "supervisor", "s", job_id="j", pid=1)
        Peer(server, "worker", "w", job_id="j", threads=1)
        Peer(server, "worker", "o", job_id="other", threads=1)
        await until(lambda: "w" in server.heartbeats.silent())
        assert list(server.heartbeats.silent()) == ["w"]
        assert "nothing has been heard of its job" in server.heartbeats.silent()["w"]
        monkeypatch.setattr(heartbeats, "QUIET_SECONDS", 60.0)
        assert server.heartbeats.silent() == {}
        supervisor.comm.send(m.Heartbeat([m.WorkerVitals("w", 2, 0, 0.0, stopped=True)]))
        await until(lambda: "w" in server.heartbeats.silent())
        assert "its process has been stopped (SIGSTOP" in server.heartbeats.silent()["w"]

    run(scene)


def test_closing_tells_everyone(run: Run) -> None:
    async def scene(server: SchedulerServer) -> None:
        client, worker = Peer(server), Peer(server, "worker", "w", threads=1, job_id="j")
        supervisor = Peer(server, "supervisor", "s", job_id="j")
        await server.close("that was it")
        assert (await client.hear(m.Goodbye)).reason == "that was it"
        assert (await worker.hear(m.Goodbye)).reason == "that was it"
        assert (await supervisor.hear(m.StopWorkers)).reason == "that was it"
        for peer in (client, worker, supervisor):
            assert await peer.end() == "that was it"

    run(scene)
