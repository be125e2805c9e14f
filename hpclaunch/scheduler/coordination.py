"""Primitives that clients and tasks share by name: locks, semaphores, events, queues, variables and datasets.

Pure: facts in, commands out. Rules:

* A primitive is made when it is first named, and forgotten when it is as it was then and no client waits for it.
* Every question has a ticket and is answered exactly once, at once or when its turn comes; those who wait are
  served in the order in which they came. :meth:`NamedPrimitives.on_withdrawn` answers one that gives up.
* What a client holds (permits) goes back when the client leaves, and its questions with it.
* How many permits a semaphore has is agreed on by all clients that use it, for as long as one of them is here.
* A queue's values are released when the last of those objects that stand for it in some process is closed.
* Values are opaque, with the keys of the futures in them. These tasks are kept for as long as a value that names
  them is here. A client that is given one has them kept until it has futures of its own
  (:mod:`hpclaunch.scheduler.references`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hpclaunch.scheduler.multilocks import MultiLocks, Ticket


class Answer(NamedTuple):
    """Answer a client's question."""

    client: str
    ticket: int
    value: Any  # [True, value], [False] for one that gave up, ["missing", text] or ["refused", text]


class Keep(NamedTuple):
    """Want the results of these tasks on behalf of the values that are kept here."""

    keys: list[str]


class Release(NamedTuple):
    """Want them no more on behalf of these values."""

    keys: list[str]


class HandOver(NamedTuple):
    """A client is about to be given a value that names these tasks."""

    client: str
    ticket: int
    keys: list[str]


#: What is done with the primitive's name.
_BY_NAME = frozenset(
    [
        *(("dataset", do) for do in ("put", "get", "list", "delete")),
        *(("permit", do) for do in ("acquire", "close")),
        ("queue", "close"),
    ]
)

Command = Answer | Keep | Release | HandOver


class Value(NamedTuple):
    """A user's value."""

    data: bytes
    keys: list[str]


class _Primitive:
    """One named primitive: its permits, its values, and who waits."""

    __slots__ = ("holders", "is_set", "limit", "size", "values", "waiting")

    def __init__(self) -> None:
        self.limit = 1  # permits
        self.size = 0  # values that a queue takes; 0 is no limit
        self.is_set = False
        self.holders: dict[Ticket, None] = {}  # who has a permit
        self.values: deque[Value] = deque()
        self.waiting: dict[Ticket, tuple[str, Any]] = {}  # what they wait to do, and with what

    @property
    def is_idle(self) -> bool:
        return not (self.holders or self.values or self.waiting or self.is_set)


def _count_of(primitive: _Primitive, wished: int) -> int:
    """Return how many values a client is given that asks for so many: no more than the queue ever has."""
    return min(wished, primitive.size or wished)


