"""The cluster that the ranks of one job are, as the script's rank sees it."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hpclaunch.client.futures.outstanding import wait_for_calls
from hpclaunch.cluster.table import JobTable
from hpclaunch.current_cluster import forget, set_lasting
from hpclaunch.errors import HeadError, HPCLaunchError, PeerError, UserError
from hpclaunch.link.loop import loop_thread
from hpclaunch.link.session import HeadSession
from hpclaunch.mpi.start import Started, take_leave

#: Seconds that a head may take to say that it ends.
_CLOSE_SECONDS = 10.0


class MPICluster:
    """The running cluster of ``initialize()``; ``Client()`` finds it by itself.

    Made by :func:`hpclaunch.initialize` and its like; ends when the script does, or with :meth:`close`.
    """

    def __init__(self, started: Started) -> None:
        self._started = started
        self.directory: Path = started.directory
        self.facts: dict[str, Any] = started.facts
        self.name: str = started.facts["name"]
        self._pid = os.getpid()
        self._thread = loop_thread()
        self._session: HeadSession | None = started.session
        self._has_closed = False
        try:
            if started.has_head:
                self.wait_for_workers(started.workers, timeout=60)
        except BaseException:
            self.close()
            raise
        set_lasting(self)

    async def open_session(self, *, name: str, on_messages: Any = None, on_lost: Any = None) -> HeadSession:
        """Open one more connection to the head; what Client does."""
        return await HeadSession.open(self.directory, name=name, on_messages=on_messages, on_lost=on_lost)

    # --- looking

    def wait_for_workers(self, n_workers: int, timeout: float | None = None) -> None:
        """Wait until that many workers are connected.

        :param timeout: seconds; None is without limit.
        :raises TimeoutError: they were not there in time.
        """
        self._ask("wait_for_workers", n_workers=n_workers, timeout=timeout)

    def jobs(self) -> JobTable:
        """Return the ranks that have workers, with the story of each; prints as a table."""
        return JobTable(self._ask("jobs"))

    def workers(self) -> list[dict[str, Any]]:
        """Return the connected workers: name, rank, host, threads, memory, and the address that they reached."""
        return list(self._ask("info")["worker_list"])

    def scale(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the number of ranks is that of mpirun or srun.

        :raises UserError: always.
        """
        raise UserError(
            "the ranks of a parallel job can't become more or fewer: start it with another number (mpirun -np N), "
            "or use SGECluster or SLURMCluster, which can grow and shrink"
        )

    adapt = scale

    @property
    def scheduler_address(self) -> str:
        """The head's first address, ``tls://host:port``."""
        return f"{'tls' if self.facts.get('security', True) else 'tcp'}://{self.facts['addresses'][0]}"

    @property
    def status(self) -> str:
        """ "running" or "closed"."""
        return "closed" if self._session is None else "running"

    def _ask(self, method: str, **params: Any) -> Any:
        if self._session is None:
            raise HeadError(f"cluster {self.name} is closed")
        try:
            return self._thread.run(self._session.ask(method, **params))
        except PeerError as error:
            raise HeadError(
                f"the head of cluster {self.name} is gone ({error}); the output of its rank may say why"
            ) from None

    # --- the end

    def close(self) -> None:
        """End the workers and the head, and with them all other ranks. Again is no error."""
        forget(self)
        if os.getpid() != self._pid:
            return  # in a forked child the cluster is its parent's
        if self._has_closed:
            return
        self._has_closed = True
        session, self._session = self._session, None
        if session is not None:
            self._farewell(session)
        if self._started.has_head:
            self._started.part.wait()
        self._started.part.stop()
        take_leave(self._started)

    def _farewell(self, session: HeadSession) -> None:
        try:
            if self._started.has_head:
                self._thread.run(session.request("close"), _CLOSE_SECONDS)
        except TimeoutError:
            pass  # its rank ends it
        except HPCLaunchError:  # it is gone already; the connection ends before the process does
            self._started.part.tell_of_lost_parts(_CLOSE_SECONDS)
        finally:
            self._thread.run(_close(session))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:  # what executors were given is not dropped, unless the block has failed
                wait_for_calls(self)
        finally:
            self.close()

    def __repr__(self) -> str:
        if self._session is None:
            return f"<MPICluster {self.name!r}: closed>"
        mode = "TLS" if self.facts.get("security", True) else "no TLS"
        return f"<MPICluster {self.name!r}: {self._started.workers} workers; {self.facts['addresses'][0]}, {mode}>"


async def _close(session: HeadSession) -> None:
    session.close()
