"""Those who are connected to the scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpclaunch.comm import messages as m
from hpclaunch.comm.connection import Comm

if TYPE_CHECKING:
    from hpclaunch.scheduler.relays import Question


class Peer:
    """A connection that has shown who it is."""

    __slots__ = ("comm", "frozen", "hello", "last_seen", "refused", "relays", "vitals")

    def __init__(self, comm: Any, hello: m.Hello, now: float) -> None:
        self.comm: Comm = comm
        self.hello = hello
        self.last_seen = now
        self.vitals: dict[str, m.WorkerVitals] = {}
        self.frozen: dict[str, float] = {}  # workers that are stopped, and since when
        self.refused: set[type] = (
            set()
        )  # types of its messages that were not for it to say, and of which the log knows
        self.relays: dict[int, Question] = {}  # whose questions it answers