class NamedPrimitives:
    """All of them. ``commands`` are taken by :meth:`take_commands`."""

    def __init__(self) -> None:
        self.primitives: dict[tuple[str, str], _Primitive] = {}  # kind and name
        self.kept: Counter[str] = Counter()  # keys, by how many values name them
        self.locks = MultiLocks()
        self.limits: dict[str, tuple[int, set[str]]] = {}  # of semaphores: permits, and the clients that use them
        self.users: dict[str, Counter[str]] = {}  # queues -> client ("": one that has left) -> open objects
        self._commands: list[Command] = []
        self._asking: Ticket = ("", 0)
        self._methods: dict[tuple[str, str], Callable[..., None]] = {
            ("permit", "acquire"): self._acquire,
            ("permit", "release"): self._release,
            ("permit", "count"): self._count,
            ("permit", "close"): self._close_permits,
            ("event", "set"): self._set,
            ("event", "clear"): self._clear,
            ("event", "is_set"): self._is_set,
            ("event", "wait"): self._wait,
            ("queue", "put"): self._put,
            ("queue", "get"): self._get,
            ("queue", "size"): self._size,
            ("queue", "close"): self._close_queue,
            ("variable", "put"): self._assign,
            ("variable", "get"): self._peek,
            ("variable", "delete"): self._delete,
            ("dataset", "put"): self._publish,
            ("dataset", "get"): self._dataset,
            ("dataset", "list"): self._datasets,
            ("dataset", "delete"): self._unpublish,
        }

    def take_commands(self) -> list[Command]:
        """Return what is to be done for the facts since the last call."""
        commands, self._commands = self._commands, []
        return commands

    # --- facts

    def on_asked(self, client: str, ticket: int, kind: str, do: str, name: str, **how: Any) -> None:
        """A client asks for something.

        :raises ValueError: there is no such thing to ask for.
        """
        if kind == "locks":
            self._ask_locks((client, ticket), do, **how)
            return
        method = self._methods.get((kind, do))
        if method is None:
            raise ValueError(f"no client can {do} a {kind}")
        self._asking = client, ticket
        if how.pop("opens", False):
            self.users.setdefault(name, Counter())[client] += 1
        primitive = self.primitives.setdefault((kind, name), _Primitive())
        method(primitive, **how) if (kind, do) not in _BY_NAME else method(primitive, name, **how)
        self._forget_idle(kind, name)

    def on_withdrawn(self, client: str, ticket: int) -> None:
        """A client waits no longer. If it has been answered meanwhile, that stands."""
        if (client, ticket) in self.locks.waiting:
            self.locks.release((client, ticket))
            self._answer((client, ticket), False)
            self._serve_locks()
        for (kind, name), primitive in list(self.primitives.items()):
            if primitive.waiting.pop((client, ticket), None) is not None:
                self._answer((client, ticket), False)
                self._serve(primitive)
                self._forget_idle(kind, name)

    def on_client_left(self, client: str) -> None:
        """A client is gone, and with it what it held and waited for."""
        for (kind, name), primitive in list(self.primitives.items()):
            for group in (primitive.holders, primitive.waiting):
                for one in [one for one in group if one[0] == client]:
                    del group[one]
            self._serve(primitive)
            self._forget_idle(kind, name)
        self.locks.on_client_left(client)
        self._serve_locks()
        for name, (_, clients) in list(self.limits.items()):
            clients.discard(client)
            if not clients:
                del self.limits[name]
        for name, users in list(self.users.items()):
            users[""] += users.pop(client, 0)  # what it may have left in the queue is not to be lost
            self._forget_users(name)

    def check(self) -> None:
        """Assert every rule of this state; for tests, after each event."""
        named: Counter[str] = Counter()
        for primitive in self.primitives.values():
            assert not primitive.is_idle
            assert len(primitive.holders) <= primitive.limit
            assert not primitive.size or len(primitive.values) <= primitive.size
            assert not primitive.waiting.keys() & primitive.holders.keys()
            for value in primitive.values:
                named.update(value.keys)
            words = {do for do, _ in primitive.waiting.values()}
            assert "acquire" not in words or len(primitive.holders) == primitive.limit
            assert "wait" not in words or not primitive.is_set
            assert "peek" not in words or not primitive.values
            wished = [what for do, what in primitive.waiting.values() if do == "get"]
            assert not wished or len(primitive.values) < _count_of(primitive, wished[0])
            assert "put" not in words or len(primitive.values) == primitive.size > 0
        assert +self.kept == +named
        self.locks.check()
        assert all(clients for _, clients in self.limits.values())
        assert all(users.total() > 0 for users in self.users.values())
        assert all(("queue", name) in self.primitives or not users[""] for name, users in self.users.items())

    # --- permits: locks and semaphores

    def _acquire(self, primitive: _Primitive, name: str, limit: int) -> None:
        agreed = primitive.limit if primitive.holders or primitive.waiting else limit
        agreed, clients = self.limits.get(name, (agreed, set()))
        if limit != agreed:
            self._refuse(
                f"inconsistent max_leases: {name!r} has {agreed} for others, or in this program before, and "
                f"{limit} here. Use one number (a Lock has 1), or another name; Semaphore.close() ends that",
                "refused",
            )
            return
        if limit > 1:  # of locks, of which there may be very many, nothing is kept while none is held
            clients.add(self._asking[0])
            self.limits[name] = limit, clients
        primitive.limit = limit
        primitive.waiting[self._asking] = "acquire", None
        self._serve(primitive)

    def _release(self, primitive: _Primitive, lease: int) -> None:
        is_held = primitive.holders.pop((self._asking[0], lease), 0) is None
        self._answer(self._asking, True, is_held)
        self._serve(primitive)

    def _count(self, primitive: _Primitive) -> None:
        self._answer(self._asking, True, len(primitive.holders))

    def _close_permits(self, primitive: _Primitive, name: str) -> None:
        self.limits.pop(name, None)
        primitive.holders.clear()
        self._answer(self._asking, True)
        self._serve(primitive)

    # --- several locks at once

    def _ask_locks(self, one: Ticket, do: str, **how: Any) -> None:
        """Take some locks: how is ``names``, ``count``; or give them back: ``lease``."""
        if do == "acquire":
            self.locks.acquire(one, how["names"], how["count"])
        else:
            self._answer(one, True, self.locks.release((one[0], how["lease"])))
        self._serve_locks()

    def _serve_locks(self) -> None:
        for one in self.locks.serve():
            self._answer(one, True, one[1])

    # --- events

    def _set(self, primitive: _Primitive) -> None:
        primitive.is_set = True
        self._answer(self._asking, True)
        self._serve(primitive)

    def _clear(self, primitive: _Primitive) -> None:
        primitive.is_set = False
        self._answer(self._asking, True)

    def _is_set(self, primitive: _Primitive) -> None:
        self._answer(self._asking, True, primitive.is_set)

    def _wait(self, primitive: _Primitive) -> None:
        primitive.waiting[self._asking] = "wait", None
        self._serve(primitive)

    # --- queues

    def _put(self, primitive: _Primitive, data: bytes, keys: list[str], maxsize: int) -> None:
        if not primitive.values and not primitive.waiting:
            primitive.size = max(0, maxsize)
        primitive.waiting[self._asking] = "put", Value(data, keys)
        self._serve(primitive)

    def _get(self, primitive: _Primitive, batch: int) -> None:
        """Take one value; ``batch`` is how many to take at once instead: all that are there if it is -1.

        Who waits for many has those behind it wait: else it might never be its turn.
        """
        if batch == -1:
            self._give(self._asking, [primitive.values.popleft() for _ in range(len(primitive.values))])
        else:
            primitive.waiting[self._asking] = "get", max(1, batch)
        self._serve(primitive)

    def _size(self, primitive: _Primitive) -> None:
        self._answer(self._asking, True, len(primitive.values))

    def _close_queue(self, primitive: _Primitive, name: str) -> None:
        """One object less stands for a queue; with the last one its values go."""
        users = self.users.setdefault(name, Counter())
        users[self._asking[0]] -= 1
        if not +users:
            self._drop_values(primitive)
        self._forget_users(name)
        self._answer(self._asking, True)
        self._serve(primitive)

    def _forget_users(self, name: str) -> None:
        """Forget who uses a queue, of those who use it no more."""
        users = +self.users.get(name, Counter())
        if ("queue", name) not in self.primitives:
            del users[""]
        self.users[name] = users
        if not users:
            del self.users[name]

    # --- variables and datasets

    def _assign(self, primitive: _Primitive, data: bytes, keys: list[str]) -> None:
        self._drop_values(primitive)
        self._keep(primitive, Value(data, keys))
        self._answer(self._asking, True)
        self._serve(primitive)

    def _peek(self, primitive: _Primitive) -> None:
        primitive.waiting[self._asking] = "peek", None
        self._serve(primitive)

    def _delete(self, primitive: _Primitive) -> None:
        self._drop_values(primitive)
        self._answer(self._asking, True)

    def _publish(self, primitive: _Primitive, name: str, data: bytes, keys: list[str], override: bool) -> None:
        if primitive.values and not override:
            self._refuse(f"there is a dataset {name!r} already: override=True replaces it", "missing")
            return
        self._assign(primitive, data, keys)

    def _dataset(self, primitive: _Primitive, name: str) -> None:
        if not primitive.values:
            self._refuse(f"there is no dataset {name!r}", "missing")
            return
        self._peek(primitive)

    def _unpublish(self, primitive: _Primitive, name: str) -> None:
        if not primitive.values:
            self._refuse(f"there is no dataset {name!r}", "missing")
            return
        self._delete(primitive)

    def _datasets(self, primitive: _Primitive, name: str) -> None:
        names = [one for (kind, one), each in self.primitives.items() if kind == "dataset" and each.values]
        self._answer(self._asking, True, sorted(names))

    # --- steps

    def _serve(self, primitive: _Primitive) -> None:
        """Let those continue that can, in their order, until none can."""
        go_on = True
        while go_on:
            go_on = is_behind = False
            for one, (do, what) in list(primitive.waiting.items()):
                if do == "get" and len(primitive.values) < _count_of(primitive, what):
                    is_behind = True
                if (do != "get" or not is_behind) and self._try(primitive, one, do, what):
                    primitive.waiting.pop(one, None)
                    go_on = True

    def _try(self, primitive: _Primitive, one: Ticket, do: str, what: Any) -> bool:
        if do == "acquire" and len(primitive.holders) < primitive.limit:
            primitive.holders[one] = None
            self._answer(one, True, one[1])
        elif do == "wait" and primitive.is_set:
            self._answer(one, True)
        elif do == "put" and (not primitive.size or len(primitive.values) < primitive.size):
            self._keep(primitive, what)
            self._answer(one, True)
        elif do == "peek" and primitive.values:
            value = primitive.values[0]
            self._commands.append(HandOver(*one, value.keys))
            self._answer(one, True, [value])
        elif do == "get":
            self._give(one, [primitive.values.popleft() for _ in range(_count_of(primitive, what))])
        else:
            return False
        return True

    def _give(self, one: Ticket, values: Sequence[Value]) -> None:
        """Hand values out; they are not here any more."""
        for value in values:
            self._commands.append(HandOver(*one, value.keys))
            self._release_value(value)
        self._answer(one, True, list(values))

    def _keep(self, primitive: _Primitive, value: Value) -> None:
        primitive.values.append(value)
        new = [key for key in dict.fromkeys(value.keys) if not self.kept[key]]
        self.kept.update(value.keys)
        if new:
            self._commands.append(Keep(new))

    def _release_value(self, value: Value) -> None:
        self.kept.subtract(value.keys)
        gone = [key for key in dict.fromkeys(value.keys) if not self.kept[key]]
        for key in gone:
            del self.kept[key]
        if gone:
            self._commands.append(Release(gone))

    def _drop_values(self, primitive: _Primitive) -> None:
        while primitive.values:
            self._release_value(primitive.values.popleft())

    def _answer(self, one: Ticket, is_done: bool, value: Any = None) -> None:
        self._commands.append(Answer(one[0], one[1], [True, value] if is_done else [False]))

    def _refuse(self, text: str, how: str) -> None:
        self._commands.append(Answer(*self._asking, [how, text]))

    def _forget_idle(self, kind: str, name: str) -> None:
        primitive = self.primitives.get((kind, name))
        if primitive is not None and primitive.is_idle:
            del self.primitives[kind, name]
            if kind == "queue" and name in self.users:
                self._forget_users(name)
