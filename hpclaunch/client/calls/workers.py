"""What a client does to workers: run a function beside their tasks, restart them, wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpclaunch.client.core import ClientCore
from hpclaunch.client.futures.parts import kept_by_caller
from hpclaunch.client.submission.options import worker_names
from hpclaunch.comm import serialize
from hpclaunch.comm.messages import Failure
from hpclaunch.link.head_link import HeadLink
from hpclaunch.link.timeouts import timeout_seconds
from hpclaunch.notes import warn

#: Seconds beyond a timeout of the head's within which its answer must be here.
_ANSWER_SECONDS = 5


def run(
    link: HeadLink,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    workers: list[str] | None,
    *,
    wait: bool,
    on_error: str,
) -> dict[str, Any] | None:
    """Call a function once on each worker: see :meth:`hpclaunch.Client.run`."""
    if on_error not in ("raise", "return", "ignore"):
        raise ValueError(f'on_error is "raise", "return" or "ignore", not {on_error!r}')
    workers = worker_names(workers)
    called = serialize.dump_inline(function)
    with kept_by_caller():
        data, inputs = serialize.dump_call(args, kwargs or None)
    if inputs:
        raise TypeError("run takes no futures: they are for tasks; use their results")
    answers = link.ask("run", function=called, args=data, workers=workers, wait=wait)
    if not answers:
        name = getattr(function, "__name__", "setup")
        warn(
            f"run has called {serialize.function_name(function)} on no worker, because none is connected. Call "
            f"wait_for_workers() before; register_worker_callbacks({name}) reaches later workers too"
        )
    results: dict[str, Any] = {}
    for worker, (is_done, *rest) in answers.items():
        if is_done:
            results[worker] = serialize.load_value(rest[0])
        elif on_error != "ignore":
            error = serialize.load_failure(Failure(*rest))
            if on_error == "raise":
                raise error
            results[worker] = error
    return results if wait else None


def restart(core: ClientCore, timeout: str | float, *, wait: bool) -> None:
    """Cancel all tasks and replace all worker processes: see :meth:`hpclaunch.Client.restart`."""
    core.table.cancel_all()
    limit = timeout_seconds(timeout)
    restarting = core.link.ask_soon("restart", timeout=limit, wait=wait)
    core.link.thread.run(restarting, limit + _ANSWER_SECONDS if limit is not None else None)


def wait_for_workers(link: HeadLink, n_workers: int, timeout: str | float | None) -> None:
    """Wait until that many workers are connected: see :meth:`hpclaunch.Client.wait_for_workers`."""
    timeout = timeout_seconds(timeout)
    if not isinstance(n_workers, int) or n_workers < 0:
        raise ValueError(f"n_workers is a whole number of 0 or more, not {n_workers!r}")
    limit = None if timeout is None else timeout + _ANSWER_SECONDS
    link.thread.run(link.ask_soon("wait_for_workers", n_workers=n_workers, timeout=timeout), limit)
