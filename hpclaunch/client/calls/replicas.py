"""Where results are kept: copies of them, and their even spread."""

from __future__ import annotations

from typing import Any

from hpclaunch.client.futures.waiting import keys_when_done
from hpclaunch.client.submission.options import worker_names
from hpclaunch.link.head_link import HeadLink


def replicate(link: HeadLink, futures: Any, n: int | None, workers: Any) -> None:
    """Keep results on ``n`` workers each: see :meth:`hpclaunch.Client.replicate`."""
    if n is not None and (not isinstance(n, int) or n < 1):
        raise ValueError(f"n= is a number of workers, 1 or more, or None for all, not {n!r:.100}")
    link.ask("replicate", keys=keys_when_done(futures), n=n, workers=worker_names(workers))


def rebalance(link: HeadLink, futures: Any, workers: Any) -> None:
    """Spread results evenly: see :meth:`hpclaunch.Client.rebalance`."""
    link.ask("rebalance", keys=keys_when_done(futures), workers=worker_names(workers))
