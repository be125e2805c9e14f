"""A function that tasks call, and what its calls so far say of the next one. Pure."""

from __future__ import annotations

from hpclaunch.comm.messages import DefineFunction

#: Seconds that a task of an unknown function is taken to last: two of them fill a thread's queue.
UNKNOWN_SECONDS = 0.05
#: Seconds of work per thread that a worker is given ahead.
AHEAD_SECONDS = 0.1
#: Bytes of results per thread that the tasks which a worker is given ahead may make.
AHEAD_BYTES = 4 << 20
#: Bytes of arguments, or of a function, from which a task is placed by size: :mod:`hpclaunch.scheduler.sizes`.
LARGE_BYTES = 4 << 20
#: Bytes of arguments that are not worth to be counted.
_FEW_BYTES = 1024
#: Seconds that even an empty task costs.
LEAST_SECONDS = 20e-6
#: The part of AHEAD_SECONDS or of AHEAD_BYTES that is enough of a function's calls to know it by.
_ENOUGH = 0.25
#: More than so many calls that took more than so long are too much: the older ones count less.
MANY_CALLS, MUCH_SECONDS = 20.0, 2 * _ENOUGH * AHEAD_SECONDS


class Function:
    """A function that tasks call: its bytes, how long it takes, and how large its results are.

    Both are means over its last calls: over 25 ms of work, 1 MiB of results, or ten calls if these are more.
    So a slow call among many quick ones changes little; and if all are slower or larger than before, a dozen are
    enough to show it, however many there were.
    """

    __slots__ = (
        "calls", "definition", "given", "id", "is_awaited", "is_overlong", "name", "size", "stored", "took",
    )  # fmt: skip

    def __init__(self, definition: DefineFunction) -> None:
        self.definition = definition  # as workers are told of it
        self.id = definition.function
        self.name = definition.name
        self.size = definition.size  # bytes
        self.calls = 0.0  # the last ones, whose seconds and bytes these are:
        self.took = 0.0
        self.stored = 0.0  # bytes of results that stay on their workers
        self.given = 0.0  # bytes of arguments of one call
        self.is_overlong = False  # the user was told that its tasks outlast every worker
        self.is_awaited = False  # the user was told that one of its tasks waits for a worker with more memory

    def learn(self, seconds: float, size: int = 0) -> None:
        """Take one more call into the means; ``size`` is that of its result if it stays on its worker."""
        self.calls += 1.0
        self.took += seconds
        self.stored += size
        if (self.took > MUCH_SECONDS or self.stored) and self.calls > MANY_CALLS:
            self.forget(seconds, size)

    def forget(self, seconds: float, size: int = 0) -> None:
        """Let the calls of before count less if they are more than enough, so that the next ones count.

        The newest call, which took so long and stored so much, is taken in, but only up to some measure: nothing
        is concluded from a single one.
        """
        before = self.calls - 1.0
        self.took -= _excess(seconds, (self.took - seconds) / before, AHEAD_SECONDS)
        self.stored -= _excess(size, (self.stored - size) / before, AHEAD_BYTES)
        least = self.calls * LEAST_SECONDS
        much = max(self.took / AHEAD_SECONDS, least / AHEAD_SECONDS, self.stored / AHEAD_BYTES)
        if much > 2 * _ENOUGH:
            part = max(_ENOUGH / much, 0.5 * MANY_CALLS / self.calls)
            self.calls *= part
            self.took *= part
            self.stored *= part
        if self.stored < AHEAD_BYTES / 64:
            self.stored = 0.0  # all but forgotten

    def learn_given(self, size: int, calls: int) -> None:
        """So many calls were submitted, with so many bytes of arguments together."""
        self.given = max(size / calls if calls and size > _FEW_BYTES * calls else 0.0, self.given / 2)

    @property
    def seconds(self) -> float | None:
        """Mean seconds of a call; None: none has ended yet."""
        return self.took / self.calls if self.calls else None

    @property
    def load(self) -> float:
        """What one call counts of the work that a worker has ahead: its seconds, or more if its data are much.

        A worker with :data:`AHEAD_BYTES` of results to make has enough, however quickly it makes them: what takes
        them in would have to wait behind the rest, and they would fill the memory. So has one with as many bytes
        of arguments.
        """
        if not self.stored and not self.given:
            return self.cost
        size = self.stored / self.calls if self.stored else 0.0
        return max(self.cost, load_of_size(max(size, self.given)))

    @property
    def cost(self) -> float:
        """Expected seconds of one call."""
        if not self.calls:
            return UNKNOWN_SECONDS
        seconds = self.took / self.calls
        return seconds if seconds > LEAST_SECONDS else LEAST_SECONDS


def load_of_size(size: float) -> float:
    """Say what a call counts of the work that a worker has ahead, for the size of its result."""
    return min(size / AHEAD_BYTES, 1.0) * AHEAD_SECONDS


def _excess(newest: float, mean: float, ahead: float) -> float:
    """Return what a call has above a hundred times the mean, if it is above half of all that may be ahead too."""
    return max(0.0, newest - max(0.5 * ahead, 100.0 * mean))
