"""Requests for what clients and tasks share by name, and their answers, with the futures in these.

The head keeps the results that an answer names until it is told that this client has made futures of them. So that
comes before anything is unpickled, and also when the caller has stopped waiting for the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hpclaunch.client.core import ClientCore
from hpclaunch.client.current import as_current
from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.timeout_errors import coordination_timeout
from hpclaunch.comm import messages as m, serialize
from hpclaunch.errors import HPCLaunchError
from hpclaunch.tasks.context import seceding


def request_named(core: ClientCore, kind: str, do: str, name: str, timeout: float | None, **how: Any) -> Any:
    """Request something of a named object, and wait for it; in a task, secede meanwhile.

    :raises TimeoutError: it was not to be had within ``timeout`` seconds.
    :raises KeyError: there is none.
    :raises ValueError: others use it in another way.
    """
    with seceding():
        (state, *rest), kept = core.link.thread.run(send_request(core, kind, do, name, timeout, how))
    if state is True:
        if not _is_values(kind, rest[0]):
            return rest[0]
        with as_current(core.table.client):
            values = [serialize.load_value(data) for data, _ in rest[0]]
        if kept:
            with seceding():
                core.table.synchronize()  # and learn how these tasks stand
        del kept  # whatever is in the values is held by them
        return values
    if state is False:
        raise coordination_timeout(kind, do, name, timeout or 0.0)
    raise ValueError(rest[0]) if state == "refused" else KeyError(rest[0])


async def send_request(
    core: ClientCore, kind: str, do: str, name: str, timeout: float | None, how: dict[str, Any]
) -> tuple[list[Any], list[Future[Any]]]:
    """Return the answer, and futures of all that is named in it."""
    ticket = core.link.next_number()
    asking = asyncio.ensure_future(core.link.request("named", ticket=ticket, kind=kind, do=do, name=name, how=how))
    try:
        if timeout is not None and not (await asyncio.wait([asking], timeout=timeout))[0]:
            await core.link.request("named_withdrawn", ticket=ticket)  # it is answered now, one way or the other
        answer = list(await asyncio.shield(asking))
    except asyncio.CancelledError:  # by Ctrl-C, or because its awaitable was cancelled
        asking.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # it is not read
        core.link.run_in_background(asyncio.ensure_future(_withdraw(core, kind, do, name, ticket, asking)))
        raise
    if answer[0] is not True or not _is_values(kind, answer[1]):
        return answer, []
    kept = [core.table.attach(key) for _, keys in answer[1] for key in keys]
    if kept:
        core.link.send(m.Taken(ticket))
    return answer, kept


async def _withdraw(
    core: ClientCore, kind: str, do: str, name: str, ticket: int, asking: asyncio.Future[Any]
) -> None:
    """The caller has stopped waiting: what the answer grants, if it is under way, is given back, or not kept."""
    with contextlib.suppress(HPCLaunchError):
        await core.link.request("named_withdrawn", ticket=ticket)
        core.link.send(m.Taken(ticket))
        state, *rest = await asking
        if state is True and (kind, do) == ("permit", "acquire"):
            number = core.link.next_number()
            await core.link.request(
                "named", ticket=number, kind=kind, do="release", name=name, how={"lease": rest[0]}
            )


def _is_values(kind: str, answer: Any) -> bool:
    """Say whether an answer is a list of values, each with the keys that are named in it."""
    return (
        kind not in ("permit", "locks")
        and isinstance(answer, list)
        and not (answer and isinstance(answer[0], str))
    )
