"""What every worker is set up with before it gets tasks: files that were uploaded, and plugins of the user's.

Owns these as opaque bytes, in the order in which they were registered, and the workers that are not ready. A
worker that joins gets no task before it has carried all of them out, also one that takes another's place. One on
which a set-up fails stays without tasks, and users are told; none is restarted for it. What fails when it is
registered is not kept, and the workers go back to what was registered before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from hpclaunch.comm.messages import MAX_SETUP_BYTES
from hpclaunch.errors import CommClosedError, HPCLaunchError, SetupError, UserError
from hpclaunch.scheduler.notices import Notices
from hpclaunch.scheduler.peers import Peers
from hpclaunch.scheduler.restarts import Restarts
from hpclaunch.scheduler.state import DRAINING, UNREADY, SchedulerState, Worker
from hpclaunch.scheduler.worker_requests import WorkerRequests

log = logging.getLogger("hpclaunch.scheduler")

#: Set-ups that the head keeps at most.
MAX_COUNT = 1000
#: Workers that may end while they are set up by the same thing, until users are told that it can't work.
_MAX_DEATHS = 3
#: Seconds in which a worker's process is replaced, if it is.
_REPLACED_SECONDS = 3.0

FILE, PLUGIN = "file", "plugin"


class SetUp(NamedTuple):
    """One file or plugin."""

    kind: str
    name: str
    data: bytes

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by: another one of the same key takes its place."""
        return self.kind, self.name

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


_Answered = tuple[SetUp, list[Any]]


