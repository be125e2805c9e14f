"""When a dead worker is replaced, and when its supervisor gives up. Pure.

A death counts in a row if the worker lived shortly and ran no task. The first is answered at once; after that the
pauses grow, so that a worker that can't live does not keep its node busy. A batch job that gives up ends, and the
head submits another one. A rank of a parallel job can't be submitted again: it tries more often, and goes on for
as long as its workers live until others kill them.
"""

from __future__ import annotations

#: Deaths in a row after which a job gives up; and a rank, whose workers end by themselves.
MOST_OF_JOB, MOST_OF_RANK = 4, 6
#: Seconds before the second worker in a row, doubled for each one after it, and the most that come of it.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


def pause(deaths: int) -> float:
    """Return the seconds to wait before the next worker is started, after so many deaths in a row."""
    return 0.0 if deaths < 2 else min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (deaths - 2))


def is_hopeless(deaths: int, own: int, *, is_rank: bool) -> bool:
    """Say whether no further worker is to be started.

    :param deaths: in a row, this one included.
    :param own: those after the last worker that had reached the head and was killed from outside.
    """
    return own >= MOST_OF_RANK if is_rank else deaths >= MOST_OF_JOB
