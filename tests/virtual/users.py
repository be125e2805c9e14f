"""What people do on a virtual cluster: graphs of tasks whose results are known, and all that can be asked."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from hpclaunch.client.calls import scatter as client_data
from hpclaunch.client.client import Client
from hpclaunch.client.coordination import requests
from hpclaunch.client.futures.collect import fire_and_forget
from hpclaunch.client.futures.future import CANCELLED, DONE, FAILED, LOST, PENDING, STORED, Future
from hpclaunch.comm import messages as m, serialize
from tests.client.inside import core_of, submission_of
from tests.virtual.cluster import VirtualCluster

#: Virtual seconds in which anything that is waited for must come to its end.
PATIENCE = 2000.0

_moods = random.Random(0)


def combine(size: int, mark: int, *parts: bytes) -> bytes:
    """Return bytes that depend on the arguments alone."""
    total = sum((i + 1) * int.from_bytes(part[:4], "big") for i, part in enumerate(parts))
    return ((total + 31 * mark + size) % (1 << 32)).to_bytes(4, "big") + bytes(size)


def moody(size: int, mark: int, *parts: bytes) -> bytes:
    """As :func:`combine`, when it feels like it."""
    if _moods.random() < 0.4:
        raise ValueError("not now")
    return combine(size, mark, *parts)


class Wish:
    """A future, and what it may come to: its value, or certain failures."""

    def __init__(self, future: Future, value: bytes, may: frozenset[str]) -> None:
        self.future = future
        self.value = value
        self.may = may  # kinds of failure; "cancelled"


class Shared(NamedTuple):
    """A future in a named thing."""

    key: str
    value: bytes
    may: frozenset[str]


class User:
    """One person with one client."""

    def __init__(
        self, cluster: VirtualCluster, client: Client, shared: dict[str, Shared], busy: set[str], seed: int
    ) -> None:
        self.cluster = cluster
        self.client = client
        self.rng = random.Random(seed)
        self.wishes: list[Wish] = []
        self.checked = 0
        self.shared = shared
        self.busy = busy
        self._marks = 0

    async def work(self, until: float) -> None:
        """Do one thing after another until that time, then released everything."""
        moves = {
            self.submit: 10, self.check: 8, self.release: 6, self.cancel: 2, self.retry: 2, self.scatter: 2,
            self.replicate: 1, self.rebalance: 1, self.share: 1, self.cancel_unstarted: 1, self.actor: 1,
            self.see_through: 1, self.lock: 1, self.reuse: 3,
        }  # fmt: skip
        while self.cluster.loop.now < until:
            await asyncio.sleep(self.rng.expovariate(3))
            (move,) = self.rng.choices(list(moves), list(moves.values()))
            await asyncio.wait_for(move(), PATIENCE)
        while self.wishes:
            await asyncio.wait_for(self.check(), PATIENCE)
            self.wishes.pop()

    # --- tasks

    def submit_one(self) -> None:
        rng = self.rng
        some = rng.sample(self.wishes[-20:], min(len(self.wishes[-20:]), rng.choice((0, 0, 1, 2, 3))))
        size = rng.choice((1, 1, 50, 300, 700))
        self._marks += 1
        may = frozenset[str]().union(*(wish.may for wish in some))
        options: dict[str, Any] = {"priority": rng.choice((0, 0, 0, 1, -1)), "retries": rng.choice((0, 0, 3))}
        if rng.random() < 0.1:
            options["timeout"] = rng.choice((0.2, 2.0))
            may |= {"TaskTimeoutError"}
        if rng.random() < 0.1:
            options["resources"] = {"GPU": rng.choice((0.5, 1))}
        if rng.random() < 0.1:
            options["workers"], options["allow_other_workers"] = ["host1", "job2"], True
        if rng.random() < 0.1:
            options["duration"] = rng.choice((0.5, 20.0))
        call = combine
        if rng.random() < 0.1:
            call, may = moody, may | {"ValueError"}
        if rng.random() < 0.2:  # functions that differ
            call = functools.partial(call, size)
            future = self.client.submit(call, self._marks, *(wish.future for wish in some), **options)
        else:
            future = self.client.submit(call, size, self._marks, *(wish.future for wish in some), **options)
        value = combine(size, self._marks, *(wish.value for wish in some))
        self.wishes.append(Wish(future, value, may))

    async def submit(self) -> None:
        for _ in range(self.rng.choice((1, 1, 3, 15))):
            self.submit_one()

    async def scatter(self) -> None:
        self._marks += 1
        value = combine(self.rng.choice((1, 300)), self._marks)
        payload = serialize.dump_value(value)
        future = core_of(self.client).table.new(f"data-{self.client.name}-{self._marks}")
        workers = self.rng.choice(([], list(self.cluster.workers)[:1]))
        await client_data._send(core_of(self.client), [client_data._Value(future, payload, workers)])
        self.wishes.append(Wish(future, value, frozenset({"LostResultError"})))

    def any_wish(self) -> Wish | None:
        return self.rng.choice(self.wishes) if self.wishes else None

    async def check(self) -> None:
        """Wait for a result, and compare it with what it should be."""
        wish = self.any_wish()
        if wish is not None:
            await self.outcome_of(wish)

    async def reuse(self) -> None:
        """Use one name for one task after another: a user that takes such a result takes the one that is told."""
        self._marks += 1
        future = self.client.submit(combine, 300, self._marks, key=f"again-{self.client.name}")
        some = [self.client.submit(combine, 300, i, future) for i in range(self.rng.choice((0, 1, 4)))]
        fate = self.rng.random()
        await asyncio.sleep(self.rng.choice((0.0, 0.01, 0.5)))
        if fate < 0.2:
            self.client.cancel([future])
        elif fate < 0.7:
            value = await self._value_of(future)
            for i, one in enumerate(some):
                assert await self._value_of(one) == combine(300, i, value), f"{one.key} was given another's result"

    async def _value_of(self, future: Future) -> bytes:
        while (
            future._status == PENDING
            or (payload := await core_of(self.client).table.results.fetch_one(future)) is None
        ):
            if future._status == DONE:
                return bytes(serialize.load_value(future._data))
            assert future._status in (PENDING, STORED), f"{future!r} {future._data}"
            await self._end_of(future)
        return bytes(serialize.load_value(*payload))

    async def outcome_of(self, wish: Wish) -> None:
        future = wish.future
        while True:
            if future._status == PENDING:
                await self._end_of(future)
            elif future._status == STORED:
                payload = await core_of(self.client).table.results.fetch_one(future)
                if payload is not None:
                    assert serialize.load_value(*payload) == wish.value, f"{future.key} has a wrong result"
                    break
            else:
                break
        if future._status == DONE:
            assert serialize.load_value(future._data) == wish.value, f"{future.key} has a wrong result"
        elif future._status == CANCELLED:
            assert "cancelled" in wish.may, f"{future.key} was not cancelled"
        elif future._status in (FAILED, LOST):
            failure = future._data
            kind = failure.kind or "ValueError"
            kind = {"UnknownTaskError": "LostResultError"}.get(kind, kind)
            assert kind in wish.may, f"{future.key} failed: {kind} {failure.text}"
        self.checked += 1

    async def _end_of(self, future: Future) -> None:
        ended = asyncio.Event()
        core_of(self.client).table.watch(future, lambda _: ended.set())
        await ended.wait()

    async def release(self) -> None:
        self.rng.shuffle(self.wishes)
        del self.wishes[self.rng.randrange(len(self.wishes) + 1) :]

    async def cancel(self) -> None:
        wish = self.any_wish()
        if wish is not None:
            self._may_be_cancelled([wish])
            self.client.cancel([wish.future], force=self.rng.random() < 0.3)

    def _may_be_cancelled(self, some: Sequence[Wish]) -> None:
        """Whatever uses their results may be cancelled with them: that is not noted here, so all that is there."""
        for wish in self.wishes if some else ():
            wish.may |= {"cancelled"}

    async def cancel_unstarted(self) -> None:
        wish = self.any_wish()
        if wish is not None:
            self._may_be_cancelled([wish])
            cancelled = await core_of(self.client).link.ask_soon("cancel_unstarted", keys=[wish.future.key])
            assert cancelled in ([], [wish.future.key])

    async def retry(self) -> None:
        failed = [wish for wish in self.wishes if wish.future._status == FAILED]
        if failed:
            for wish in self.wishes:  # what it needs may be gone by now
                wish.may |= {"LostResultError"}
            self.client.retry([self.rng.choice(failed).future])

    async def see_through(self) -> None:
        wish = self.any_wish()
        if wish is not None:
            fire_and_forget(wish.future)
            self.wishes.remove(wish)

    # --- questions

    async def replicate(self) -> None:
        wish = self.any_wish()
        if wish is not None and self.cluster.workers:
            await core_of(self.client).link.ask_soon(
                "replicate", keys=[wish.future.key], n=self.rng.choice((None, 2))
            )

    async def rebalance(self) -> None:
        assert await core_of(self.client).link.ask_soon("rebalance") >= 0

    async def share(self) -> None:
        """Put a future into a queue or a variable that all use, and release it; or take one out."""
        kind = self.rng.choice(("queue", "variable"))
        if kind not in self.busy:  # one at a time, so that it is known what is in it
            self.busy.add(kind)
            await self._share(kind, self.shared.get(kind))
            self.busy.discard(kind)

    async def _share(self, kind: str, there: Shared | None) -> None:
        if there is None:
            wish = self.any_wish()
            if wish is not None:
                how: dict[str, Any] = {"data": b"", "keys": [wish.future.key]}
                how |= {"maxsize": 0} if kind == "queue" else {}
                self._may_be_cancelled([wish])
                self.wishes.remove(wish)
                assert (await self._named(kind, "put", kind, None, how))[0] is True
                # A user that has it may cancel it now, and retry it.
                may = wish.may | {"cancelled", "LostResultError"}
                self.shared[kind] = Shared(wish.future.key, wish.value, may)
            return
        how = {"batch": 0} if kind == "queue" else {}
        del self.shared[kind]
        state, values = await self._named(kind, "get", kind, None, how)
        assert state is True
        assert values == [[b"", [there.key]]]
        future = core_of(self.client).table.attach(there.key)
        if kind == "variable":
            await self._named(kind, "delete", kind, None, {})
        self.wishes.append(Wish(future, there.value, there.may))

    async def empty(self, shared: dict[str, Shared]) -> None:
        """Take out what others have left."""
        while shared:
            await self.share()
        self.wishes.clear()

    async def _named(self, *asked: Any) -> list[Any]:
        answer, _ = await requests.send_request(core_of(self.client), *asked)
        return list(answer)

    async def lock(self) -> None:
        name = "a lock"
        state, lease = await self._named("permit", "acquire", name, None, {"limit": 1})
        assert state is True
        await asyncio.sleep(self.rng.expovariate(1))
        assert await self._named("permit", "release", name, None, {"lease": lease}) == [True, True]

    async def actor(self) -> None:
        """Make an actor, and wait for it."""
        self._marks += 1
        key = f"actor-{self.client.name}-{self._marks}"
        call, _ = serialize.dump_call((), None)
        future = core_of(self.client).table.new(key)
        with submission_of(self.client).using(_make_actor) as sent:
            core_of(self.client).link.send(
                m.SubmitTasks(sent.id, [key], [call], [], 0, 0, None, self.rng.choice((0, 50)))
            )
        payload = None
        while future._status in (PENDING, STORED) and payload is None:
            await self._end_of(future)
            payload = await core_of(self.client).table.results.fetch_one(future)
        if payload is not None:
            assert serialize.load_value(*payload)[:2] == ("actor", key)
        else:
            assert future._status == FAILED
            assert future._data.kind == "ActorError"


def _make_actor() -> Any:
    from hpclaunch.tasks.actor import NewActor

    return NewActor(None, {})


def reset_moods(seed: int) -> None:
    """Have :func:`moody` tasks feel the same again."""
    _moods.seed(seed)
