"""Looks now and then whether the head still lives, and says so where it does not: waiting alone would never tell.

A head that is frozen may go on later, and nothing is lost then; so callers that wait for futures go on waiting,
with a warning. Requests, which have to be made again anyway, end in an error (:meth:`HeadSession.ask`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hpclaunch.errors import HPCLaunchError, PeerError
from hpclaunch.link.session import HeadSession
from hpclaunch.notes import warn_from_afar

#: Seconds between two looks.
LOOK_SECONDS = 10.0
#: Seconds in which a head answers that it lives, whatever it does.
ANSWER_SECONDS = 12.0


async def look_after(session: HeadSession, is_waiting: Callable[[], bool]) -> None:
    """Warn when the head does not answer while a caller waits; once, until it has answered again.

    Returns when the connection is over.
    """
    told = False
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if session.comm is None or session.comm.is_closed:
            return
        if not is_waiting():
            continue
        ping = asyncio.ensure_future(session.request("ping"))
        try:
            done, _ = await asyncio.wait([ping], timeout=ANSWER_SECONDS)
            if not done:
                await asyncio.sleep(LOOK_SECONDS / 20)  # this process may have been frozen itself
            if ping.done():
                told = False
                error = ping.exception()
                if isinstance(error, PeerError):
                    return
                if error is not None and not isinstance(error, HPCLaunchError):
                    raise error
            elif not told:
                told = True
                warn_from_afar(
                    f"the head at {session.address} has not answered for {ANSWER_SECONDS:g} s: it is frozen, or "
                    "its machine is very busy. Futures are waited for all the same"
                )
        finally:
            ping.cancel()
