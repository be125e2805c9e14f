"""What a client can learn of tasks, results and workers. Nothing changes by it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpclaunch.client.futures.collect import only_futures
from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.waiting import keys_when_done
from hpclaunch.client.submission.options import worker_names
from hpclaunch.comm.keys import Key, key_of_text, text_of_key
from hpclaunch.link.head_link import HeadLink


def why(link: HeadLink, task: Future[Any] | Key) -> str:
    """Say how a task stands and why: see :meth:`hpclaunch.Client.why`."""
    key = task._key if isinstance(task, Future) else text_of_key(task)
    said = str(link.ask("why", key=key))
    if "waits for a worker" in said:
        said = "\n".join([said, *(f"  {note}" for note in link.ask("job_notes"))])
    return said or f"task {key} is not known: its futures were released, or it was never submitted"


def who_has(link: HeadLink, futures: Any) -> dict[Any, list[str]]:
    """Return the workers that keep each result: see :meth:`hpclaunch.Client.who_has`."""
    said = link.ask("who_has", keys=keys_when_done(futures))
    return {key_of_text(key): workers for key, workers in said.items()}


def keys_by_worker(link: HeadLink, method: str, workers: Any) -> dict[str, list[Any]]:
    """Return the keys that workers have: ``has_what`` or ``processing`` of :class:`hpclaunch.Client`."""
    said = link.ask(method, workers=worker_names(workers))
    return {worker: list(map(key_of_text, keys)) for worker, keys in said.items()}


def nthreads(link: HeadLink, workers: Any) -> dict[str, int]:
    """Return how many tasks each worker runs at once."""
    return dict(link.ask("nthreads", workers=worker_names(workers)))


def call_stack(link: HeadLink, futures: Any, keys: Iterable[Key] | None) -> dict[Any, list[str]]:
    """Return where running tasks are: see :meth:`hpclaunch.Client.call_stack`."""
    some = None if keys is None else list(map(text_of_key, keys))
    if futures is not None:
        some = [*(some or ()), *(future._key for future in only_futures(futures))]
    said = link.ask("call_stack", keys=some)
    return {key_of_text(key): stack for key, stack in said.items()}


def scheduler_info(link: HeadLink) -> dict[str, Any]:
    """Return what the head says of itself and its workers, in the form that dask.distributed gives it."""
    info = dict(link.ask("info"))
    rows = info.get("worker_list", [])
    info["workers"] = {row["name"]: {"nthreads": row["threads"], "id": row["name"], **row} for row in rows}
    return info
