"""Connections: one write per tick, order, large data, goodbyes, pairs in memory, and dialling without a loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hpclaunch.comm import framing, messages as m, tls
from hpclaunch.comm.blocking import BlockingConnection, dial_blocking
from hpclaunch.comm.connection import Connection, dial
from hpclaunch.comm.fetch import Fetcher, answer_fetch
from hpclaunch.comm.framing import LIMIT_STRANGER, Frame
from hpclaunch.comm.listener import Listener
from hpclaunch.comm.memory import MemoryConnection, memory_pair
from hpclaunch.comm.serialize import Payload
from hpclaunch.errors import CommClosedError, HandshakeError

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class End:
    """One end of a connection, and what it has heard."""

    def __init__(self) -> None:
        self.comm: Any = None
        self.messages: list[m.Message] = []
        self.buffers: list[bytes] = []
        self.frames = 0
        self.lost = ""
        self._changed = asyncio.Event()

    def on_frames(self, comm: Any, frames: list[Frame]) -> None:
        for messages, buffers in frames:
            self.frames += 1
            self.messages += messages
            self.buffers += [bytes(b) for b in buffers]
        self._changed.set()

    def on_lost(self, comm: Any, reason: str) -> None:
        assert not self.lost, "it was lost twice"
        self.lost = reason
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 10)

    async def hear(self, count: int) -> list[m.Message]:
        await self.until(lambda: len(self.messages) >= count)
        return self.messages


@contextlib.asynccontextmanager
async def pair(directory: Path | None, *, in_memory: bool = False) -> Any:
    """Give two ends of one connection: the dialling and the accepting one."""
    near, far = End(), End()
    if in_memory:
        near.comm, far.comm = memory_pair("client", "head")
        for end in (near, far):
            end.comm.on_frames, end.comm.on_lost = end.on_frames, end.on_lost
        yield near, far
        return

    def on_peer(connection: Connection, hello: m.Hello) -> m.Welcome:
        connection.on_frames, connection.on_lost = far.on_frames, far.on_lost
        far.comm = connection
        return m.Welcome(m.PROTOCOL_VERSION, "ours")

    listener = Listener("ours", tls.server_context(directory, "head") if directory else None, on_peer)
    await listener.start(["127.0.0.1"])
    hello = m.Hello(m.PROTOCOL_VERSION, "client", "me", "ours")
    context = tls.client_context(directory, "client") if directory else None
    near.comm, _ = await dial(f"127.0.0.1:{listener.port}", hello, context, near.on_frames, near.on_lost)
    try:
        yield near, far
    finally:
        await listener.close()
        for end in (near, far):
            if not end.lost:
                end.comm.abort("the test is over")
                await end.until(lambda end=end: bool(end.lost))  # type: ignore[misc]


KINDS = ["tls", "plain", "memory"]


@pytest.fixture(params=KINDS)
def open_pair(request: pytest.FixtureRequest, credentials: Path) -> Callable[[], Any]:
    if request.param == "memory":
        return lambda: pair(None, in_memory=True)
    return lambda: pair(credentials if request.param == "tls" else None)


# --- sending


def test_all_messages_of_one_tick_travel_in_one_frame(open_pair: Callable[[], Any], run: Run) -> None:
    async def scene() -> None:
        async with open_pair() as (near, far):
            sent = [m.Goodbye(str(i)) for i in range(100)]
            for message in sent:
                near.comm.send(message)
            assert await far.hear(100) == sent
            assert far.frames == 1

    run(scene())


def test_one_write_per_tick(credentials: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with pair(credentials) as (near, far):
            writes: list[int] = []
            real = near.comm._transport

            class Spy:
                def write(self, data: bytes) -> None:
                    writes.append(len(data))
                    real.write(data)

                def __getattr__(self, name: str) -> Any:
                    return getattr(real, name)

            near.comm._transport = Spy()
            for _ in range(50):
                near.comm.send(m.Heartbeat())
            near.comm.flush()
            near.comm.flush()
            await far.hear(50)
            assert len(writes) == 1
            near.comm._transport = real

    run(scene())


def test_order_is_kept_around_buffers(open_pair: Callable[[], Any], run: Run) -> None:
    async def scene() -> None:
        async with open_pair() as (near, far):
            near.comm.send(m.Goodbye("first"))
            near.comm.send_buffers(m.Data(1, "k", 2), [b"abc", bytes(300_000)])
            near.comm.send(m.Goodbye("last"))
            assert await far.hear(3) == [m.Goodbye("first"), m.Data(1, "k", 2), m.Goodbye("last")]
            assert far.buffers == [b"abc", bytes(300_000)]

    run(scene())


def test_large_data_in_both_directions_at_once(open_pair: Callable[[], Any], run: Run) -> None:
    async def scene() -> None:
        data = [os.urandom(1 << 20) * 4, os.urandom(77)]
        async with open_pair() as (near, far):
            for end in (near, far):
                for i in range(3):
                    end.comm.send_buffers(m.Data(i, "k", 2), data)
            for end in (near, far):
                await end.hear(3)
                assert end.buffers == data * 3

    run(scene())


def test_bulk_data_arrives_whole_and_in_order_before_a_close(open_pair: Callable[[], Any], run: Run) -> None:
    async def scene() -> None:
        data = [os.urandom(1 << 20) * 9]
        async with open_pair() as (near, far):
            near.comm.send_buffers(m.Data(1, "k", 1), data)
            near.comm.send(m.Heartbeat())
            near.comm.close("all said")
            assert near.comm.is_closed
            assert await far.hear(2) == [m.Data(1, "k", 1), m.Heartbeat()]
            assert far.buffers == data
            await far.until(lambda: bool(far.lost))

    run(scene())


def test_closing_sends_what_is_queued_and_tells_both_ends(open_pair: Callable[[], Any], run: Run) -> None:
    async def scene() -> None:
        async with open_pair() as (near, far):
            near.comm.send(m.Goodbye("the work is done"))
            near.comm.close("the work is done")
            assert near.comm.is_closed
            assert await far.hear(1) == [m.Goodbye("the work is done")]
            await far.until(lambda: bool(far.lost))
            await near.until(lambda: bool(near.lost))
            assert near.lost == "the work is done"
            assert far.comm.is_closed
            for end in (near, far):  # what comes late is dropped, and is no error
                end.comm.send(m.Heartbeat())
                end.comm.send_buffers(m.Data(1, "k", 1), [b"x"])
                end.comm.flush()
                end.comm.close()
            await asyncio.sleep(0)
            assert len(far.messages) == 1

    run(scene())


def test_an_abort_loses_what_is_queued(open_pair: Callable[[], Any], run: Run) -> None:
    async def scene() -> None:
        async with open_pair() as (near, far):
            near.comm.send(m.Heartbeat())
            near.comm.abort("no more of this")
            await far.until(lambda: bool(far.lost))
            await near.until(lambda: bool(near.lost))
            assert near.lost == "no more of this"
            assert far.messages == []

    run(scene())


def test_garbage_from_a_member_ends_the_connection_with_the_reason(credentials: Path, run: Run) -> None:
    async def scene() -> None:
        async with pair(credentials) as (near, far):
            near.comm._transport.write(b"\0\0\0\x02\0\0\0\0\x91\xc1")
            await far.until(lambda: bool(far.lost))
            assert "no message of ours" in far.lost

    run(scene())


def test_a_message_that_fits_no_frame_ends_the_connection_with_the_reason(
    open_pair: Callable[[], Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with open_pair() as (near, _):
            monkeypatch.setattr(framing, "LIMIT_BODY", 100)
            near.comm.send(m.Goodbye("x" * 200))
            await near.until(lambda: bool(near.lost))
            assert "does not fit into one frame" in near.lost

    run(scene())


@pytest.mark.parametrize("is_at_once", [True, False])
def test_large_frames_with_and_right_behind_the_welcome_arrive(
    credentials: Path, run: Run, is_at_once: bool
) -> None:
    large = m.DefineFunction(b"id", "work", bytes(3 * LIMIT_STRANGER))

    async def scene() -> None:
        end = End()

        def on_peer(connection: Connection, hello: m.Hello) -> m.Welcome:
            connection.on_frames, connection.on_lost = (lambda *_: None), (lambda *_: None)
            loop = asyncio.get_running_loop()
            loop.call_soon(connection.send, large)  # in one frame with the welcome
            if not is_at_once:
                loop.call_soon(connection.flush)
                loop.call_soon(connection.send, large)
            return m.Welcome(m.PROTOCOL_VERSION, "ours")

        listener = Listener("ours", tls.server_context(credentials, "head"), on_peer)
        await listener.start(["127.0.0.1"])
        hello = m.Hello(m.PROTOCOL_VERSION, "client", "me", "ours")
        connection, _ = await dial(
            f"127.0.0.1:{listener.port}",
            hello,
            tls.client_context(credentials, "client"),
            end.on_frames,
            end.on_lost,
        )
        count = 1 if is_at_once else 2
        assert await end.hear(count) == [large] * count
        connection.close()
        await listener.close()
        await end.until(lambda: bool(end.lost))

    run(scene())


def test_a_listener_uses_one_port_on_all_its_hosts(run: Run) -> None:
    async def scene() -> None:
        listener = Listener("ours", None, lambda *_: m.Welcome(1, "ours"))
        await listener.start(["127.0.0.1", "127.0.0.2", "127.0.0.3"])
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            with socket.create_connection((host, listener.port), 5):
                pass
        other = Listener("ours", None, lambda *_: m.Welcome(1, "ours"))
        with pytest.raises(OSError, match="in use"):
            await other.start(["127.0.0.1"], listener.port)
        await listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port), 5)

    run(scene())


def test_a_dead_host_will_be_noticed_by_the_kernel(credentials: Path, run: Run) -> None:
    async def scene() -> None:
        async with pair(credentials) as (near, far):
            for end in (near, far):
                sock = end.comm._transport.get_extra_info("socket")
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30

    run(scene())


def test_the_ends_of_a_memory_pair_know_each_other(run: Run) -> None:
    async def scene() -> None:
        ours, theirs = memory_pair("worker", "head")
        assert (ours.peer, theirs.peer) == ("head", "worker")
        ours.send(m.Heartbeat())  # no process listens yet; that is no error
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert isinstance(ours, MemoryConnection)

    run(scene())


# --- without a loop


class LoopThread:
    """A listener on a loop in another thread."""

    def __init__(self, directory: Path | None, *, refuse: str = "", silent: bool = False) -> None:
        self.ready = threading.Event()
        self.directory, self.refuse = directory, refuse
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self._serve)
        self.connections: list[Connection] = []
        self.messages: list[m.Message] = []
        self.lost = threading.Event()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._start())
        self.loop.run_forever()
        self.loop.run_until_complete(self._stop())
        self.loop.close()

    async def _start(self) -> None:
        context = tls.server_context(self.directory, "head") if self.directory else None
        self.listener = Listener("ours", context, self._on_peer)
        await self.listener.start(["127.0.0.1"])
        self.address = f"127.0.0.1:{self.listener.port}"
        self.ready.set()

    async def _stop(self) -> None:
        await self.listener.close()
        for connection in self.connections:
            connection.abort("over")
        await asyncio.sleep(0.01)

    def _on_peer(self, connection: Connection, hello: m.Hello) -> m.Welcome:
        if self.refuse:
            raise HandshakeError(self.refuse)
        connection.on_frames = lambda _, frames: self.messages.extend(x for f in frames for x in f.messages)
        connection.on_lost = lambda *_: self.lost.set()
        self.connections.append(connection)
        return m.Welcome(m.PROTOCOL_VERSION, "ours", heartbeat_seconds=7.0)

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Run a function on the loop and wait for it."""
        done = threading.Event()

        def run() -> None:
            function(*args)
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(5)

    def __enter__(self) -> LoopThread:
        self.thread.start()
        assert self.ready.wait(5)
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        assert not self.thread.is_alive()


