"""Room for values that clients send through the head: never too much, and every client gets some in the end."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, strategies as st

from hpclaunch.scheduler.admission import Admission
from hpclaunch.scheduler.relays import MOST_BYTES_IN_ALL


class FakePeer:
    def __init__(self) -> None:
        self.comm: Any = self
        self.is_closed = False


SIZES = st.sampled_from([1, MOST_BYTES_IN_ALL // 3, MOST_BYTES_IN_ALL, 3 * MOST_BYTES_IN_ALL])


@given(st.lists(st.tuples(st.sampled_from("aaasstl"), st.integers(0, 2), SIZES), max_size=40))
def test_whoever_asks_there_is_never_too_much_and_all_get_room(steps: list[tuple[str, int, int]]) -> None:
    async def scene() -> None:
        backlog = 0
        room = Admission(lambda: backlog)
        peers: list[Any] = [FakePeer() for _ in range(3)]
        granted: list[tuple[Any, int]] = []  # and not sent yet
        tasks: list[asyncio.Task[None]] = []

        async def admit(peer: Any, size: int) -> None:
            await room.admit(peer, size)
            granted.append((peer, size))

        def send(which: int) -> None:
            nonlocal backlog
            peer, size = granted.pop(which % len(granted))
            if not peer.is_closed:
                backlog += size
                room.on_received(peer, size)

        def check() -> None:
            coming = [size for peer, size in granted if not peer.is_closed]
            total = sum(coming) + backlog
            assert total <= MOST_BYTES_IN_ALL or len(coming) + bool(backlog) == 1

        for what, which, size in steps:
            if what == "a":
                tasks.append(asyncio.ensure_future(admit(peers[which], size)))
            elif what == "s" and granted:
                send(which)
            elif what == "t":
                backlog = 0
                room.serve()
            elif what == "l":
                peers[which].is_closed = True
                peers[which] = FakePeer()
            for _ in range(3):
                await asyncio.sleep(0)
            check()
        for _ in range(2 * len(tasks)):
            backlog = 0
            room.serve()
            for _ in range(3):
                await asyncio.sleep(0)
            check()
            while granted:
                send(0)
        assert all(task.done() for task in tasks)
        assert not room.waiting

    asyncio.run(scene())


def test_what_a_client_that_is_gone_was_promised_is_for_others() -> None:
    async def scene() -> None:
        room = Admission(lambda: 0)
        one, other = FakePeer(), FakePeer()
        await room.admit(one, MOST_BYTES_IN_ALL)  # type: ignore[arg-type]
        asking = asyncio.ensure_future(room.admit(other, 1))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert not asking.done()
        one.is_closed = True
        room.serve()
        await asking
        assert list(room.granted.values()) == [1]

    asyncio.run(scene())
