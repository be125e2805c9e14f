"""Where a head listens: interfaces, host names, and what is refused."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from hpclaunch.errors import ConfigError
from hpclaunch.head.addresses import host_addresses

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login node as psutil shows one."""
    up = {"lo": True, "eth0": True, "ib0": True, "down0": False, "bare0": True}
    addresses = {
        "lo": [(V4, "127.0.0.1"), (V6, "::1")],
        "eth0": [(V6, "2001:db8::5"), (V4, "10.0.0.5"), (V6, "fe80::1%eth0"), (psutil.AF_LINK, "aa:bb")],
        "ib0": [(V4, "10.9.0.5")],
        "down0": [(V4, "10.7.0.5")],
        "bare0": [(psutil.AF_LINK, "aa:cc")],
    }
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {k: SimpleNamespace(isup=v) for k, v in up.items()})
    monkeypatch.setattr(
        psutil,
        "net_if_addrs",
        lambda: {k: [SimpleNamespace(family=f, address=a) for f, a in v] for k, v in addresses.items()},
    )


@pytest.mark.usefixtures("interfaces")
def test_all_that_is_up_is_offered_and_loopback_last() -> None:
    assert host_addresses(None) == ["10.0.0.5", "2001:db8::5", "10.9.0.5", "127.0.0.1"]


@pytest.mark.usefixtures("interfaces")
def test_an_interface_comes_first_and_loopback_stays_for_this_host() -> None:
    assert host_addresses("ib0") == ["10.9.0.5", "127.0.0.1"]
    assert host_addresses("lo") == ["127.0.0.1"]


@pytest.mark.usefixtures("interfaces")
@pytest.mark.parametrize("name", ["ib1", "down0", "bare0"])
def test_an_interface_that_is_not_here_is_warned_of_and_all_are_offered(name: str) -> None:
    with pytest.warns(UserWarning, match=f"no interface '{name}'.*eth0"):
        assert "10.0.0.5" in host_addresses(name)


@pytest.mark.usefixtures("interfaces")
def test_a_host_is_one_of_our_addresses() -> None:
    assert host_addresses(None, "10.9.0.5") == ["10.9.0.5"]
    assert host_addresses("eth0", "127.0.0.1") == ["127.0.0.1"]
    with pytest.raises(
        ConfigError, match=r"host '192\.0\.2\.1' is no address of this machine; it has .*10\.0\.0\.5"
    ):
        host_addresses(None, "192.0.2.1")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70, "with space", "\0"])
def test_what_is_no_host_is_a_clear_error(host: str) -> None:
    with pytest.raises(ConfigError, match="can't be resolved"):
        host_addresses(None, host)


def test_without_any_interface_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_if_addrs", dict)
    with pytest.raises(ConfigError, match="no network interface of this host is up"):
        host_addresses(None)