class SetUps:
    """The set-ups of one cluster.

    :param schedule_tick: has a tick at the end of this turn of the loop.
    """

    def __init__(
        self,
        state: SchedulerState,
        peers: Peers,
        worker_requests: WorkerRequests,
        notices: Notices,
        restarts: Restarts,
        schedule_tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._peers = peers
        self._worker_requests = worker_requests
        self._notices = notices
        self._restarts = restarts
        self._schedule_tick = schedule_tick
        self._kept: dict[tuple[str, str], SetUp] = {}
        self._failed: dict[str, dict[tuple[str, str], str]] = {}  # worker -> what went wrong there
        self._deaths: Counter[tuple[str, str]] = Counter()
        self._turn = asyncio.Lock()  # one registration at a time
        self._joining: dict[str, asyncio.Task[list[_Answered]]] = {}  # workers that are being prepared

    def names(self, kind: str) -> list[str]:
        """Return the names of what is registered."""
        return [one.name for one in self._kept.values() if one.kind == kind]

    # --- workers

    def on_worker_joining(self, worker: Worker) -> None:
        """A worker is about to be known: if there is something to set up, it gets no tasks before."""
        self._failed.pop(worker.name, None)
        if self._kept:
            worker.refuses |= UNREADY
            preparing = asyncio.ensure_future(self._prepare(worker))  # it begins behind the welcome
            self._joining[worker.name] = preparing
            preparing.add_done_callback(lambda task: self._on_prepared(worker.name, task))

    def _on_prepared(self, name: str, task: asyncio.Task[list[_Answered]]) -> None:
        if self._joining.get(name) is task:
            del self._joining[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("worker %s could not be set up", name, exc_info=error)

    def on_worker_gone(self, name: str) -> None:
        """A worker's connection is over."""
        self._failed.pop(name, None)

    async def _prepare(self, worker: Worker) -> list[_Answered]:
        """Carry out on a worker what is registered, in this order; return its answers."""
        answered: list[_Answered] = []
        while setup := self._next(answered):
            worker.unready = f"it is being set up by {setup}"
            try:
                answer = await self._ask(worker.name, setup)
            except CommClosedError as error:
                self._on_death(worker, setup, str(error))
                return answered
            except HPCLaunchError as error:
                answer = plain(error)
            self._deaths.pop(setup.key, None)
            answered.append((setup, answer))
            if self._kept.get(setup.key) is setup:
                self._note(worker.name, setup, answer)
        self._admit(worker)
        return answered

    def _next(self, answered: list[_Answered]) -> SetUp | None:
        """Return the first of what is registered now for which there is no answer."""
        return next((one for one in self._kept.values() if all(one is not done for done, _ in answered)), None)

    async def _ask(self, name: str, setup: SetUp) -> list[Any]:
        answer: list[Any] = await self._worker_requests.ask(
            name, "set_up", kind=setup.kind, name=setup.name, data=setup.data
        )
        return answer

    def _note(self, name: str, setup: SetUp, answer: list[Any]) -> None:
        failed = self._failed.setdefault(name, {})
        if answer[0]:
            failed.pop(setup.key, None)
        else:
            failed[setup.key] = f"{setup} can't set up worker {name}: {answer[2]}"

    def _admit(self, worker: Worker) -> None:
        """Let a worker have tasks, or say why it gets none."""
        state = self._state
        if state.workers.get(worker.name) is not worker:
            return
        failed = self._failed.pop(worker.name, None)
        if failed:
            self._failed[worker.name] = failed
            worker.unready = next(iter(failed.values()))
            self._complain(f"{worker.unready}. It gets no tasks. Register what works, or unregister this")
            return
        if worker.refuses & UNREADY:
            worker.refuses &= ~UNREADY
            worker.unready = ""
            state.changed = None
            state.index(worker)
            self._notices.forgive()
            self._schedule_tick()

    def _on_death(self, worker: Worker, setup: SetUp, how: str) -> None:
        if self._is_leaving(worker) or self._kept.get(setup.key) is not setup:
            return
        self._deaths[setup.key] += 1
        log.warning("worker %s ended while %s set it up: %s", worker.name, setup, how)
        if self._deaths[setup.key] == _MAX_DEATHS:
            self._complain(
                f"{_MAX_DEATHS} workers in a row have ended while {setup} set them up; the last one: {how}"
            )

    def _complain(self, text: str) -> None:
        """Tell all users; as the reason why nothing goes on, if no worker takes tasks."""
        self._notices.warn(text)
        if not any(not worker.refuses & UNREADY for worker in self._state.workers.values()):
            self._notices.notify(SetupError(text))

    # --- clients

    async def register(self, setup: SetUp, *, idempotent: bool = False) -> dict[str, Any]:
        """Set all workers up, now and later; return each worker's answer: [True, b""], or parts of a Failure.

        If one has failed, none keeps it.

        :raises UserError: it is too large, or there are too many.
        """
        async with self._turn:
            before = self._kept.get(setup.key)
            if before is not None and idempotent:
                return {}
            self._check_room(setup, before)
            self._kept.pop(setup.key, None)  # a plugin that replaces another comes after what that did not need
            self._kept[setup.key] = setup
            self._deaths.pop(setup.key, None)
            answers = await self._carry_out(setup)
            if not all(answer[0] for answer in answers.values()):
                await self._roll_back(setup, before)
            for name in list(self._failed):
                self._recover(name, setup)
            return answers

    async def _carry_out(self, setup: SetUp) -> dict[str, Any]:
        """Set up all workers that are there. Those that end meanwhile are answered for by those in their stead.

        One may end for any reason, such as a task; so many in a row are laid at the set-up's door.
        """
        answers: dict[str, Any] = {}
        blamed: dict[str, Any] = {}
        known: set[str] = set()
        while True:
            asked = {name: worker for name, worker in self._connected().items() if name not in known}
            said = await self._ask_all(list(asked), setup)
            known |= asked.keys()
            gone = {name for name, answer in said.items() if answer[1] == CommClosedError.__name__}
            leaving = {name for name, worker in asked.items() if self._is_leaving(worker)}
            answers |= {name: one for name, one in said.items() if one[0] or name not in gone | leaving}
            blamed |= {name: said[name] for name in gone - leaving}
            if len(blamed) >= _MAX_DEATHS:
                return answers | blamed
            if not gone or not all(answer[0] for answer in answers.values()):
                return answers
            await self._wait_for_others(known)

    async def _ask_all(self, names: list[str], setup: SetUp) -> dict[str, Any]:
        preparing = {name: self._joining[name] for name in names if name in self._joining}
        said = await self._set_up([name for name in names if name not in preparing], setup)
        for name, task in preparing.items():
            said[name] = _answer_to(setup, await asyncio.shield(task))
        return said

    async def _wait_for_others(self, known: set[str]) -> None:
        """Wait a moment for workers in the stead of those that have ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REPLACED_SECONDS):
                while not self._connected().keys() - known:
                    await self._peers.wait_for_change()

    async def unregister(self, kind: str, name: str) -> dict[str, Any]:
        """Take a set-up down on all workers, and from those to come; return each worker's answer.

        :raises UserError: there is none of this name.
        """
        async with self._turn:
            setup = self._kept.pop((kind, name), None)
            if setup is None:
                known = ", ".join(map(repr, self.names(kind))) or "none"
                raise UserError(f"there is no {kind} {name!r}; there are: {known}")
            answers = await self._take_down(list(self._connected()), setup)
            for worker in list(self._failed):
                self._recover(worker, setup)
            return answers

    def _connected(self) -> dict[str, Worker]:
        """Return the workers that can be asked, also those that are about to end: they may still run tasks."""
        known = self._state.workers
        return {name: worker for name, worker in known.items() if name in self._peers.workers}

    def _is_leaving(self, worker: Worker) -> bool:
        """Say whether a worker ends, or has ended, for a reason that is not in its set-up."""
        is_told = worker.refuses & DRAINING or worker.name in self._restarts.restarted
        return bool(is_told) or worker.job_id in self._peers.stopping

    def _check_room(self, setup: SetUp, before: SetUp | None) -> None:
        others = [one for one in self._kept.values() if one is not before]
        size = len(setup.data) + sum(len(one.data) for one in others)
        if size > MAX_SETUP_BYTES or len(others) >= MAX_COUNT:
            raise UserError(
                f"{setup} has {len(setup.data) / 1e6:.1f} MB. The head keeps {MAX_COUNT} files and plugins at "
                f"most, of {MAX_SETUP_BYTES / 1e6:.0f} MB in all; with this one it would have {len(others) + 1} "
                f"of {size / 1e6:.1f} MB. Scatter large data, or put it into a file that all hosts see"
            )

    async def _set_up(self, names: list[str], setup: SetUp) -> dict[str, Any]:
        answers = await self._worker_requests.ask_all(
            names, "set_up", kind=setup.kind, name=setup.name, data=setup.data
        )
        return {name: plain(answer) for name, answer in answers.items()}

    async def _take_down(self, names: list[str], setup: SetUp) -> dict[str, Any]:
        answers = await self._worker_requests.ask_all(names, "take_down", kind=setup.kind, name=setup.name)
        return {name: plain(answer) for name, answer in answers.items()}

    async def _roll_back(self, setup: SetUp, before: SetUp | None) -> None:
        """Go back to what was registered before one that has failed."""
        if before is None:
            self._kept.pop(setup.key, None)
            await self._take_down(list(self._connected()), setup)
        else:
            self._kept[setup.key] = before
            await self._set_up(list(self._connected()), before)

    def _recover(self, name: str, setup: SetUp) -> None:
        """What had failed on a worker when it joined has worked now, or is not registered any more."""
        worker = self._state.workers.get(name)
        failed = self._failed.get(name, {})
        if worker is not None and setup.key in failed:
            del failed[setup.key]
            self._admit(worker)


def plain(answer: Any) -> Any:
    """Return a worker's answer, or its error in the form of a failed call."""
    if isinstance(answer, HPCLaunchError):
        return [False, type(answer).__name__, str(answer), "", b""]
    return answer


def _answer_to(setup: SetUp, answered: list[_Answered]) -> Any:
    """Return what a worker has said to a set-up when it was prepared."""
    gone = CommClosedError("it ended while it was being set up")
    return next((answer for one, answer in answered if one is setup), plain(gone))
