"""How many set-ups the head keeps."""

from __future__ import annotations

import asyncio

import pytest

from hpclaunch.comm.messages import MAX_SETUP_BYTES
from hpclaunch.errors import UserError
from hpclaunch.scheduler.server import SchedulerServer
from hpclaunch.scheduler.setups import FILE, MAX_COUNT, PLUGIN, SetUp


def test_all_set_ups_together_are_bounded() -> None:
    async def main() -> None:
        server = SchedulerServer("some-cluster")
        setups = server.requests.setups
        large = bytes(MAX_SETUP_BYTES // 2)
        await setups.register(SetUp(FILE, "a.zip", large))
        await setups.register(SetUp(FILE, "b.zip", large))
        with pytest.raises(UserError, match=r"plugin 'p' has 0\.0 MB.*it would have 3 of 536\.9 MB"):
            await setups.register(SetUp(PLUGIN, "p", b"1"))
        await setups.register(SetUp(FILE, "b.zip", large))  # in the place of the other
        await setups.unregister(FILE, "a.zip")
        await setups.register(SetUp(PLUGIN, "p", b"1"))
        assert (setups.names(FILE), setups.names(PLUGIN)) == (["b.zip"], ["p"])
        await server.close("the test is over")

    asyncio.run(main())


def test_the_number_of_set_ups_is_bounded() -> None:
    async def main() -> None:
        server = SchedulerServer("some-cluster")
        setups = server.requests.setups
        for i in range(MAX_COUNT):
            await setups.register(SetUp(PLUGIN, str(i), b""))
        with pytest.raises(UserError, match=f"it would have {MAX_COUNT + 1}"):
            await setups.register(SetUp(PLUGIN, "more", b""))
        await server.close("the test is over")

    asyncio.run(main())
