"""Asking for what clients and tasks share by name, and taking what is given out, with the futures in it.

The head keeps the results that an answer names until it is told that this client has made futures of them. So that
comes before anything is unpickled, and also when nobody waits for the answer any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from hpclaunch.client.current import meaning
from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.timeout_errors import late_named
from hpclaunch.comm import messages as m
from hpclaunch.comm import serialize
from hpclaunch.errors import HPCLaunchError
from hpclaunch.tasks.context import stepping_aside

if TYPE_CHECKING:
    from hpclaunch.client.client import Client


def ask_named(client: Client, kind: str, do: str, name: str, timeout: float | None, **how: Any) -> Any:
    """Ask for a named thing, and wait for it; in a task, let others have its thread meanwhile.

    :raises TimeoutError: it was not to be had within ``timeout`` seconds.
    :raises KeyError: there is none.
    :raises ValueError: others use it in another way.
    """
    with stepping_aside():
        (state, *rest), kept = client._thread.run(_request(client, kind, do, name, timeout, how))
    if state is True:
        if not _is_values(kind, rest[0]):
            return rest[0]
        with meaning(client):
            values = [serialize.load_value(data) for data, _ in rest[0]]
        if kept:
            with stepping_aside():
                client._be_heard()  # and hear how these tasks stand
        del kept  # whatever is in the values is held by them
        return values
    if state is False:
        raise late_named(kind, do, name, timeout or 0.0)
    raise ValueError(rest[0]) if state == "refused" else KeyError(rest[0])


async def _request(
    client: Client, kind: str, do: str, name: str, timeout: float | None, how: dict[str, Any]
) -> tuple[list[Any], list[Future]]:
    """Return the answer, and futures of all that is named in it."""
    ticket = next(client._numbers)
    asking = asyncio.ensure_future(client._request("named", ticket=ticket, kind=kind, do=do, name=name, how=how))
    try:
        if timeout is not None and not (await asyncio.wait([asking], timeout=timeout))[0]:
            await client._request("named_withdrawn", ticket=ticket)  # it is answered now, one way or the other
        answer = list(await asyncio.shield(asking))
    except asyncio.CancelledError:  # by Ctrl-C, or because nobody awaits it any more
        asking.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody else will look
        client._withdrawing = asyncio.ensure_future(_withdraw(client, kind, do, name, ticket, asking))
        raise
    if answer[0] is not True or not _is_values(kind, answer[1]):
        return answer, []
    kept = [client._want(key) for _, keys in answer[1] for key in keys]
    if kept:
        client._send(m.Taken(ticket))
    return answer, kept


async def _withdraw(
    client: Client, kind: str, do: str, name: str, ticket: int, asking: asyncio.Future[Any]
) -> None:
    """Nobody waits for an answer any more; what it gives, if it is under way, is given back, or not kept."""
    with contextlib.suppress(HPCLaunchError):
        await client._request("named_withdrawn", ticket=ticket)
        client._send(m.Taken(ticket))
        state, *rest = await asking
        if state is True and (kind, do) == ("permit", "acquire"):
            number = next(client._numbers)
            await client._request(
                "named", ticket=number, kind=kind, do="release", name=name, how={"lease": rest[0]}
            )


def _is_values(kind: str, answer: Any) -> bool:
    """Say whether an answer is a list of values, each with the keys that are named in it."""
    return (
        kind not in ("permit", "locks")
        and isinstance(answer, list)
        and not (answer and isinstance(answer[0], str))
    )