SUPERVISOR = m.Hello(m.PROTOCOL_VERSION, "supervisor", "s", "ours", job_id="1")


@pytest.fixture(params=[True, False], ids=["tls", "plain"])
def keys(request: pytest.FixtureRequest, credentials: Path) -> Path | None:
    return credentials if request.param else None


@pytest.fixture
def met(keys: Path | None) -> Iterator[tuple[LoopThread, BlockingConnection]]:
    with LoopThread(keys) as house:
        context = tls.client_context(keys, "worker") if keys else None
        connection, welcome = dial_blocking(house.address, SUPERVISOR, context, timeout=5)
        assert welcome.heartbeat_seconds == 7.0
        assert connection.local_host() == "127.0.0.1"
        yield house, connection
        connection.close()
        connection.close()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.002)


def test_blocking_messages_go_both_ways(met: tuple[LoopThread, BlockingConnection]) -> None:
    house, connection = met
    assert connection.receive() == []
    connection.send([m.Heartbeat(), m.Goodbye("x" * 500_000)])
    until(lambda: len(house.messages) == 2)
    house.call(house.connections[0].send, m.StopWorkers("x" * 500_000))
    got: list[m.Message] = []
    until(lambda: got.extend(connection.wait(5)) or got)
    assert got == [m.StopWorkers("x" * 500_000)]
    assert connection.wait(0.01) == []


