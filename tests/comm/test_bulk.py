"""Large results on connections of their own."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpclaunch.comm import bulk, tls
from hpclaunch.comm.bulk import BulkClient, BulkServer, Offer, lengths_of, read_offer
from hpclaunch.comm.messages import PROTOCOL_VERSION, Hello
from hpclaunch.comm.serialize import Payload, dump_value, load_value
from hpclaunch.errors import CommClosedError, PeerError

Run = Callable[..., Any]
ARRAY = np.arange(1_000_000.0)


def hello(role: str = "peer", cluster: str = "ours") -> Hello:
    return Hello(PROTOCOL_VERSION, role, "asker", cluster)


def server(credentials: Path | None) -> BulkServer:
    made = BulkServer("holder", "ours", tls.server_context(credentials, "worker") if credentials else None)
    made.listen("127.0.0.1")
    return made


def receiver(credentials: Path | None, greeting: Hello | None = None) -> BulkClient:
    context = tls.client_context(credentials, "worker") if credentials else None
    return BulkClient(greeting or hello(), context)


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("hpclaunch-bulk"):
            thread.join(10)
            assert not thread.is_alive()


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - threads change it
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("secure", [True, False])
def test_results_come_into_memory_of_their_own(run: Run, credentials: Path, secure: bool) -> None:
    keys = credentials if secure else None
    payload = dump_value({"a": ARRAY, "b": ARRAY[:5000] * 2, "empty": np.empty(0), "text": "x" * 100_000})

    async def story() -> None:
        holder, asker = server(keys), receiver(keys)
        for _ in range(3):
            offer = holder.offer(payload)
            assert offer is not None
            said = read_offer(offer.place, offer.lengths)
            assert said == offer
            received = await asker.take("127.0.0.1:1", said)
            value = load_value(*received)
            assert (value["a"] == ARRAY).all()
            assert (value["b"] == ARRAY[:5000] * 2).all()
            assert value["a"].flags.aligned
            assert value["a"].flags.writeable
            assert value["text"] == "x" * 100_000
        assert len(holder._open) == 1, "the connection is kept"
        asker.close()
        await until(lambda: not holder._open)
        holder.close()

    run(story())


def test_small_ones_are_not_offered(run: Run) -> None:
    async def story() -> None:
        holder = server(None)
        assert holder.offer(dump_value(ARRAY[:100_000])) is None
        assert holder._server is None
        holder.close()
        assert holder.offer(dump_value(ARRAY)) is None

    run(story())


def test_many_at_once(run: Run, credentials: Path) -> None:
    async def story() -> None:
        holder, asker = server(credentials), receiver(credentials)
        offers = [holder.offer(dump_value(ARRAY[:250_000] + i)) for i in range(20)]
        received = await asyncio.gather(*(asker.take("127.0.0.1:1", offer) for offer in offers if offer))
        for i, one in enumerate(received):
            assert load_value(*one)[0] == i
        assert len(holder._open) <= bulk._AT_ONCE
        assert not holder._offers
        asker.close()
        holder.close()

    run(story())


@pytest.mark.parametrize("secure", [True, False])
def test_values_are_brought_where_they_are_expected(run: Run, credentials: Path, secure: bool) -> None:
    keys = credentials if secure else None
    payload = dump_value({"a": ARRAY, "text": "x" * 100_000})

    async def story() -> None:
        keeper, bringer = server(keys), receiver(keys)
        kept: list[Payload] = []

        def keep(one: Payload) -> bool:
            kept.append(one)
            return len(kept) <= 3

        for count in range(1, 4):
            place = keeper.expect(lengths_of(payload), keep)
            assert place is not None
            said = read_offer(place.place, place.lengths)
            assert said is not None
            assert await bringer.bring("127.0.0.1:1", said, payload)
            assert len(kept) == count
            value = load_value(*kept[-1])
            assert (value["a"] == ARRAY).all()
            assert value["text"] == "x" * 100_000
        assert len(keeper._open) == 1, "the connection is kept"
        assert not keeper._expected
        with pytest.raises((PeerError, OSError)):
            await bringer.bring("127.0.0.1:1", said, payload)
        assert len(kept) == 3, "a place is for one value"
        refused = keeper.expect(lengths_of(payload), keep)
        assert refused is not None
        assert not await bringer.bring("127.0.0.1:1", refused, payload)
        bringer.close()
        await until(lambda: not keeper._open)
        keeper.close()
        assert keeper.expect(lengths_of(payload), keep) is None

    run(story())


def test_nobody_else_brings_anything(run: Run, credentials: Path, other_credentials: Path) -> None:
    async def story() -> None:
        keeper = server(credentials)
        kept: list[Payload] = []
        payload = dump_value(ARRAY)
        place = keeper.expect(lengths_of(payload), lambda one: kept.append(one) is None)
        assert place is not None
        for bringer in [receiver(other_credentials), receiver(None), receiver(credentials, hello(role="head"))]:
            with pytest.raises((PeerError, OSError)):
                await bringer.bring("127.0.0.1:1", place, payload)
            bringer.close()
        assert not kept
        assert list(keeper._expected) == [place.ticket]
        keeper.close()

    run(story())


def test_nobody_else_gets_anything(run: Run, credentials: Path, other_credentials: Path) -> None:
    async def story() -> None:
        holder = server(credentials)
        offer = holder.offer(dump_value(ARRAY))
        assert offer is not None
        wrong = [
            receiver(other_credentials),
            receiver(credentials, hello(cluster="another")),
            receiver(credentials, hello(role="head")),
            receiver(None),
        ]
        for asker in wrong:
            with pytest.raises((PeerError, OSError)):
                await asker.take("127.0.0.1:1", offer)
            asker.close()
        assert holder._offers, "the offer is still there"
        asker = receiver(credentials)
        with pytest.raises((PeerError, OSError)):
            await asker.take("127.0.0.1:1", offer._replace(ticket="guessed"))
        assert (await asker.take("127.0.0.1:1", offer)).size == sum(offer.lengths)
        with pytest.raises((PeerError, OSError)):
            await asker.take("127.0.0.1:1", offer)  # once only
        asker.close()
        holder.close()

    run(story())


@pytest.mark.parametrize("count", [1, 3 * bulk._STRANGERS])
@pytest.mark.parametrize("secure", [True, False])
def test_strangers_who_say_nothing_keep_nobody_away(
    run: Run, credentials: Path, monkeypatch: pytest.MonkeyPatch, count: int, secure: bool
) -> None:
    """Their handshakes are beside one another, and the oldest make way, long before their time is over."""
    monkeypatch.setattr(bulk, "HANDSHAKE_SECONDS", 600.0)
    monkeypatch.setattr(bulk, "DIAL_SECONDS", 60.0)
    monkeypatch.setattr(bulk, "_LEAST_SECONDS", 0.01)

    async def story() -> None:
        holder, asker = (make(credentials if secure else None) for make in (server, receiver))
        offer = holder.offer(dump_value(ARRAY))
        assert offer is not None
        silent = [socket.create_connection(("127.0.0.1", offer.port)) for _ in range(count)]
        assert (await asker.take("127.0.0.1:1", offer)).size
        for one in silent:
            one.close()
        asker.close()
        holder.close()

    run(story())


def test_the_port_goes_on_after_a_connection_could_not_be_accepted(
    run: Run, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failing accept() had ended the port for good."""
    failed: list[object] = []
    monkeypatch.setattr(bulk.log, "warning", lambda *words: failed.append(words))

    async def scene() -> None:
        holder, client = server(credentials), receiver(credentials)
        payload = dump_value(np.zeros(bulk.LEAST_BYTES, dtype=np.int8))
        offer = holder.offer(payload)
        assert offer is not None
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as early:
            early.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (early.fileno() + 1, hard))
            try:
                early.connect_ex(("127.0.0.1", offer.port))
                await until(lambda: failed)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert (await client.take("127.0.0.1:1", offer)).size == payload.size
        client.close()
        holder.close()

    run(scene())


