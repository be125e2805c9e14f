"""What clients and tasks share by name: locks, semaphores, events, queues and variables.

Any two of one kind and name are the same thing, in whatever process of the cluster. They can be passed to tasks.
What a client holds goes back when it is closed or dies. Values may contain futures, whose results are kept for as
long as the value is there. A task that waits secedes meanwhile.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from typing import Any, Self

from hpclaunch.client.coordination.requests import request_named
from hpclaunch.client.current import current_client
from hpclaunch.comm import serialize
from hpclaunch.comm.texts import checked_int, checked_text
from hpclaunch.link.facade import blocking, in_thread
from hpclaunch.link.timeouts import timeout_seconds


def text_of(name: Any) -> str:
    """Return what the cluster knows a name by: a name that is no text is known by its ``repr``.

    :raises ValueError: it can't be encoded.
    """
    return checked_text("a name", name if isinstance(name, str) else repr(name))


class _Named:
    """One thing; ``client`` is the current one where it is used, unless one is given.

    A name that is no text, such as ``("file", 7)``, is known by its ``repr``.
    """

    kind = ""

    def __init__(self, name: Any = None, client: Any = None) -> None:
        self.name: Any = name or f"{type(self).__name__.lower()}-{secrets.token_hex(8)}"
        self._given = client

    def _ask(self, do: str, timeout: str | float | None = None, **how: Any) -> Any:
        """Ask for something and wait; TimeoutError if it takes too long."""
        return request_named(self.client._core, self.kind, do, text_of(self.name), timeout_seconds(timeout), **how)

    @property
    def client(self) -> Any:
        """The :class:`hpclaunch.Client` by which this asks: the given one, or the current one.

        :raises ValueError: there is none.
        """
        return self._given or current_client()

    @property
    def asynchronous(self) -> bool:
        """True if methods return awaitables, because the client's do."""
        return bool(self.client.asynchronous)

    def __await__(self) -> Generator[Any, None, Self]:
        """Return this; there is nothing to wait for."""
        yield from ()
        return self

    def __reduce__(self) -> Any:
        return type(self), (self.name,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class _Acquired(_Named, ABC):
    """One that is held inside a ``with`` block."""

    @abstractmethod
    def acquire(self) -> Any:
        """Wait for it."""

    @abstractmethod
    def release(self) -> Any:
        """Give it back."""

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await in_thread(self.acquire)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await in_thread(self.release)


class Semaphore(_Acquired):
    """At most ``max_leases`` holders at once.

    All clients that use one name must say the same number; :meth:`close` makes it forget that number.
    """

    kind = "permit"

    def __init__(self, max_leases: int = 1, name: Any = None, client: Any = None) -> None:
        if not isinstance(max_leases, int) or max_leases < 1:
            raise ValueError(f"max_leases is a whole number of 1 or more, not {max_leases!r}")
        super().__init__(name, client)
        self.max_leases = checked_int("max_leases", max_leases, 1)
        self._leases: list[int] = []

    @blocking
    def acquire(self, timeout: str | float | None = None) -> bool:
        """Wait for a place; False if there was none within ``timeout`` seconds.

        :raises ValueError: others use it with another number of places.
        """
        try:
            self._leases.append(self._ask("acquire", timeout, limit=self.max_leases))
        except TimeoutError:
            return False
        return True

    @blocking
    def release(self) -> bool:
        """Give a place back.

        :raises RuntimeError: this object has none.
        """
        if not self._leases:
            raise RuntimeError(f"{self!r} is released without having been acquired, by this object")
        return bool(self._ask("release", lease=self._leases.pop()))

    @blocking
    def get_value(self) -> int:
        """Return how many places are taken."""
        return int(self._ask("count"))

    @blocking
    def close(self) -> None:
        """Take all places back from their holders, and forget how many there are."""
        self._leases.clear()
        self._ask("close")

    def __reduce__(self) -> Any:
        return type(self), (self.max_leases, self.name)


class Lock(Semaphore):
    """At most one holder."""

    def __init__(self, name: Any = None, client: Any = None) -> None:
        super().__init__(1, name, client)

    @blocking
    def acquire(  # type: ignore[override]  # as threading's and dask.distributed's
        self, blocking: bool = True, timeout: str | float | None = None
    ) -> bool:
        """Wait for the lock; False if it was not free in ``timeout`` seconds, or at once if not ``blocking``.

        :raises ValueError: not to block, and to wait.
        """
        if not blocking and timeout is not None:
            raise ValueError("acquire(blocking=False) does not wait: it takes no timeout")
        return super().acquire(timeout if blocking else 0)

    @blocking
    def locked(self) -> bool:
        """Say whether it is held."""
        return self.get_value() > 0

    def __reduce__(self) -> Any:
        return type(self), (self.name,)


class MultiLock(_Acquired):
    """Several locks that are taken at once, or so many of them as are enough: no holder of some waits for others.

    Two that share a name shut each other out, whatever else they name and in whatever order. ``Lock`` has names of
    its own.

    :param names: the locks' names.
    """

    kind = "locks"

    def __init__(self, names: Iterable[Any] = (), client: Any = None) -> None:
        if isinstance(names, str | bytes) or not isinstance(names, Iterable):
            raise TypeError(f"MultiLock takes a list of names, not {names!r}")
        self.names = list(names)
        super().__init__(", ".join(map(text_of, self.names)), client)
        self._lease: int | None = None

    @blocking
    def acquire(
        self, blocking: bool = True, timeout: str | float | None = None, num_locks: int | None = None
    ) -> bool:
        """Wait for the locks; False if they were not to be had in ``timeout`` seconds, or now if not ``blocking``.

        :param num_locks: so many of them are enough; None: all.
        :raises ValueError: there are not so many; or not to block, and to wait.
        :raises RuntimeError: this object has them already.
        """
        names = list(dict.fromkeys(map(text_of, self.names)))
        count = len(names) if num_locks is None else num_locks
        if not isinstance(count, int) or not 1 <= count <= len(names):
            raise ValueError(f"num_locks is a number from 1 to that of the names ({len(names)}), not {count!r}")
        if not blocking and timeout is not None:
            raise ValueError("acquire(blocking=False) does not wait: it takes no timeout")
        if self._lease is not None:
            raise RuntimeError(f"{self!r} is held by this object already, which would wait for itself")
        try:
            self._lease = self._ask("acquire", timeout if blocking else 0, names=names, count=count)
        except TimeoutError:
            return False
        return True

    @blocking
    def release(self) -> None:
        """Give the locks back.

        :raises ValueError: this object has none.
        """
        if self._lease is None:
            raise ValueError(f"{self!r} is released without having been acquired, by this object")
        lease, self._lease = self._lease, None
        self._ask("release", lease=lease)

    def locked(self) -> bool:
        """Say whether this object has them."""
        return self._lease is not None

    def __reduce__(self) -> Any:
        return type(self), (self.names,)


class Event(_Named):
    """A flag that many can wait for."""

    kind = "event"

    @blocking
    def set(self) -> None:
        """Set it: all that wait for it go on."""
        self._ask("set")

    @blocking
    def clear(self) -> None:
        """Unset it."""
        self._ask("clear")

    @blocking
    def is_set(self) -> bool:
        """Say whether it is set."""
        return bool(self._ask("is_set"))

    @blocking
    def wait(self, timeout: str | float | None = None) -> bool:
        """Wait until it is set; False if it was not within ``timeout`` seconds."""
        try:
            self._ask("wait", timeout)
        except TimeoutError:
            return False
        return True


class Queue(_Named):
    """First in, first out. The first to put something in says how many values it takes (``maxsize``, 0: any).

    What is in it stays there when clients go. :meth:`close` says that this object is used no more: when all that
    stand for the queue, also those in tasks, have been closed, what is left in it is released.
    """

    kind = "queue"

    def __init__(self, name: Any = None, client: Any = None, maxsize: int = 0) -> None:
        super().__init__(name, client)
        if not isinstance(maxsize, int):
            raise TypeError(f"maxsize is how many values a queue takes, 0 for any number, not {maxsize!r:.100}")
        self.maxsize = checked_int("maxsize", maxsize)
        self._is_known = False  # the cluster knows that there is this object

    def _ask(self, do: str, timeout: str | float | None = None, **how: Any) -> Any:
        if not self._is_known:
            self._is_known = how["opens"] = True
        return super()._ask(do, timeout, **how)

    @blocking
    def close(self) -> None:
        """Be done with it. With the last object of this name that has been used, what is in the queue goes."""
        self._ask("close")
        self._is_known = False

    @blocking
    def put(self, value: Any, timeout: str | float | None = None) -> None:
        """Put a value in.

        :raises TimeoutError: it was full for ``timeout`` seconds.
        """
        data, keys = serialize.dump_referring(value)
        self._ask("put", timeout, data=data, keys=keys, maxsize=self.maxsize)

    @blocking
    def get(self, timeout: str | float | None = None, batch: bool | int = False) -> Any:
        """Take a value out.

        :param batch: True: a list of all that is there, at once; a number: a list of so many, waiting for them, or
            of ``maxsize`` if that is less.
        :raises TimeoutError: it was empty for ``timeout`` seconds.
        """
        count = -1 if batch is True else int(batch)
        values = self._ask("get", timeout, batch=count)
        return values if batch else values[0]

    @blocking
    def qsize(self) -> int:
        """Return how many values are in it."""
        return int(self._ask("size"))

    def __reduce__(self) -> Any:
        return type(self), (self.name, None, self.maxsize)


class Variable(_Named):
    """One value, which any client and task can replace."""

    kind = "variable"

    @blocking
    def set(self, value: Any, timeout: str | float | None = None) -> None:
        """Replace the value."""
        data, keys = serialize.dump_referring(value)
        self._ask("put", timeout, data=data, keys=keys)

    @blocking
    def get(self, timeout: str | float | None = None) -> Any:
        """Return the value; wait until there is one.

        :raises TimeoutError: there was none for ``timeout`` seconds.
        """
        return self._ask("get", timeout)[0]

    @blocking
    def delete(self) -> None:
        """Forget the value."""
        self._ask("delete")
