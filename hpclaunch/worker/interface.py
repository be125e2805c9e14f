"""The address of a network interface of this host."""

from __future__ import annotations

import fcntl
import socket
import struct


def interface_address(interface: str | None) -> str:
    """Return the IPv4 address of a network interface of this host; empty if it has none."""
    if not interface:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, 0x8915, struct.pack("256s", interface.encode()[:15]))  # SIOCGIFADDR
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])
