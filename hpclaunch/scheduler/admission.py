"""How much of what clients put on workers may come through the head at a time.

A client asks for room before it sends values this way, and waits until it gets some. What was promised and has not
come, and what has come and waits here until a worker takes it, stays below ``MOST_BYTES_IN_ALL``; a value that is
larger comes alone. Who asks first gets room first; of a client that is gone nothing is expected any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from hpclaunch.scheduler.peers import Peer
from hpclaunch.scheduler.relays import MOST_BYTES_IN_ALL


class Admission:
    """Grants room to clients.

    :param backlog: returns the bytes that wait here for workers.
    """

    def __init__(self, backlog: Callable[[], int]) -> None:
        self._backlog = backlog
        self.granted: dict[Peer, int] = {}  # bytes
        self.waiting: deque[tuple[Peer, int, asyncio.Future[None]]] = deque()

    async def admit(self, peer: Peer, size: int) -> None:
        """Return when a client may send so many bytes."""
        promise: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((peer, max(0, size), promise))
        self.serve()
        await promise

    def on_received(self, peer: Peer, size: int) -> None:
        """A client has sent a value, of which a part may wait here now."""
        left = self.granted.pop(peer, 0) - size
        if left > 0:
            self.granted[peer] = left
        self.serve()

    def serve(self) -> None:
        """Make as many promises as there is room for. To be called now and then while a client waits."""
        if not self.waiting:
            return
        for peer in [peer for peer in self.granted if peer.comm.is_closed]:
            del self.granted[peer]
        taken = sum(self.granted.values()) + self._backlog()
        while self.waiting:
            peer, size, promise = self.waiting[0]
            if not promise.done() and not peer.comm.is_closed:
                if taken and taken + size > MOST_BYTES_IN_ALL:
                    return
                taken += size
                self.granted[peer] = self.granted.get(peer, 0) + size
            self.waiting.popleft()
            if not promise.done():  # else it was cancelled with the head
                promise.set_result(None)
