"""A worker that is told to end in the same breath in which it is welcomed."""

from __future__ import annotations

import asyncio

import pytest

from hpclaunch.comm import messages as m
from hpclaunch.comm.connection import Connection
from hpclaunch.comm.listener import Listener
from hpclaunch.worker.server import WorkerServer, make_hello


@pytest.mark.parametrize("drain", [False, True])
def test_ends_when_told_right_behind_the_welcome(drain: bool):
    async def run() -> str:
        def on_peer(connection: Connection, hello: m.Hello) -> m.Welcome:
            connection.on_frames = connection.on_lost = lambda *_: None
            loop.call_soon(connection.send, m.StopWorkers("not wanted any more", drain=drain))
            return m.Welcome(m.PROTOCOL_VERSION, "head")

        loop = asyncio.get_running_loop()
        listener = Listener("c", None, on_peer)
        await listener.start(["127.0.0.1"])
        worker = WorkerServer(make_hello("1.1-0", "c", job_id="1.1", threads=1))
        await worker.join(f"127.0.0.1:{listener.port}", "127.0.0.1")
        async with asyncio.timeout(10):
            reason = await worker.ended
        await worker.close()
        await listener.close()
        return reason

    assert asyncio.run(run()) == "not wanted any more"
