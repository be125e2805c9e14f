"""Who may say what to whom: one row for each message type. Pure.

A peer's role is in its certificate (:mod:`hpclaunch.comm.tls`) and in its Hello. A receiver of messages looks
here before it acts on them (:func:`permitted`); what a role may not say is dropped, and told in the log.

"task" is a client inside a task, "peer" a client or worker that asks a worker for a result. A stranger, who has no
certificate, may say nothing at all: the TLS handshake fails before a message is read. A supervisor speaks of the
workers of its own job only (:func:`is_of_job`); workers and clients speak of tasks, and the reactor knows whose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpclaunch.comm import messages as m

CLIENTS = ("client", "task")
ROLES = ("head", "client", "task", "worker", "supervisor", "peer")

_TO_HEAD = ("client>head", "task>head", "worker>head", "supervisor>head")
_CLIENT_TO_HEAD = ("client>head", "task>head")
_HEAD_TO_CLIENT = ("head>client", "head>task")
_FROM_HEAD = (*_HEAD_TO_CLIENT, "head>worker", "head>supervisor")
_ANSWERS = ("worker>head", *_HEAD_TO_CLIENT, "head>worker", "worker>peer")
_QUESTIONS = (*_CLIENT_TO_HEAD, "head>worker", "peer>worker")

#: The ways, sender before receiver, on which each message may travel.
TABLE: dict[type[m.Message], tuple[str, ...]] = {
    m.Hello: (*_TO_HEAD, "peer>worker"),
    m.Welcome: (*_FROM_HEAD, "worker>peer"),
    m.Goodbye: (*_TO_HEAD, *_FROM_HEAD, "worker>peer", "peer>worker"),
    # tasks
    m.DefineFunction: (*_CLIENT_TO_HEAD, "head>worker"),
    m.ForgetFunctions: (*_CLIENT_TO_HEAD, "head>worker"),
    m.SubmitTasks: _CLIENT_TO_HEAD,
    m.ReleaseKeys: _CLIENT_TO_HEAD,
    m.CancelKeys: _CLIENT_TO_HEAD,
    m.LocateKeys: _CLIENT_TO_HEAD,
    m.WantKeys: _CLIENT_TO_HEAD,
    m.SeeThrough: _CLIENT_TO_HEAD,
    m.RetryKeys: _CLIENT_TO_HEAD,
    m.Taken: _CLIENT_TO_HEAD,
    m.ResultNames: _CLIENT_TO_HEAD,
    m.Fence: (*_CLIENT_TO_HEAD, *_HEAD_TO_CLIENT),
    m.Put: (*_CLIENT_TO_HEAD, "head>worker"),
    m.RunTasks: ("head>worker",),
    m.RunTask: ("head>worker",),
    m.ExpectTask: ("head>worker",),
    m.RecallTasks: ("head>worker",),
    m.DropTasks: ("head>worker",),
    m.FreeResults: ("head>worker",),
    m.SayWhenBegun: ("head>worker",),
    m.KeepCopies: ("head>worker",),
    # outcomes
    m.TasksDone: ("worker>head", *_HEAD_TO_CLIENT),
    m.TasksStored: ("worker>head", *_HEAD_TO_CLIENT),
    m.TasksFailed: ("worker>head", *_HEAD_TO_CLIENT),
    m.TasksCancelled: _HEAD_TO_CLIENT,
    m.TasksRetried: _HEAD_TO_CLIENT,
    m.TasksReturned: ("worker>head",),
    m.InputMissing: ("worker>head",),
    m.CopiesHeld: ("worker>head",),
    m.TaskBegun: ("worker>head",),
    m.TaskSeceded: ("worker>head",),
    m.Brought: ("worker>head",),
    m.WorkerPaused: ("worker>head",),
    # results and actors
    m.Fetch: (*_QUESTIONS, "worker>head"),
    m.Data: _ANSWERS,
    m.Bring: ("peer>worker",),
    m.ActorCall: _QUESTIONS,
    m.ActorReply: ("worker>head", *_HEAD_TO_CLIENT, "worker>peer"),
    m.SendAnswer: ("head>worker",),
    # life of workers
    m.Heartbeat: ("supervisor>head", "head>supervisor"),
    m.WorkerDied: ("supervisor>head",),
    m.JobEnding: ("supervisor>head",),
    m.ReplaceWorkers: ("head>supervisor",),
    m.StopWorkers: ("head>worker", "head>supervisor"),
    # control
    m.Request: (*_CLIENT_TO_HEAD, "head>worker"),
    m.Reply: ("worker>head", *_HEAD_TO_CLIENT),
    m.Notice: _HEAD_TO_CLIENT,
}

_OPENING = (m.Hello, m.Welcome)


def _said() -> Iterator[tuple[str, frozenset[type]]]:
    for way in {way for ways in TABLE.values() for way in ways}:
        yield way, frozenset(kind for kind, ways in TABLE.items() if way in ways and kind not in _OPENING)


_SAID = dict(_said())


def permitted(sender: str, receiver: str) -> frozenset[type]:
    """Return the types of message that one role may send another once they have greeted."""
    return _SAID.get(f"{sender}>{receiver}", frozenset())


_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def named_workers(message: m.Message) -> list[str]:
    """Return the workers of which a supervisor speaks; they must be its own job's."""
    if type(message) is m.WorkerDied:
        return [message.name]
    return [one.name for one in message.workers] if type(message) is m.Heartbeat else []


def is_of_job(worker: str, job_id: str) -> bool:
    """Say whether a worker of this name is one of this job's: they are named for it."""
    return worker.startswith(f"{job_id}-") and _NUMBER.fullmatch(worker, len(job_id) + 1) is not None
