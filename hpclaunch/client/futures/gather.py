"""The results of many futures at once."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import Any

from hpclaunch.client.futures.all_done import wait_all
from hpclaunch.client.futures.future import DONE, PENDING, STORED, Future
from hpclaunch.client.futures.nesting import flatten, rebuild
from hpclaunch.client.futures.table import FutureTable
from hpclaunch.client.gc_pause import gc_paused
from hpclaunch.comm import serialize
from hpclaunch.link.facade import after, is_awaiting

_table_of = operator.attrgetter("_table")


def gather(table: FutureTable, futures: Any, errors: str) -> Any:
    """Wait for futures and return their results, in the same nesting: see :meth:`hpclaunch.Client.gather`."""
    if errors not in ("raise", "skip"):
        raise ValueError(f'errors is "raise" or "skip", not {errors!r}')
    futures = list(futures) if isinstance(futures, Iterator) else futures
    is_plain = type(futures) is list and set(map(type, futures)) == {Future}
    flat: list[Future[Any]] = list(futures if is_plain else flatten(futures))
    if others := {*map(_table_of, flat)} - {table}:
        other = others.pop().link.name
        raise ValueError(f"gather takes futures of its own client, and some are of {other}: ask that")
    if is_awaiting(table):
        return after(wait_all(table.link, flat), functools.partial(gather, table, futures, errors))
    for future in flat:
        if future._status == PENDING:
            table.wait_for((future,), None)
        if future._status > STORED and errors == "raise":  # not after all the others
            future.result()
    stored = [f for f in flat if f._status == STORED]
    fetched = dict(zip(stored, table.fetch(stored, None), strict=True)) if stored else {}
    if is_plain and errors == "raise" and not fetched:
        load = serialize.load_value
        with gc_paused(len(flat)):
            return [load(f._data) if f._status == DONE else f.result() for f in flat]
    return rebuild(futures, fetched, skip_errors=errors == "skip")
