"""The query of `GET /v1/t`. The front door and the aiohttp route both read it here, so that they cannot differ.

`x` names a tag by its code, `c` or `u` together with `a` by the customer's id or the chip's UID; `x` takes precedence over `c`,
and `c` over `u`. `n` and `e` are the mirrored counter and MAC, `r` is the API token, `ip` and `ua` describe the visitor. All
other parameters are kept for the group's encoding profile and otherwise ignored. With `a`, an `x` that is not a tag code may be
a mirror in a parameter of that name.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ixfast import limits
from ixfast.domain import references
from ixfast.domain.scan import Extras, Visitor
from ixfast.errors import InputError

# Nearly every query. The general code below reads the same from it (tests compare them) and takes seven times as long.
_PLAIN = re.compile(rf"x=({references.CODE.pattern})&n=([0-9A-Fa-f]{{6}})&e=([0-9A-Fa-f]{{16}})", re.ASCII)
_COUNTER = re.compile(r"[0-9A-Fa-f]{6}")
_MAC_CHARS = 16
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_TOKEN = re.compile(r"[!-~]{1,256}")
_HOT = frozenset(("x", "c", "u", "a", "n", "e", "r"))


class V1Query(NamedTuple):
    """A query that was read. `ref` is None if it names no tag: an encrypted mirror may then name one of account `aid`.

    `counter` is -1 if `n` is absent; `mac` has 8 bytes, and is None if `e` is absent or of another length.
    """

    ref: bytes | None
    aid: str | None
    counter: int
    mac: bytes | None
    token: str | None
    extras: Extras | None


def parse_parameters(query: str) -> dict[str, str]:
    """Percent-decoded parameters by name. Raises InputError for a duplicate, for too many, and for values that are not text."""
    if len(query) > limits.REQUEST_TARGET_BYTES_MAX:
        raise InputError("invalid_parameter", f"The query must be at most {limits.REQUEST_TARGET_BYTES_MAX} characters.")
    parameters: dict[str, str] = {}
    pieces = query.split("&") if query else []
    if len(pieces) > limits.PARAMETERS_MAX:
        raise InputError("invalid_parameter", f"The query can have at most {limits.PARAMETERS_MAX} parameters.")
    for piece in pieces:
        if not piece:
            continue
        name, _, value = piece.partition("=")
        name, value = _decode(name, None), _decode(value, name)
        if name in parameters:
            raise InputError("invalid_parameter", "The parameter must be sent only once.", name)
        if len(value) > limits.PARAMETER_BYTES_MAX:
            raise InputError(
                "invalid_parameter", f"The parameter's value must be at most {limits.PARAMETER_BYTES_MAX} characters.", name
            )
        parameters[name] = value
    return parameters


def _decode(text: str, name: str | None) -> str:
    """Undo percent-encoding. Control characters never mean anything in a tap, and are refused in every parameter."""
    if "%" not in text and "+" not in text and text.isascii() and text.isprintable():
        return text
    try:
        decoded = unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeError:  # also lone surrogates, which command line arguments may have
        raise InputError("invalid_parameter", "The parameter is not valid UTF-8.", _printable(name)) from None
    if not decoded.isprintable():
        raise InputError("invalid_parameter", "The parameter contains control characters.", _printable(name))
    return decoded


def _printable(name: str | None) -> str | None:
    return name if name is not None and name.isascii() and name.isprintable() else None


def read_query(query: str) -> V1Query:
    """Read the raw query string of `/v1/t`. Raises InputError with the parameter as its `field`; the value is never quoted."""
    plain = _PLAIN.fullmatch(query)
    if plain is not None:
        code, n, e = plain.groups()
        return V1Query(code.encode(), None, int(n, 16), bytes.fromhex(e), None, None)
    parameters = parse_parameters(query)
    get = parameters.get
    ref, aid = _reference(parameters)
    counter = -1
    if (n := get("n")) is not None:
        _check(_COUNTER, n, "n", "6 hex digits")
        counter = int(n, 16)
    mac = None
    if (e := get("e")) is not None:
        _check(_HEX, e, "e", "16 hex digits")  # or another number that the group's profile defines; it is not known yet
        mac = bytes.fromhex(e) if len(e) == _MAC_CHARS else None
    if (token := get("r")) is not None:
        _check(_TOKEN, token, "r", "an API token")
    return V1Query(ref, aid, counter, mac, token, _extras(parameters, has_mac=mac is not None))


def _reference(parameters: dict[str, str]) -> tuple[bytes | None, str | None]:
    x, c, u, aid = (parameters.get(name) for name in ("x", "c", "u", "a"))
    if aid is not None:
        _check(references.AID, aid, "a", "an account id")
    if x is not None:
        _check(references.CODE, x, "x", "a tag code of letters and digits")
        return x.encode(), aid
    if c is None and u is None:
        if aid is None:
            raise InputError("missing_parameter", "Name the tag: send x, or c or u together with a.", "x")
        return None, aid
    if aid is None:
        raise InputError("missing_parameter", "c and u also require a, the account id.", "a")
    if c is not None:
        if not 0 < len(c) <= limits.CUSTOMER_ID_CHARS_MAX:
            raise InputError("invalid_parameter", f"c must be 1 to {limits.CUSTOMER_ID_CHARS_MAX} characters.", "c")
        return references.by_cuid(aid, c), aid
    assert u is not None
    _check(references.UID_TEXT, u, "u", "14 upper-case hex digits")
    return references.by_uid(aid, bytes.fromhex(u)), aid


def _extras(parameters: dict[str, str], *, has_mac: bool) -> Extras | None:
    """The parameters that go to the group's profile; None if there is nothing for it. An `e` that is not a MAC, and with `a` an
    `x` that may be a mirror, may be the profile's own parameters of these names: the profile decides."""
    names = parameters.keys()
    is_hot = names <= _HOT and (has_mac or "e" not in names) and not {"x", "u"} <= names
    if is_hot and not ("a" in names and references.may_be_a_mirror(parameters.get("x", "").encode())):
        return None
    kept = {name: value for name, value in parameters.items() if name not in ("r", "ip", "ua")}
    visitor = None
    if "ip" in parameters or "ua" in parameters:
        visitor = Visitor(parameters.get("ip"), parameters.get("ua"))
    return Extras(kept, visitor=visitor)


def _check(pattern: re.Pattern[str], value: str, name: str, expected: str) -> None:
    if not pattern.fullmatch(value):
        raise InputError("invalid_parameter", f"{name} must be {expected}.", name)
