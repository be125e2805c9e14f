"""What a client can ask of how things stand: tasks, results, workers. Nothing changes by it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from hpclaunch.client.calls.scatter import keys_of, scheduler_info
from hpclaunch.client.futures.collect import only_futures
from hpclaunch.client.futures.future import Future
from hpclaunch.client.submission.options import worker_names
from hpclaunch.comm.keys import Key, key_of_text, text_of_key
from hpclaunch.link.facade import blocking

if TYPE_CHECKING:
    from hpclaunch.client.client import Client


class QuestionCalls:
    """The part of a Client that asks how things stand."""

    _ask: Any

    @blocking
    def why(self, task: Future | Key) -> str:
        """Say how a task stands and why: what it waits for, who runs that, what rules each worker out.

        :param task: a future, or a task's key.
        """
        key = task._key if isinstance(task, Future) else text_of_key(task)
        said = str(self._ask("why", key=key))
        if "waits for a worker" in said:
            said = "\n".join([said, *(f"  {note}" for note in self._ask("job_notes"))])
        return said or f"task {key} is not known: its futures were released, or it was never submitted"

    @blocking
    def who_has(self, futures: Future | Iterable[Future] | None = None) -> dict[Any, list[str]]:
        """Return the workers that keep each result (of all if None); an empty list for what the head keeps."""
        said = self._ask("who_has", keys=keys_of(futures))
        return {key_of_text(key): workers for key, workers in said.items()}

    @blocking
    def has_what(self, workers: list[str] | None = None) -> dict[str, list[Any]]:
        """Return the keys of the large results on each worker."""
        said = self._ask("has_what", workers=worker_names(workers))
        return {worker: list(map(key_of_text, keys)) for worker, keys in said.items()}

    @property
    def dashboard_link(self) -> None:
        """The dashboard's address; None: there is no dashboard in this version."""
        return

    @blocking
    def scheduler_info(self) -> dict[str, Any]:
        """Return what the head says of itself; ``["workers"]`` has a dict of facts for each worker, by name."""
        return scheduler_info(_client(self))

    @blocking
    def nthreads(self, workers: list[str] | None = None) -> dict[str, int]:
        """Return how many tasks each worker runs at once."""
        return dict(self._ask("nthreads", workers=worker_names(workers)))

    ncores = nthreads

    @blocking
    def processing(self, workers: list[str] | None = None) -> dict[str, list[Any]]:
        """Return the keys of the tasks that each worker runs or is about to run."""
        said = self._ask("processing", workers=worker_names(workers))
        return {worker: list(map(key_of_text, keys)) for worker, keys in said.items()}

    @blocking
    def call_stack(
        self, futures: Future | Iterable[Future] | None = None, keys: Iterable[Key] | None = None
    ) -> dict[Any, list[str]]:
        """Return where the running ones of some tasks (None: all) are at this moment, the innermost call last."""
        some = None if keys is None else list(map(text_of_key, keys))
        if futures is not None:
            some = [*(some or ()), *(future._key for future in only_futures(futures))]
        said = self._ask("call_stack", keys=some)
        return {key_of_text(key): stack for key, stack in said.items()}


def _client(calls: QuestionCalls) -> Client:
    return cast("Client", calls)
