"""Addresses of listeners as URLs have them: IPv6 in brackets, and an address that reaches a listener on all interfaces."""

from __future__ import annotations

import ipaddress


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
