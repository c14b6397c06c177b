"""What a tap says about itself, read but not yet believed."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True):
    """The mirrored parts of one tap. Nothing here is authenticated; `CompiledProfile.examine` says what is.

    The case of hex digits is gone with their decoding, so that a lower-cased URL reads like the original. `xuid`,
    `cuid` and `aid` are what the URL said: good for finding the tag, never for believing that it is the one.
    """

    mac: bytes  # SDMMAC, 8 bytes
    uid: bytes | None = None  # 7 bytes, mirrored in the clear
    counter: int | None = None  # mirrored in the clear
    picc: bytes | None = None  # encrypted PICCData, 16 bytes (AES) or 24 (LRP)
    enc: bytes | None = None  # encrypted file data, whole AES blocks
    tamper: str | None = None  # TTPermStatus and TTCurrStatus, 2 upper-case characters
    tt: str | None = None  # TT of a StatusDetect chip, 10 upper-case characters
    xuid: str | None = None
    cuid: str | None = None
    aid: str | None = None

    def __repr__(self) -> str:
        """Names what is there; a code that has not been used yet is not for a log."""
        return f"Message({', '.join(name for name in self.__struct_fields__ if getattr(self, name) is not None)})"


class Missing(msgspec.Struct, frozen=True):
    """The profile's parameters are not there, or not all; `names` are those that are lacking, in the profile's
    order.
    """

    names: tuple[str, ...]
