"""What the head asks a worker, in the order in which it says things."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec

from hpclaunch.comm import messages as m, serialize
from hpclaunch.comm.framing import Frame
from hpclaunch.comm.memory import memory_pair
from hpclaunch.worker.server import WorkerServer, make_hello

gate = threading.Event()


def wait_at_the_gate() -> bool:
    return gate.wait(10)


def test_tasks_that_came_in_the_same_breath_are_taken_back() -> None:
    async def run() -> list[str]:
        ours, theirs = memory_pair("worker", "head")
        answered: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

        def hear(_: Any, frames: Any) -> None:
            for frame in frames:
                for message in frame.messages:
                    if isinstance(message, m.Reply) and not answered.done():
                        answered.set_result(msgspec.msgpack.decode(message.body))

        theirs.on_frames = hear
        worker = WorkerServer(make_hello("1.1-0", "c", job_id="1.1", threads=1))
        worker.attach(ours, m.Welcome(m.PROTOCOL_VERSION, "head"))
        sent = serialize.dump_function(wait_at_the_gate)
        call = serialize.dump_call((), None)[0]
        theirs.send(m.DefineFunction(sent.id, sent.name, sent.data))
        theirs.send(m.RunTasks(sent.id, ["a", "b", "c"], [call] * 3))
        theirs.send(m.Request(1, "take_back", msgspec.msgpack.encode({"keys": ["b", "c"]})))
        async with asyncio.timeout(10):
            taken = await answered
        gate.set()
        await worker.close()
        return taken

    assert set(asyncio.run(run())) == {"b", "c"}


def test_a_value_that_came_right_behind_the_welcome_is_told_of() -> None:
    """It is heard before the worker has its connection in hand: the head must not wait for it without end."""

    async def run() -> list[m.Message]:
        ours, theirs = memory_pair("worker", "head")
        heard: asyncio.Future[list[m.Message]] = asyncio.get_running_loop().create_future()
        theirs.on_frames = lambda _, frames: heard.set_result([one for frame in frames for one in frame.messages])
        worker = WorkerServer(make_hello("1.1-0", "c", job_id="1.1", threads=1))
        worker._on_frames(ours, [Frame([m.Put("value", 3)], [memoryview(b"abc")])])
        worker.attach(ours, m.Welcome(m.PROTOCOL_VERSION, "head"))
        async with asyncio.timeout(10):
            messages = await heard
        await worker.close()
        return messages

    assert asyncio.run(run()) == [m.TasksStored(["value"], [3], [0.0])]
