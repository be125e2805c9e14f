"""Who may come in, and how: files, certificates, versions, roles; and that a stranger gets nothing read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import socket
import ssl
import stat
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from hpclaunch import trusted
from hpclaunch.comm import (
    connection as connection_module,
    framing,
    listener as listener_module,
    messages as m,
    tls,
)
from hpclaunch.comm.connection import Connection, dial
from hpclaunch.comm.framing import Frame, encode
from hpclaunch.comm.listener import Listener
from hpclaunch.errors import CommClosedError, HandshakeError, PeerError, SiteError

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def hello(role: str, *, version: int = m.PROTOCOL_VERSION, cluster: str = "ours") -> m.Hello:
    return m.Hello(version, role, f"a {role}", cluster)


class House:
    """A listener and who has come in."""

    def __init__(self, directory: Path | None, role: str = "head") -> None:
        self.directory = directory
        self.role = role
        self.guests: list[m.Hello] = []
        self.connections: list[Connection] = []

    def _on_peer(self, connection: Connection, hello: m.Hello) -> m.Welcome:
        connection.on_frames = lambda *_: None
        connection.on_lost = lambda *_: None
        self.guests.append(hello)
        self.connections.append(connection)
        return m.Welcome(m.PROTOCOL_VERSION, "ours")

    async def __aenter__(self) -> House:
        context = tls.server_context(self.directory, self.role) if self.directory else None
        self.listener = Listener("ours", context, self._on_peer)
        await self.listener.start(["127.0.0.1"])
        self.address = f"127.0.0.1:{self.listener.port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.listener.close()
        for connection in self.connections:
            connection.abort("the test is over")
        await asyncio.sleep(0)

    async def visit(
        self, directory: Path | None, role: str, greeting: m.Hello | None = None, *, expect_role: str = "head"
    ) -> m.Welcome:
        context = tls.client_context(directory, role) if directory else None
        connection, welcome = await dial(
            self.address, greeting or hello(role), context, _ignore, _ignore, expect_role=expect_role, timeout=5
        )
        connection.abort("seen enough")
        return welcome


def _ignore(*_: Any) -> None:
    pass


# --- files


def test_credentials_are_private_and_the_authority_keeps_no_key(credentials: Path) -> None:
    names = {path.name for path in credentials.iterdir()}
    assert names == {"ca.pem", "head.pem", "client.pem", "worker.pem"}
    for path in credentials.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in (credentials / "ca.pem").read_bytes()


@pytest.mark.parametrize("name", ["ca", "head", "client", "worker"])
def test_certificates_hold_whatever_the_clock_of_a_node_says(credentials: Path, name: str) -> None:
    certificate = x509.load_pem_x509_certificate((credentials / f"{name}.pem").read_bytes())
    assert certificate.not_valid_before_utc.year == 1970
    assert certificate.not_valid_after_utc.year == 9999


def test_private_files_are_private_from_the_first_byte_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        trusted.write_file(tmp_path / "secret", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_private_file_is_replaced_whole_and_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / "secret").symlink_to(target)
    trusted.write_file(tmp_path / "secret", b"new")
    assert target.read_bytes() == b"mine"
    assert (tmp_path / "secret").read_bytes() == b"new"


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o701])
def test_a_directory_that_others_can_enter_is_refused(credentials: Path, tmp_path: Path, mode: int) -> None:
    copy = tmp_path / "keys"
    shutil.copytree(credentials, copy)
    copy.chmod(mode)
    with pytest.raises(SiteError, match=rf"other users \(mode {mode:04o}\).*chmod go-rwx"):
        tls.client_context(copy, "client")
    with pytest.raises(SiteError, match="other users"):
        tls.write_credentials(copy, "ours")


def test_a_key_that_others_can_read_is_refused(credentials: Path, tmp_path: Path) -> None:
    copy = tmp_path / "keys"
    shutil.copytree(credentials, copy)
    (copy / "client.pem").chmod(0o640)
    with pytest.raises(SiteError, match=r"client.pem can be read by other users"):
        tls.client_context(copy, "client")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["", "head.pem"])
def test_what_belongs_to_another_user_is_refused(credentials: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "keys"
    shutil.copytree(credentials, copy)
    os.chown(copy / name, 12345, -1)
    with pytest.raises(SiteError, match="belongs to user 12345, not to you"):
        tls.server_context(copy, "head")


def test_a_directory_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="can't be used: no such file"):
        tls.client_context(tmp_path / "gone", "client")


# --- who comes in


@pytest.mark.parametrize(
    ("certificate", "role"),
    [("client", "client"), ("worker", "worker"), ("worker", "supervisor"), ("worker", "peer"), ("client", "peer")],
)
def test_members_come_in(credentials: Path, run: Run, certificate: str, role: str) -> None:
    async def scene() -> None:
        async with House(credentials) as house:
            welcome = await house.visit(credentials, certificate, hello(role))
            assert welcome.name == "ours"
            assert [guest.role for guest in house.guests] == [role]

    run(scene())


@pytest.mark.parametrize(
    ("certificate", "role"),
    [
        ("client", "worker"),
        ("client", "supervisor"),
        ("worker", "client"),
        ("head", "client"),
        ("client", "task"),
        ("client", "head"),
    ],
)
def test_a_certificate_cannot_act_in_another_role(
    credentials: Path, run: Run, certificate: str, role: str
) -> None:
    async def scene() -> None:
        async with House(credentials) as house:
            with pytest.raises(HandshakeError, match=f"may not act as '{role}'"):
                await house.visit(credentials, certificate, hello(role))
            assert not house.guests

    run(scene())


def test_a_worker_cannot_pose_as_the_head(credentials: Path, run: Run) -> None:
    async def scene() -> None:
        async with House(credentials, role="worker") as house:
            with pytest.raises(HandshakeError, match="is not the head of this cluster"):
                await house.visit(credentials, "client")
            assert not house.guests

    run(scene())


@pytest.mark.parametrize("who", ["dialler", "listener"])
def test_a_member_of_another_cluster_is_refused(
    credentials: Path, other_credentials: Path, run: Run, who: str
) -> None:
    async def scene() -> None:
        ours, theirs = (credentials, other_credentials) if who == "dialler" else (other_credentials, credentials)
        async with House(ours) as house:
            with pytest.raises(HandshakeError, match="is not a member of this cluster"):
                await house.visit(theirs, "client")
            assert not house.guests

    run(scene())


def _bare_context(*, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = maximum
    return context


def test_no_certificate_no_entry(credentials: Path, run: Run) -> None:
    async def scene() -> None:
        async with House(credentials) as house:
            with pytest.raises(PeerError):
                await dial(house.address, hello("client"), _bare_context(), _ignore, _ignore, timeout=5)
            assert not house.guests

    run(scene())


def test_a_certificate_of_another_cluster_is_refused_by_the_head_too(
    credentials: Path, other_credentials: Path, run: Run
) -> None:
    """Even if the other side does not care who the head is."""

    async def scene() -> None:
        context = _bare_context()
        context.load_cert_chain(other_credentials / "client.pem")
        async with House(credentials) as house:
            with pytest.raises(PeerError):
                await dial(house.address, hello("client"), context, _ignore, _ignore, timeout=5)
            assert not house.guests

    run(scene())


def test_older_tls_is_refused(credentials: Path, run: Run) -> None:
    async def scene() -> None:
        context = _bare_context(maximum=ssl.TLSVersion.TLSv1_2)
        context.load_cert_chain(credentials / "client.pem")
        async with House(credentials) as house:
            with pytest.raises(PeerError, match=r"during the handshake|VERSION"):
                await dial(house.address, hello("client"), context, _ignore, _ignore, timeout=5)
            assert not house.guests

    run(scene())


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (hello("client", version=99), "protocol version 99.*install the same hpclaunch on both sides"),
        (hello("client", cluster="theirs"), "belongs to cluster theirs, not ours"),
        (hello("no-role"), "may not act as 'no-role'"),
        (m.Heartbeat(), "the first message was no greeting"),
    ],
    ids=["version", "cluster", "role", "no hello"],
)
@pytest.mark.parametrize("secure", [True, False])
def test_a_wrong_greeting_is_answered_with_the_reason(
    credentials: Path, run: Run, greeting: Any, words: str, secure: bool
) -> None:
    async def scene() -> None:
        directory = credentials if secure else None
        async with House(directory) as house:
            with pytest.raises(HandshakeError, match=words):
                await house.visit(directory, "client", greeting)
            assert not house.guests

    run(scene())


# --- strangers


async def _until_closed(address: str, data: bytes = b"", *, drip: float | None = None) -> float:
    """Connect without TLS, send something, and return after how many seconds the other side closed."""
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    begin = loop.time()
    with contextlib.suppress(ConnectionError, BrokenPipeError):
        if drip is None:
            writer.write(data)
            await reader.read()
        else:
            reading = asyncio.ensure_future(reader.read())
            for byte in data:
                if reading.done() or writer.is_closing():
                    break
                writer.write(bytes([byte]))
                await asyncio.wait([reading], timeout=drip)
            await reading
    writer.close()
    with contextlib.suppress(ConnectionError, BrokenPipeError):
        await writer.wait_closed()
    return loop.time() - begin


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(connection_module, "HANDSHAKE_SECONDS", 0.2)
    return 0.2


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of everything that was given to the decoder of messages."""
    seen: list[int] = []
    real = framing._decode

    def decode(frame: memoryview, **options: Any) -> Frame:
        seen.append(len(frame))
        return real(frame, **options)

    monkeypatch.setattr(framing, "_decode", decode)
    return seen


