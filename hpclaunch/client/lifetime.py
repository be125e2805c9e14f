"""The life of a client: how it is made, found, entered, closed and shown.

A client has no state of its own. It is composed of parts, which are made here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Self

from hpclaunch.client import current
from hpclaunch.client.calls.actors import ActorCalls
from hpclaunch.client.core import ClientCore
from hpclaunch.client.futures.future import Future
from hpclaunch.client.integrations import import_hooks
from hpclaunch.client.integrations.dask_names import accept_dask_arguments, missing_attribute
from hpclaunch.client.submission.submit import Submission
from hpclaunch.current_cluster import current_or_new_cluster
from hpclaunch.errors import CommClosedError
from hpclaunch.link.facade import blocking, in_thread


class ClientLifetime:
    """What a :class:`hpclaunch.Client` is made of, from its beginning to its end."""

    def __init__(
        self,
        cluster: Any = None,
        *,
        name: str | None = None,
        timeout: float = 10.0,
        set_as_default: bool = True,
        asynchronous: bool = False,
        **local: Any,
    ) -> None:
        self._own_cluster: Any = None
        cluster = accept_dask_arguments(cluster, local)
        if cluster is None:
            cluster, is_own = current_or_new_cluster(asynchronous=asynchronous, **local)
            self._own_cluster = cluster if is_own else None
        elif local:
            raise TypeError(f"{', '.join(local)} go with a new LocalCluster, not with {cluster!r}")
        self._core = ClientCore(cluster, name=name, timeout=timeout, asynchronous=asynchronous)
        self._core.table.client = self
        self._submission = Submission(self._core)
        self._actors = ActorCalls(self._core)
        self._core.open()
        if set_as_default:
            current.add_default(self)
            import_hooks.register()

    @property
    def cluster(self) -> Any:
        """The cluster object that the client was made with; None if it was named."""
        return self._core.cluster

    @property
    def asynchronous(self) -> bool:
        """True if calls that wait return awaitables."""
        return self._core.asynchronous

    @property
    def name(self) -> str:
        """What the cluster knows this client by; ``id`` is the same."""
        return self._core.link.name

    id = name

    @property
    def status(self) -> str:
        """ "connecting", "running" or "closed"."""
        link = self._core.link
        return "closed" if link.closed else "running" if link.is_open else "connecting"

    @property
    def futures(self) -> dict[Any, Future[Any]]:
        """The futures of this client that exist, by key."""
        return {future.key: future for future in self._core.table.existing()}

    # --- the current client

    @classmethod
    def current(cls, allow_global: bool = True) -> Self:
        """Return the current client; as :func:`hpclaunch.get_client`."""
        client: Self = current.current_client()
        return client

    @contextlib.contextmanager
    def as_default(self) -> Iterator[Self]:
        """Be the default client inside this block, in all threads: Dask's ``.compute()`` comes here too."""
        current.add_default(self)
        import_hooks.register()
        try:
            yield self
        finally:
            self._stop_being_default()

    def as_current(self) -> contextlib.AbstractContextManager[Self]:
        """Return a ``with`` block in which :func:`hpclaunch.get_client` gives this client."""
        return current.as_current(self)

    def _stop_being_default(self) -> None:
        current.remove_default(self)
        if current.default_client() is None:
            import_hooks.unregister()

    # --- the end

    @blocking
    def close(self, timeout: str | float | None = None) -> None:
        """Release all futures and disconnect; a LocalCluster that was made by this client ends too.

        :param timeout: accepted, and not needed: it waits for nothing that may not end.
        """
        self._stop_being_default()
        self._core.close()
        cluster, self._own_cluster = self._own_cluster, None
        if cluster is not None:
            cluster.close()

    @blocking
    def shutdown(self) -> None:
        """End the cluster, whichever other clients use it, and close this client."""
        if self.cluster is not None:
            self.cluster.close()
        else:
            with contextlib.suppress(CommClosedError):  # it ends before it has answered
                self._core.link.thread.run(self._core.link.session.ask("close"))
        ClientLifetime.close(self)

    def __enter__(self) -> Self:
        if self.asynchronous:
            raise TypeError("an asynchronous client takes: async with Client(asynchronous=True) as client")
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exc: object) -> None:
        try:
            if kind is None:  # what its executors were given is not dropped
                self._core.outstanding.wait()
        finally:
            self.close()

    async def __aenter__(self) -> Any:  # to type checkers, whose results of calls are not awaitables
        if getattr(self.cluster, "asynchronous", False):
            await self.cluster  # the workers of a local one are there then
        await self._core.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None = None, *exc: object) -> None:
        await in_thread(functools.partial(self.__exit__, kind))

    def __await__(self) -> Generator[Any, None, Any]:
        return self.__aenter__().__await__()

    if not TYPE_CHECKING:  # to type checkers, a misspelt method is an error

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(missing_attribute(name))

    def __repr__(self) -> str:
        link = self._core.link
        if not link.is_open:
            return f"<Client {self.name}, not connected yet: await it>"
        state = f"closed: {link.closed}" if link.closed else f"connected to {link.session.address}"
        return f"<Client {self.name}, {state}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<b>Client</b> {escape(repr(self)[1:-1])}"
