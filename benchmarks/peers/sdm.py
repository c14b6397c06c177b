"""The MAC of a plain tap as a Python service computes it: NT4H2421Gx section 9.3.9, with AES-CMAC handed in."""

from __future__ import annotations

from collections.abc import Callable


def session_vector(uid: bytes, counter: int) -> bytes:
    """SV2: what the session key is derived from. The counter has its least significant byte first."""
    return b"\x3c\xc3\x00\x01\x00\x80" + uid + counter.to_bytes(3, "little")


def sdm_mac(aes_cmac: Callable[[bytes, bytes], bytes], key: bytes, uid: bytes, counter: int) -> bytes:
    """SDMMAC (8 bytes) over an empty window: every other byte of the CMAC, from the second."""
    return aes_cmac(aes_cmac(key, session_vector(uid, counter)), b"")[1::2]