GREETING = b"".join(bytes(piece) for piece in encode([hello("client")]))


@pytest.mark.parametrize(
    "data",
    [b"", b"GET / HTTP/1.1\r\n\r\n", GREETING, b"\x16\x03\x01\x02\x00\x01" + bytes(600), os.urandom(5000)],
    ids=["silence", "http", "our greeting in the clear", "half a TLS hello", "noise"],
)
def test_a_stranger_without_tls_is_dropped_and_nothing_is_decoded(
    credentials: Path, run: Run, data: bytes, short_patience: float, decoded: list[int]
) -> None:
    async def scene() -> None:
        async with House(credentials) as house:
            await asyncio.wait_for(_until_closed(house.address, data), 5)
            assert not house.guests
            assert not house.listener.unproved
        assert not decoded

    run(scene())


def test_a_stranger_with_tls_but_no_certificate_gets_nothing_decoded(
    credentials: Path, run: Run, decoded: list[int]
) -> None:
    async def scene() -> None:
        async with House(credentials) as house:
            host, _, port = house.address.rpartition(":")
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port), ssl=_bare_context())
                writer.write(GREETING)
                await asyncio.wait_for(reader.read(), 5)
                writer.close()
            assert not house.guests
        assert not decoded

    run(scene())


@pytest.mark.parametrize("secure", [True, False])
def test_a_stranger_that_drips_bytes_is_dropped_in_time(
    credentials: Path, run: Run, short_patience: float, secure: bool
) -> None:
    async def scene() -> None:
        async with House(credentials if secure else None) as house:
            data = b"\x16\x03\x01\x02\x00\x01" + bytes(500) if secure else GREETING + GREETING
            await asyncio.wait_for(_until_closed(house.address, data, drip=0.05), 10)
            assert not house.listener.unproved

    run(scene())


