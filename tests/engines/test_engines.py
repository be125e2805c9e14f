"""Engines: which there are, what they are asked for, and that ours listens where it says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.comm import tls
from hpclaunch.comm.connection import dial
from hpclaunch.comm.messages import PASS_BYTES, PROTOCOL_VERSION, Hello
from hpclaunch.config.layers import load
from hpclaunch.engines import base
from hpclaunch.engines.embedded import RunningEmbedded
from hpclaunch.errors import CommClosedError, ConfigError, HandshakeError
from hpclaunch.scheduler.server import SchedulerServer


async def no_answer(method: str, params: dict[str, Any]) -> None:
    raise AssertionError(method)


def hooks() -> base.HeadHooks:
    """Hooks that are not to be called."""

    def never(*facts: Any) -> None:
        raise AssertionError(facts)

    return base.HeadHooks(never, never, no_answer, never, never)


def local_config(**arguments: Any) -> Any:
    return load("local", {"memory": "1 GB", "cores": 1, **arguments}).job


def test_an_unknown_engine_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match=r"engine 'slowly' is not in this version yet; there is: .*embedded"):
        base.by_name("slowly")


def test_the_commands_of_head_and_jobs_name_the_run_directory() -> None:
    engine = base.by_name("embedded")
    directory = Path("/shared/a run directory")
    assert engine.head_command("/opt/python", directory) == [
        *("/opt/python", "-P", "-m", "hpclaunch.head"),
        *("--directory", str(directory)),
    ]
    words = engine.worker_command(local_config(python="/opt/python"), directory)
    assert words[:4] == ["/opt/python", "-P", "-m", "hpclaunch.worker"]
    assert words[words.index("--directory") + 1] == str(directory)


@pytest.mark.parametrize("security", [True, False])
def test_ours_listens_where_it_says_and_has_keys_if_it_is_secure(tmp_path: Path, security: bool) -> None:
    tmp_path.chmod(0o700)

    async def look() -> None:
        engine = base.by_name("embedded")
        running = await engine.start(
            tmp_path, "c-1", local_config(security=security), ["127.0.0.1"], hooks(), port=0
        )
        try:
            (address,) = running.addresses
            host, _, port = address.rpartition(":")
            assert host == "127.0.0.1"
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            assert (running.worker_count(), running.job_load()) == (0, {})
            assert running.summary()["worker_list"] == []
        finally:
            await running.close("the test is over")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))

    asyncio.run(look())
    assert bool(list(tmp_path.glob("*.pem"))) is security


def test_without_a_listener_the_address_is_memory() -> None:
    async def look() -> None:
        running = RunningEmbedded(SchedulerServer("c-1", on_request=no_answer), None, ())
        assert running.addresses == ["memory"]
        await running.close("the test is over")

    asyncio.run(look())


@pytest.mark.parametrize("role", ["worker", "supervisor"])
def test_a_job_that_the_cluster_could_not_have_is_sent_away(tmp_path: Path, role: str) -> None:
    """What a peer says its job is would reach the command that cancels jobs."""
    tmp_path.chmod(0o700)

    async def look() -> None:
        some = hooks()._replace(is_job_id=lambda job: job == "1.1")
        running = await base.by_name("embedded").start(
            tmp_path, "c-1", local_config(), ["127.0.0.1"], some, port=0
        )
        try:
            context = tls.client_context(tmp_path, "worker")
            for job in ("--user=root", "1.2", ""):
                hello = Hello(PROTOCOL_VERSION, role, "x", "c-1", job_id=job)
                with pytest.raises(HandshakeError, match="is no id that a job of this cluster could have"):
                    await dial(running.addresses[0], hello, context, lambda *_: None, lambda *_: None)
        finally:
            await running.close("the test is over")

    asyncio.run(look())


def test_whoever_speaks_for_a_job_shows_its_pass(tmp_path: Path) -> None:
    """A start lets the first supervisor in, then those with its pass; another start, another pass."""
    tmp_path.chmod(0o700)
    starts: dict[str, object] = {"1.1": 1}
    own, other = (bytes([number]) * PASS_BYTES for number in (1, 2))

    async def look() -> None:
        quiet = base.HeadHooks(lambda *_: None, lambda *_: None, no_answer, lambda *_: None, lambda *_: None)
        some = quiet._replace(start_of=starts.get)
        running = await base.by_name("embedded").start(
            tmp_path, "c-1", local_config(), ["127.0.0.1"], some, port=0
        )

        async def come(role: str, secret: bytes, job: str = "1.1", host: str = "a") -> Any:
            name = f"{job}-0" if role == "worker" else f"{role} of {job}"
            hello = Hello(PROTOCOL_VERSION, role, name, "c-1", host=host, pid=1, job_id=job, secret=secret)
            context = tls.client_context(tmp_path, "worker")
            return (await dial(running.addresses[0], hello, context, lambda *_: None, lambda *_: None))[0]

        try:
            with pytest.raises(HandshakeError, match="does not have the pass"):
                await come("worker", own)
            members = [await come(role, own) for role in ("supervisor", "worker", "task")]
            with pytest.raises(CommClosedError, match="does not let us in yet: another process speaks for job"):
                await come("supervisor", other, host="b")
            with pytest.raises(CommClosedError, match="has seen no start ticket of job"):
                await come("supervisor", other, job="1.2")
            for role in ("worker", "task"):
                with pytest.raises(HandshakeError, match=r"sent us away: .* does not have the pass of job"):
                    await come(role, other)
            assert running.worker_count() == 1
            starts["1.1"] = 2
            members.append(await come("supervisor", other, host="b"))
            assert running.worker_count() == 0
            with pytest.raises(HandshakeError, match="was put back, and runs again on b"):
                await come("supervisor", own)
            for member in members:
                member.close()
        finally:
            await running.close("the test is over")

    asyncio.run(look())
