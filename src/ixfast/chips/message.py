"""The parsed content of one tap, before any of it has been authenticated."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True):
    """The mirrored parts of one tap. Nothing here is authenticated; `CompiledProfile.examine` does that.

    Hex digits are decoded, so a lower-cased URL reads like the original. `xuid`, `cuid`, `aid` and `batch` are claims from the
    URL: enough to look up the tag, but no evidence of its identity.
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
    batch: str | None = None

    def __repr__(self) -> str:
        """Lists which parts are present, without values: a MAC that has not been used yet must not reach a log."""
        return f"Message({', '.join(name for name in self.__struct_fields__ if getattr(self, name) is not None)})"


class Missing(msgspec.Struct, frozen=True):
    """Required parameters of the profile are absent; `names` lists them in the profile's order.

    The other fields are those parts of the tap that lead to its tag, as in a `Message`.
    """

    names: tuple[str, ...]
    uid: bytes | None = None
    picc: bytes | None = None
    xuid: str | None = None
    cuid: str | None = None
    batch: str | None = None

    def __repr__(self) -> str:
        return f"Missing({self.names})"
