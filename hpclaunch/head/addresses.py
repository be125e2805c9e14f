"""At which addresses a head listens and is offered to workers. Looks at this host's interfaces; binds nothing."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping

import psutil

from hpclaunch.errors import ConfigError
from hpclaunch.notes import warn


def host_addresses(interface: str | None, host: str | None = None) -> list[str]:
    """Return this host's addresses to listen on, the one to try first at the front.

    :param interface: listen on this interface and loopback only; if this host has none of that name (the nodes'
        may be named differently), a warning says so and all are offered.
    :param host: listen on this address or host name only.
    :raises ConfigError: ``host`` is not an address of this machine.
    """
    up = interfaces()
    if host:
        return [_own_address(host, up)]
    if interface is not None:
        if interface in up:
            rest = [a for a in up.get("lo", ()) if a not in up[interface]]
            return [*up[interface], *rest]
        warn(
            f"this host has no interface {interface!r} (it has {', '.join(up)}); all its addresses are offered "
            "to the workers"
        )
    if not up:
        raise ConfigError(
            "no network interface of this host is up, not even loopback: workers could not reach the head"
        )
    everything = [address for addresses in up.values() for address in addresses]
    return sorted(everything, key=lambda a: ipaddress.ip_address(a).is_loopback)


def interfaces() -> dict[str, list[str]]:
    """Return the interfaces that are up with their usable addresses, IPv4 first."""
    states = psutil.net_if_stats()
    found: dict[str, list[str]] = {}
    for name, entries in psutil.net_if_addrs().items():
        if name in states and not states[name].isup:
            continue
        v4 = [e.address for e in entries if e.family == socket.AF_INET]
        v6 = [e.address for e in entries if e.family == socket.AF_INET6 and _is_reachable(e.address)]
        if v4 or v6:
            found[name] = v4 + v6
    return found


def _is_reachable(address: str) -> bool:
    if "%" in address:  # link-local: of no use to anyone who does not know the link
        return False
    parsed = ipaddress.ip_address(address)
    return not parsed.is_link_local and not parsed.is_loopback


def _own_address(host: str, up: Mapping[str, list[str]]) -> str:
    try:
        candidates = [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:  # also a text that can be no host name
        why = getattr(error, "strerror", None) or "it can be no host name"
        raise ConfigError(f"host {host!r} can't be resolved: {why}", key="host") from None
    own = {address for addresses in up.values() for address in addresses}
    for address in candidates:
        if address in own or ipaddress.ip_address(address).is_loopback:
            return address
    raise ConfigError(f"host {host!r} is no address of this machine; it has {', '.join(sorted(own))}", key="host")