def all_until_the_end(connection: BlockingConnection) -> list[m.Message]:
    got: list[m.Message] = []
    with contextlib.suppress(CommClosedError):
        while True:
            got += connection.wait(5)
    return got


def test_what_came_before_the_end_is_returned_before_the_end_is_raised(
    met: tuple[LoopThread, BlockingConnection],
) -> None:
    house, connection = met

    def stop_and_close() -> None:
        house.connections[0].send(m.StopWorkers("the cluster is closed"))
        house.connections[0].close()

    house.call(stop_and_close)
    assert all_until_the_end(connection) == [m.StopWorkers("the cluster is closed")]
    with pytest.raises(CommClosedError):
        connection.receive()


def test_a_last_word_and_the_end_may_come_at_once() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = BlockingConnection(ours)
    for piece in framing.encode([m.StopWorkers("the cluster is closed")]):
        theirs.sendall(piece)
    theirs.close()
    assert connection.receive() == [m.StopWorkers("the cluster is closed")]
    with pytest.raises(CommClosedError, match="the other side closed"):
        connection.receive()
    connection.close()


def test_a_blocking_connection_can_be_given_messages_back(met: tuple[LoopThread, BlockingConnection]) -> None:
    house, connection = met
    connection.put_back([m.Goodbye("1"), m.Goodbye("2")])
    house.call(house.connections[0].send, m.Goodbye("3"))
    got = connection.receive()
    until(lambda: got.extend(connection.receive()) or len(got) == 3)
    assert got == [m.Goodbye("1"), m.Goodbye("2"), m.Goodbye("3")]


