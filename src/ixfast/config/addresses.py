"""Addresses of listeners: as URLs have them, with IPv6 in brackets; one that reaches a listener on all interfaces; and paths of
Unix sockets."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

SOCKET_PATH_BYTES_MAX = 107  # unix(7): sun_path has 108 bytes, the last of which is 0.


def authority(host: str, port: int) -> str:
    """Host and port as in a URL (RFC 3986 section 3.2.2; the zone of a link-local address as in RFC 6874)."""
    return f"[{host.replace('%', '%25')}]:{port}" if ":" in host else f"{host}:{port}"


def is_every_interface(host: str) -> bool:
    """Whether a listener at this address is reached through every network interface: 0.0.0.0, ::, or no address."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def reachable(host: str) -> str:
    """An address at which this machine reaches a listener at `host`."""
    if not is_every_interface(host):
        return host
    return "::1" if ":" in host else "127.0.0.1"


def socket_path_mistake(path: Path) -> str | None:
    """What the path of a Unix socket must be instead of this one, as the end of a sentence; None if it can be one."""
    if not path.is_absolute():
        return "an absolute path"  # clients have other working directories than the server
    encoded = os.fsencode(path)
    if len(encoded) > SOCKET_PATH_BYTES_MAX:
        return f"a path of at most {SOCKET_PATH_BYTES_MAX} bytes, the limit of the system, and this one has {len(encoded)}"
    return "a path without a null character" if b"\0" in encoded else None
