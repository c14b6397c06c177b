"""Catalogue references: how a scan identifies its tag, as one `bytes` value that serves as the cache key.

The reference of a tag code (XUID) is the code itself, so that the hot path looks it up with the bytes that it cut out of the
request. All other references begin with a NUL and a letter; a tag code never contains a NUL.
"""

import hashlib
import re

from ixfast import limits
from ixfast.domain import tap_url

CODE = re.compile(rf"[A-Za-z0-9]{{1,{limits.TAG_CODE_CHARS_MAX}}}", re.ASCII)
"""A tag code (XUID)."""
AID = re.compile(rf"[A-Za-z0-9_-]{{1,{limits.ACCOUNT_ID_CHARS_MAX}}}", re.ASCII)
"""An account id (AID)."""
UID_TEXT = re.compile(r"[0-9A-F]{14}")
"""A chip's UID as `/v1/t` accepts it: 7 bytes in upper-case hex."""

CODE_NAMES = ("x", "xuid")
"""The parameters that hold a tag code whatever the profile, in lower case."""
AID_NAMES = ("a", "aid")
"""The parameters that hold an account id whatever the profile, in lower case."""

# The kinds of references, each by its prefix.
XUID = b""
CUID = b"\0c"
UID = b"\0u"
TOKEN = b"\0k"


def code_in(text: str) -> str | None:
    """The tag code, or what may be one, in a URL or query string under one of its standard names."""
    return _parameter(text, CODE_NAMES, CODE)


def aid_in(text: str) -> str | None:
    """The account id in a URL or query string under one of its standard names."""
    return _parameter(text, AID_NAMES, AID)


def _parameter(text: str, names: tuple[str, ...], pattern: re.Pattern[str]) -> str | None:
    for place in tap_url.places(text):
        for pair in place.query.split("&"):
            name, _, value = pair.partition("=")
            if name.lower() in names and pattern.fullmatch(value):
                return value
    return None


def by_cuid(aid: str, cuid: str) -> bytes:
    """The reference of a tag by its customer id (CUID), which is unique in the account `aid`."""
    return CUID + aid.encode() + b"\0" + cuid.encode()


def by_uid(aid: str, uid: bytes) -> bytes:
    """The reference of a tag by its chip's UID, 7 bytes, in the account `aid`."""
    return UID + aid.encode() + b"\0" + uid


def token_sha256(token: str) -> bytes:
    """The 32-byte hash under which an API token is stored and looked up."""
    return hashlib.sha256(token.encode()).digest()


def by_token(token_sha256: bytes) -> bytes:
    """The reference of an API key; `token_sha256` is the 32-byte SHA-256 of its token."""
    return TOKEN + token_sha256


def kind(ref: bytes) -> bytes:
    """The kind of a reference: `XUID`, `CUID`, `UID` or `TOKEN`."""
    return ref[:2] if ref[:1] == b"\0" else XUID


def parameters_of(ref: bytes) -> dict[str, str]:
    """The parameters of `/v1/t` that name a tag by this reference, which is not that of an API key."""
    if kind(ref) == XUID:
        return {"x": ref.decode()}
    aid, own = split(ref)
    return {"a": aid, "c": own.decode()} if kind(ref) == CUID else {"a": aid, "u": own.hex().upper()}


def split(ref: bytes) -> tuple[str, bytes]:
    """The account id (AID) and the CUID or UID of a reference of these kinds."""
    aid, own = ref[2:].split(b"\0", 1)
    return aid.decode(), own
