"""Where results are kept, for a client: copies of them, and their even spread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hpclaunch.client.calls.scatter import keys_of
from hpclaunch.client.submission.options import worker_names
from hpclaunch.link.facade import blocking

if TYPE_CHECKING:
    from hpclaunch.client.futures.future import Future


class CopyCalls:
    """The part of a Client that is about where results are."""

    _ask: Any

    @blocking
    def replicate(
        self,
        futures: Future | Iterable[Future],
        n: int | None = None,
        workers: list[str] | None = None,
        branching_factor: int = 2,
    ) -> None:
        """Wait for results, and keep each on ``n`` workers (None: on all), so that they survive a worker.

        Small results are with the head, and need no copies.

        :param branching_factor: accepted, and not needed: all fetch it from those who have it.
        """
        if n is not None and (not isinstance(n, int) or n < 1):
            raise ValueError(f"n= is a number of workers, 1 or more, or None for all, not {n!r:.100}")
        self._ask("replicate", keys=keys_of(futures), n=n, workers=worker_names(workers))

    @blocking
    def rebalance(self, futures: Any = None, workers: list[str] | None = None) -> None:
        """Move results until workers hold about the same share of their memory.

        :param futures: wait for these results, and move only these; None: all that are there now.
        """
        self._ask("rebalance", keys=keys_of(futures), workers=worker_names(workers))