def test_sending_to_one_who_is_gone_is_an_error_of_ours(met: tuple[LoopThread, BlockingConnection]) -> None:
    house, connection = met
    house.call(house.connections[0].abort, "bye")
    with pytest.raises(CommClosedError):
        connection.send([m.Goodbye("x" * 50_000_000)], timeout=5)


def test_sending_to_one_who_does_not_read_ends_in_time() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = BlockingConnection(ours)
    with pytest.raises(CommClosedError, match="takes no data"):
        connection.send([m.Goodbye("x" * 10_000_000)], timeout=0.1)
    connection.close()
    theirs.close()


def test_a_refusal_is_told_with_its_reason(keys: Path | None) -> None:
    with LoopThread(keys, refuse="job 1 is to end: walltime") as house:
        context = tls.client_context(keys, "worker") if keys else None
        for _ in range(5):  # the goodbye and the end may come together or apart
            with pytest.raises(HandshakeError, match="sent us away: job 1 is to end: walltime"):
                dial_blocking(house.address, SUPERVISOR, context, timeout=5)


def test_a_fork_can_let_go_of_a_connection_without_ending_it(met: tuple[LoopThread, BlockingConnection]) -> None:
    house, connection = met
    pid = os.fork()
    if not pid:
        connection.abandon()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    connection.send([m.Heartbeat()])
    until(lambda: house.messages)


