"""Which rank does what. Pure.

A rank may have several parts: it may be where the head is, go on with the user's script (the *client*), and run
workers. Without other wishes: rank 0 is the head, rank 1 the client, and all others are workers; of two ranks the
first is head and client; a single rank is everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hpclaunch.errors import UserError


class Role(NamedTuple):
    """The parts that one rank has."""

    head: bool = False
    client: bool = False
    worker: bool = False

    def __str__(self) -> str:
        return " and ".join(part for part in self._fields if getattr(self, part)) or "nothing"


class TooFewRanksError(UserError):
    """These roles need more ranks than were started; the text says how many to ask for."""


def assign(
    size: int,
    *,
    head_rank: int | None = None,
    client_rank: int | None = None,
    has_head: bool = True,
    has_client: bool = True,
    inclusive: bool = False,
) -> tuple[Role, ...]:
    """Return the role of each rank.

    :param size: how many ranks there are, 1 or more.
    :param head_rank: where the head is to be; None is rank 0.
    :param client_rank: who goes on with the script; None is the first rank that is not the head's, if there are
        three or more, else rank 0.
    :param has_head: False: the head is somewhere else already.
    :param has_client: False: no rank goes on with a script.
    :param inclusive: workers also on the ranks of head and client.
    :raises TooFewRanksError: a rank that was named is not there, or none is left for workers.
    """
    head = _named("scheduler_rank", head_rank, size) if has_head else None
    client = _named("client_rank", client_rank, size) if has_client else None
    if has_head and head is None:
        head = 0
    if has_client and client is None:
        alone = size < 3 and head is not None
        client = (head or 0) if alone else _first_other_than(head, size)
    taken = {rank for rank in (head, client) if rank is not None}
    if size == 1 or inclusive:
        taken = set()
    if len(taken) == size:
        raise TooFewRanksError(
            f"{_ranks(size)} for head and client leave none for workers: start at least {size + 1} "
            f"(mpirun -np {size + 1}), or have workers on all ranks (exclusive_workers=False, --inclusive-workers)"
        )
    return tuple(Role(rank == head, rank == client, rank not in taken) for rank in range(size))


def rank_of(roles: Sequence[Role], part: str) -> int | None:
    """Return the one rank that has a part ("head", "client"); None if none has."""
    return next((rank for rank, role in enumerate(roles) if getattr(role, part)), None)


def _named(what: str, rank: int | None, size: int) -> int | None:
    if rank is not None and not 0 <= rank < size:
        raise TooFewRanksError(
            f"{what}={rank} is not there: ranks are 0 to {size - 1}; start at least {max(rank, 0) + 1} "
            f"(mpirun -np {max(rank, 0) + 1})"
        )
    return rank


def _first_other_than(head: int | None, size: int) -> int:
    """Return the client's rank: 1, as in every tool of this kind, or 0 where there is no head or rank 1 has it."""
    if head is None or size == 1:
        return 0
    return 1 if head != 1 else 0


def _ranks(size: int) -> str:
    return "1 rank" if size == 1 else f"{size} ranks"
