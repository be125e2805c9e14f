"""Copies of results on other workers, as clients ask for them: more of them, or moved to where there is memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hpclaunch.scheduler import rebalance
from hpclaunch.scheduler.peers import Peers
from hpclaunch.scheduler.state import SchedulerState
from hpclaunch.scheduler.worker_requests import WorkerRequests


class Replication:
    """Has workers fetch results and keep them."""

    def __init__(self, state: SchedulerState, peers: Peers, worker_requests: WorkerRequests) -> None:
        self._state = state
        self._peers = peers
        self._worker_requests = worker_requests

    async def replicate(self, keys: Sequence[str], names: list[str], count: int | None) -> None:
        """Have results kept on ``count`` of some workers each (None: all), fetched by these from their holders."""
        wanted: dict[str, list[list[Any]]] = {}
        for i, key in enumerate(keys):
            task = self._state.tasks.get(key)
            if task is None or not task.holders:
                continue  # small ones are with the scheduler, which outlives every worker
            have = {worker.name for worker in task.holders}
            missing = [name for name in names[i % len(names) :] + names[: i % len(names)] if name not in have]
            addresses = [worker.fetch_address for worker in task.holders]
            for name in missing[: None if count is None else max(0, count - len(have.intersection(names)))]:
                wanted.setdefault(name, []).append([key, addresses, task.order])
        await self._have_held(wanted)

    async def rebalance(self, names: list[str], keys: set[str] | None) -> int:
        """Move results until workers hold about the same share of their memory; return how many were moved."""
        state = self._state
        moves = rebalance.plan(state, names, keys)
        wanted: dict[str, list[list[Any]]] = {}
        for key, _, taker in moves:
            addresses = [worker.fetch_address for worker in state.tasks[key].holders or ()]
            wanted.setdefault(taker, []).append([key, addresses, state.tasks[key].order])
        await self._have_held(wanted)
        freed = rebalance.free_moved(state, moves)
        self._peers.send(freed)
        return len(freed)

    async def _have_held(self, wanted: dict[str, list[list[Any]]]) -> None:
        """Have workers fetch results from these addresses, and keep them. Those that are lost are left out."""
        await asyncio.gather(
            *(self._worker_requests.ask(name, "hold", results=results) for name, results in wanted.items()),
            return_exceptions=True,
        )