def test_a_member_that_never_greets_is_dropped(credentials: Path, run: Run, short_patience: float) -> None:
    async def scene() -> None:
        async with House(credentials) as house:
            host, _, port = house.address.rpartition(":")
            context = tls.client_context(credentials, "client")
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="")
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            assert not house.listener.unproved

    run(scene())


def test_a_greeting_over_the_strangers_limit_is_refused(credentials: Path, run: Run, decoded: list[int]) -> None:
    async def scene() -> None:
        async with House(credentials) as house:
            long = m.Hello(m.PROTOCOL_VERSION, "client", "x" * framing.LIMIT_STRANGER, "ours")
            with pytest.raises(CommClosedError):
                await house.visit(credentials, "client", long)
        assert not decoded

    run(scene())


def test_many_strangers_do_not_keep_members_out(credentials: Path, run: Run, short_patience: float) -> None:
    async def scene() -> None:
        async with House(credentials) as house:
            strangers = [asyncio.ensure_future(_until_closed(house.address)) for _ in range(50)]
            await asyncio.sleep(0)
            connection_module.HANDSHAKE_SECONDS = 5.0
            assert await house.visit(credentials, "client")
            await asyncio.gather(*strangers)

    run(scene())


def test_strangers_are_few_and_the_oldest_make_way(
    credentials: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-open connections had taken all descriptors, and no worker came in any more."""
    monkeypatch.setattr(listener_module, "MOST_UNPROVED", 8)
    monkeypatch.setattr(listener_module, "_LEAST_SECONDS", 0.05)

    async def scene() -> None:
        async with House(credentials) as house:
            host, _, port = house.address.rpartition(":")
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(100)]
            seen = []
            for _ in range(3):
                assert await house.visit(credentials, "client")
                seen.append(house.listener.unproved)
            assert 0 < max(seen) <= 8
            for _, writer in silent:
                writer.close()

    run(scene())


def test_connections_leave_descriptors_for_other_things(
    credentials: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with House(credentials) as house:
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            monkeypatch.setattr(listener_module, "RESERVE", soft)
            with pytest.raises(PeerError):
                await house.visit(credentials, "client")
            monkeypatch.undo()
            assert await house.visit(credentials, "client")

    run(scene())


def test_a_listener_without_descriptors_accepts_again_when_there_are_some(credentials: Path, run: Run) -> None:
    async def scene() -> None:
        async with House(credentials) as house:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as early:
                early.setblocking(False)
                resource.setrlimit(resource.RLIMIT_NOFILE, (early.fileno() + 1, hard))
                try:
                    host, _, port = house.address.rpartition(":")
                    early.connect_ex((host, int(port)))
                    await asyncio.sleep(0.1)  # the listener fails to accept meanwhile
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert await house.visit(credentials, "client")

    run(scene())


# --- dialling


def test_nobody_there_is_an_error_that_names_the_address(credentials: Path, run: Run) -> None:
    async def scene() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = tls.client_context(credentials, "client")
        with pytest.raises(CommClosedError, match=f"no connection to 127.0.0.1:{port}"):
            await dial(f"127.0.0.1:{port}", hello("client"), context, _ignore, _ignore, timeout=5)

    run(scene())


@pytest.mark.parametrize("secure", [True, False])
def test_a_port_that_says_nothing_is_given_up_in_time(credentials: Path, run: Run, secure: bool) -> None:
    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            context = tls.client_context(credentials, "client") if secure else None
            with pytest.raises(CommClosedError, match=r"did not answer within 0.2 s"):
                await dial(address, hello("client"), context, _ignore, _ignore, timeout=0.2)

    run(scene())


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        struct.pack("!II", 2, 0) + b"\x91\xc1",
        b"".join(map(bytes, encode([m.Heartbeat()]))),
    ],
    ids=["ssh", "garbage", "no welcome"],
)
def test_a_port_that_says_something_else_is_an_error_of_ours(run: Run, answer: bytes) -> None:
    async def scene() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(PeerError):
            await dial(address, hello("client"), None, _ignore, _ignore, timeout=5)
        server.close()

    run(scene())