def test_an_offer_that_nobody_takes_expires(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "STALL_SECONDS", 0.05)

    async def story() -> None:
        holder = server(None)
        assert holder.offer(dump_value(ARRAY)) is not None
        await until(lambda: not holder._offers)
        holder.close()

    run(story())


class Half:
    """A holder that sends some of a result, and then what ``then`` does with the connection."""

    def __init__(self, then: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
        self._then = then
        monkeypatch.setattr(BulkServer, "_send", self._send)

    def _send(self, connection: Any, tickets: Any) -> None:
        connection.send_raw(memoryview(b"x" * 3_000_000), 5)
        self._then(connection)


@pytest.mark.parametrize("secure", [True, False])
def test_a_holder_that_dies_in_the_middle(
    run: Run, credentials: Path, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Half(lambda connection: connection.cut(), monkeypatch)
    keys = credentials if secure else None

    async def story() -> None:
        holder, asker = server(keys), receiver(keys)
        offer = holder.offer(dump_value(ARRAY))
        assert offer is not None
        with pytest.raises((OSError, PeerError)):
            await asker.take("127.0.0.1:1", offer)
        assert not asker._busy
        asker.close()
        holder.close()

    run(story())


def test_a_holder_that_stands_still(run: Run, credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    Half(lambda connection: go_on.wait(20) and connection.cut(), monkeypatch)
    monkeypatch.setattr(bulk, "STALL_SECONDS", 0.2)

    async def story() -> None:
        holder, asker = server(credentials), receiver(credentials)
        offer = holder.offer(dump_value(ARRAY))
        assert offer is not None
        with pytest.raises(TimeoutError):
            await asker.take("127.0.0.1:1", offer)
        go_on.set()
        asker.close()
        holder.close()

    run(story())


def test_closing_ends_what_is_under_way(run: Run, credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def stand(connection: Any) -> None:
        reached.set()
        go_on.wait(20)

    Half(stand, monkeypatch)

    async def story() -> None:
        holder, asker = server(credentials), receiver(credentials)
        offer = holder.offer(dump_value(ARRAY))
        assert offer is not None
        taking = asyncio.ensure_future(asker.take("127.0.0.1:1", offer))
        await until(reached.is_set)
        asker.close()
        with pytest.raises((OSError, PeerError)):
            await taking
        go_on.set()
        holder.close()

    run(story())


@pytest.mark.parametrize(
    ("place", "lengths"),
    [
        ("", [1]),
        ("/proc/1/fd/3", [1]),
        ("bulk:x:t", [1]),
        ("bulk:80:t", []),
        ("bulk:80:t", [-1]),
        ("bulk:80:t", [1 << 60]),
    ],
)
def test_what_is_no_offer(place: str, lengths: list[int]) -> None:
    assert read_offer(place, lengths) is None


def test_a_port_that_is_not_there(run: Run, credentials: Path) -> None:
    async def story() -> None:
        asker = receiver(credentials)
        with pytest.raises((CommClosedError, OSError)):
            await asker.take("127.0.0.1:1", Offer(1, "t", [1]))
        asker.close()

    run(story())