def test_blocking_dials_fail_as_others_do(credentials: Path, other_credentials: Path) -> None:
    worker = tls.client_context(credentials, "worker")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(CommClosedError):
            dial_blocking(f"127.0.0.1:{port}", SUPERVISOR, worker, timeout=0.2)
        with pytest.raises(CommClosedError, match=r"did not answer within 0.2 s"):
            dial_blocking(f"127.0.0.1:{port}", SUPERVISOR, None, timeout=0.2)
    with pytest.raises(CommClosedError, match="no connection to"):
        dial_blocking(f"127.0.0.1:{port}", SUPERVISOR, worker, timeout=5)
    with LoopThread(other_credentials) as house, pytest.raises(HandshakeError, match="not a member"):
        dial_blocking(house.address, SUPERVISOR, worker, timeout=5)
    with LoopThread(credentials) as house:
        client = tls.client_context(credentials, "client")
        with pytest.raises(HandshakeError, match="may not act as 'supervisor'"):
            dial_blocking(house.address, SUPERVISOR, client, timeout=5)
        with pytest.raises(HandshakeError, match="is not the worker"):
            dial_blocking(house.address, SUPERVISOR, worker, expect_role="worker", timeout=5)


# --- fetching


class Holder:
    """A worker's port, with results behind it."""

    def __init__(self, directory: Path, store: dict[str, Payload]) -> None:
        self.store = store
        self.asked: list[str] = []
        self.is_asked = asyncio.Event()
        self.connections: list[Connection] = []
        self.answers = True
        self.listener = Listener("ours", tls.server_context(directory, "worker"), self._on_peer)

    async def start(self) -> str:
        await self.listener.start(["127.0.0.1"])
        return f"127.0.0.1:{self.listener.port}"

    def _on_peer(self, connection: Connection, hello: m.Hello) -> m.Welcome:
        connection.on_frames, connection.on_lost = self._on_frames, lambda *_: None
        self.connections.append(connection)
        return m.Welcome(m.PROTOCOL_VERSION, "holder")

    def _on_frames(self, connection: Connection, frames: list[Frame]) -> None:
        for frame in frames:
            for message in frame.messages:
                assert isinstance(message, m.Fetch)
                self.asked += message.keys
                self.is_asked.set()
                if self.answers:
                    answer_fetch(connection, message, self.store.get)

    async def close(self) -> None:
        await self.listener.close()
        for connection in self.connections:
            connection.abort("closed")
        await asyncio.sleep(0.01)


def a_fetcher(directory: Path, head: Any = None) -> Fetcher:
    hello = m.Hello(m.PROTOCOL_VERSION, "peer", "me", "ours")
    return Fetcher(hello, tls.client_context(directory, "client"), lambda: head)


def test_results_are_fetched_over_one_connection(credentials: Path, run: Run) -> None:
    async def scene() -> None:
        store = {f"k{i}": Payload(b"p%d" % i, [b"buffer", bytes(200_000)]) for i in range(5)}
        holder = Holder(credentials, store)
        address = await holder.start()
        fetcher = a_fetcher(credentials)
        got = await asyncio.gather(*(fetcher.fetch([address], key) for key in store))
        for payload, expected in zip(got, store.values(), strict=True):
            assert (bytes(payload.pickle), [bytes(b) for b in payload.buffers]) == tuple(expected)
        assert await fetcher.fetch([address], "nothing") is None
        assert len(holder.connections) == 1
        fetcher.close()
        await holder.close()

    run(scene())


def test_the_next_holder_is_asked_when_one_has_it_not(credentials: Path, run: Run) -> None:
    async def scene() -> None:
        empty, full = Holder(credentials, {}), Holder(credentials, {"k": Payload(b"p", [])})
        addresses = [await empty.start(), await full.start()]
        fetcher = a_fetcher(credentials)
        payload = await fetcher.fetch(addresses, "k")
        assert payload is not None
        assert bytes(payload.pickle) == b"p"
        assert empty.asked == full.asked == ["k"]
        fetcher.close()
        await empty.close()
        await full.close()

    run(scene())


