"""Who may say what: the table has a row for each message type, and all who receive messages keep to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, get_args

import msgspec
import pytest

from hpclaunch.comm import messages as m
from hpclaunch.comm.framing import Frame
from hpclaunch.comm.memory import memory_pair
from hpclaunch.comm.roles import ROLES, TABLE, is_of_job, permitted
from hpclaunch.scheduler.invariants import check
from hpclaunch.scheduler.server import SchedulerServer
from hpclaunch.worker.server import WorkerServer, make_hello

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

#: What may be said, written down once more as a person reads it: c client, t client in a task, w worker,
#: s supervisor, p one who asks a worker for a result, h head. The sender stands before the receiver.
EXPECTED = {
    "Hello": "ch th wh sh pw",
    "Welcome": "hc ht hw hs wp",
    "Goodbye": "ch th wh sh hc ht hw hs wp pw",
    "DefineFunction": "ch th hw",
    "ForgetFunctions": "ch th hw",
    "SubmitTasks": "ch th",
    "ReleaseKeys": "ch th",
    "CancelKeys": "ch th",
    "LocateKeys": "ch th",
    "WantKeys": "ch th",
    "SeeThrough": "ch th",
    "RetryKeys": "ch th",
    "Taken": "ch th",
    "ResultNames": "ch th",
    "Fence": "ch th hc ht",
    "Put": "ch th hw",
    "RunTasks": "hw",
    "RunTask": "hw",
    "ExpectTask": "hw",
    "RecallTasks": "hw",
    "DropTasks": "hw",
    "FreeResults": "hw",
    "SayWhenBegun": "hw",
    "KeepCopies": "hw",
    "TasksDone": "wh hc ht",
    "TasksStored": "wh hc ht",
    "TasksFailed": "wh hc ht",
    "TasksCancelled": "hc ht",
    "TasksRetried": "hc ht",
    "TasksReturned": "wh",
    "InputMissing": "wh",
    "CopiesHeld": "wh",
    "TaskBegun": "wh",
    "TaskSeceded": "wh",
    "Brought": "wh",
    "WorkerPaused": "wh",
    "Fetch": "ch th hw pw wh",
    "Data": "wh hc ht hw wp",
    "Bring": "pw",
    "ActorCall": "ch th hw pw",
    "ActorReply": "wh hc ht wp",
    "SendAnswer": "hw",
    "Heartbeat": "sh hs",
    "WorkerDied": "sh",
    "JobEnding": "sh",
    "ReplaceWorkers": "hs",
    "StopWorkers": "hw hs",
    "Request": "ch th hw",
    "Reply": "wh hc ht",
    "Notice": "hc ht",
}
LETTERS = {role[0]: role for role in ROLES}
KINDS: list[type] = list(get_args(m.Message))
TO_HEAD = ("client", "task", "worker", "supervisor")


def example(kind: type) -> Any:
    """Return a message of this type that names a task, a worker and a job that are there."""
    values: dict[str, Any] = {"key": "k", "keys": ["k"], "name": "2-0", "signal": "SIGTERM", "reason": "said so"}
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    made = {}
    for name, field in fields.items():
        if name == "signal" and kind is m.WorkerDied:
            made[name] = 9
        elif name in values and field.required:
            made[name] = values[name]
        elif field.required:
            made[name] = _plain(field.type)
    return kind(**made)


def _plain(hint: Any) -> Any:
    for type_, value in ((str, ""), (bytes, b""), (bool, False), (int, 0), (float, 0.0)):
        if hint is type_:
            return value
    if "list" in str(hint):
        return []
    return m.ErrorReport("UserError", "text") if hint is m.ErrorReport else None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_message_has_its_row(kind: type) -> None:
    expected = {f"{LETTERS[way[0]]}>{LETTERS[way[1]]}" for way in EXPECTED[kind.__name__].split()}
    assert set(TABLE[kind]) == expected
    for sender in (*ROLES, "stranger", ""):
        for receiver in ROLES:
            may = f"{sender}>{receiver}" in expected and kind not in (m.Hello, m.Welcome)
            assert (kind in permitted(sender, receiver)) is may


def test_the_table_has_no_other_rows() -> None:
    assert set(TABLE) == set(KINDS)
    assert set(EXPECTED) == {kind.__name__ for kind in KINDS}


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "hpclaunch")
    return caplog


@pytest.mark.parametrize("role", TO_HEAD)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_head_acts_on_what_the_table_allows(kind: type, role: str, warned: Any) -> None:
    """What a role may not say changes nothing; each message that it may say has a handler."""

    async def scene() -> None:
        server = SchedulerServer("c")
        said: list[str] = []
        try:
            far, near = memory_pair(role, "head")
            hello = m.Hello(m.PROTOCOL_VERSION, role, "1-0", "c", job_id="1", threads=1)
            server.on_peer(near, hello)
            handled = _spy_on(server, said)
            before = _snapshot(server)
            near.on_frames(near, [Frame([example(kind)], [])])
            refused = "its role may not say that" in warned.text
            assert refused is (kind not in permitted(role, "head"))
            if refused:
                assert not said
                assert before == _snapshot(server)
            elif kind is not m.Goodbye:
                assert said or handled(role, kind)
            far.close()
        finally:
            await server.close("the test is over")

    asyncio.run(scene())


def _snapshot(server: SchedulerServer) -> list[dict[str, Any]]:
    state, peers = server.reactor.state, server.peers
    check(state)
    known = (state.tasks, state.workers, peers.clients, peers.workers, peers.supervisors, peers.stopping)
    return [dict(one) for one in known]


def _spy_on(server: SchedulerServer, said: list[str]) -> Callable[[str, type], bool]:
    for table in (server._handlers, server._worker_handlers):
        for kind in table:
            table[kind] = lambda peer, message: said.append(type(message).__name__)
    named = {"task": (m.Put,), "client": (m.Put,), "worker": (m.Data, m.ActorReply, m.Fetch)}
    named["supervisor"] = (m.Heartbeat, m.WorkerDied, m.JobEnding)  # type: ignore[assignment]
    return lambda role, kind: kind in named[role]


def test_a_worker_has_a_handler_for_all_that_the_head_may_say() -> None:
    async def scene() -> None:
        worker = WorkerServer(make_hello("w", "c", threads=1))
        by_hand = {m.Data, m.Put}
        assert set(worker._handlers) | by_hand == permitted("head", "worker")
        await worker.close()

    asyncio.run(scene())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_worker_acts_on_what_its_peers_may_say(kind: type, warned: Any) -> None:
    async def scene() -> None:
        worker = WorkerServer(make_hello("w", "c", threads=1))
        far, near = memory_pair("peer", "worker")
        hello = m.Hello(m.PROTOCOL_VERSION, "peer", "p", "c")
        worker._on_peer(near, hello)  # type: ignore[arg-type]
        near.on_frames(near, [Frame([example(kind)], [])])
        assert ("is not for a worker" in warned.text) is (kind not in permitted("peer", "worker"))
        far.close()
        await worker.close()

    asyncio.run(scene())


def test_a_supervisor_speaks_of_its_own_jobs_workers(warned: Any) -> None:
    async def scene() -> None:
        server = SchedulerServer("c")
        ends = []
        for role, name, job in (("worker", "1-0", "1"), ("worker", "2-0", "2"), ("supervisor", "s1", "1")):
            far, near = memory_pair(name, "head")
            hello = m.Hello(m.PROTOCOL_VERSION, role, name, "c", job_id=job, threads=1, pid=1)
            server.on_peer(near, hello)
            ends += [(far, near)]
        near = ends[-1][1]
        death = msgspec.structs.replace(example(m.WorkerDied), name="2-0", detail="it is said to have died")
        vitals = [m.WorkerVitals(name, 1, 7, 0.0) for name in ("1-0", "2-0")]
        near.on_frames(near, [Frame([death, m.Heartbeat(vitals)], [])])
        assert warned.text.count("is ignored: worker 2-0 is of another job") == 2
        assert {one.name for one in server.workers()} == {"1-0", "2-0"}
        assert not any(one.rss for one in server.workers())
        near.on_frames(near, [Frame([m.Heartbeat(vitals[:1]), msgspec.structs.replace(death, name="1-0")], [])])
        assert {one.name for one in server.workers()} == {"2-0"}
        await server.close("the test is over")

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("name", "job", "belongs"),
    [
        ("4711-0", "4711", True),
        ("4711-12.3", "4711", True),
        ("4711_1-0", "4711_1", True),
        ("rank3.a0b1c2-0", "rank3.a0b1c2", True),
        ("4711_1-0", "4711", False),
        ("4712-0", "4711", False),
        ("4711", "4711", False),
        ("4711-", "4711", False),
        ("4711-0 ", "4711", False),
        ("4711-0\n", "4711", False),
        ("4711-٣", "4711", False),
        ("", "", False),
    ],
)
def test_workers_are_named_for_their_job(name: str, job: str, belongs: bool) -> None:
    assert is_of_job(name, job) is belongs