def test_who_cannot_be_reached_is_asked_through_the_head_from_then_on(
    credentials: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{closed.getsockname()[1]}"
        head = End()
        head.comm, far = memory_pair("client", "head")
        relayed: list[str] = []

        def answer(comm: Any, frames: list[Frame]) -> None:
            for frame in frames:
                for message in frame.messages:
                    relayed.append(message.via)  # type: ignore[union-attr]
                    answer_fetch(comm, message, {"k": Payload(b"relayed", [b"b"])}.get)  # type: ignore[arg-type]

        far.on_frames = answer
        fetcher = a_fetcher(credentials, head.comm)
        head.comm.on_frames = lambda _, frames: [
            fetcher.on_data(message, frame.buffers) for frame in frames for message in frame.messages
        ]
        assert await fetcher.fetch([address], "none") is None
        assert not caplog.messages  # it may be dead, for all that is known
        for _ in range(2):
            payload = await fetcher.fetch([address], "k")
            assert payload is not None
            assert bytes(payload.pickle) == b"relayed"
        assert await fetcher.fetch(["worker:w1"], "none") is None
        assert relayed == [address, address, address, "worker:w1"]
        assert [text.partition(" (")[0] for text in caplog.messages] == [f"{address} can't be reached directly"]
        fetcher.close()

    run(scene())


def test_a_holder_that_goes_while_it_is_asked_is_not_waited_for(
    credentials: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        holder = Holder(credentials, {})
        holder.answers = False
        address = await holder.start()
        fetcher = a_fetcher(credentials)
        waiting = asyncio.ensure_future(fetcher.fetch([address], "k"))
        await asyncio.wait_for(holder.is_asked.wait(), 5)
        await holder.close()
        assert await waiting is None  # the head is not there either
        assert not caplog.messages  # nothing is wrong with the network
        fetcher.close()

    run(scene())


def test_giving_up_one_fetch_leaves_the_others_alone(credentials: Path, run: Run) -> None:
    """They share the dialling of a holder."""

    async def scene() -> None:
        holder = Holder(credentials, {"k": Payload(b"p", [])})
        address = await holder.start()
        fetcher = a_fetcher(credentials)
        one = asyncio.ensure_future(fetcher.fetch([address], "k"))
        two = asyncio.ensure_future(fetcher.fetch([address], "k"))
        await asyncio.sleep(0)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        assert (await two) is not None
        fetcher.close()
        await holder.close()

    run(scene())


def test_closing_ends_all_waiting(credentials: Path, run: Run) -> None:
    async def scene() -> None:
        holder = Holder(credentials, {})
        holder.answers = False
        address = await holder.start()
        ours, _ = memory_pair("client", "head")
        fetcher = a_fetcher(credentials, ours)
        direct = asyncio.ensure_future(fetcher.fetch([address], "k"))
        relayed = asyncio.ensure_future(fetcher.fetch(["worker:w"], "k"))
        await asyncio.wait_for(holder.is_asked.wait(), 5)
        ours.close()
        fetcher.close()
        assert await asyncio.wait_for(direct, 5) is None
        assert await asyncio.wait_for(relayed, 5) is None
        await holder.close()

    run(scene())


@pytest.mark.parametrize(("said", "sent"), [(2, 1), (1, 0), (0, 0), (-1, 0)])
def test_an_answer_without_the_buffers_that_it_announces_is_no_answer(
    credentials: Path, run: Run, said: int, sent: int
) -> None:
    async def scene() -> None:
        ours, theirs = memory_pair("client", "head")
        theirs.on_frames = lambda comm, frames: comm.send_buffers(m.Data(1, "k", said), [b"x"] * sent)
        fetcher = a_fetcher(credentials, ours)
        ours.on_frames = lambda _, frames: fetcher.on_data(frames[0].messages[0], frames[0].buffers)  # type: ignore[arg-type]
        assert await fetcher.fetch(["worker:w"], "k") is None

    run(scene())
