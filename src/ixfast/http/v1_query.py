"""The query of `GET /v1/t`. The front door and the aiohttp route both read it here, so that they cannot differ.

`x` names a tag by its code, `c` or `u` together with `a` by the customer's id or the chip's UID; `x` takes precedence over `c`,
and `c` over `u`. `n` and `e` are the mirrored counter and MAC, `r` is the API token, `ip` and `ua` describe the visitor. All
other parameters are kept for the group's encoding profile and otherwise ignored. An empty value counts as absent.

Tags may have parameters of these names with other contents. Where the account is known (`a`, or an API key), a value that these
names cannot have is therefore left to the account's encoding profiles, as is a reference that names no tag. `n` and `e` are left
to the profile of the tag that `x` names.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ixfast import limits
from ixfast.domain import references
from ixfast.domain.owner_texts import SentText, as_sent
from ixfast.domain.scan import Extras, Visitor
from ixfast.domain.tap_url import trimmed
from ixfast.errors import InputError

# Nearly every query. The general code below reads the same from it (tests compare them) and takes seven times as long.
_PLAIN = re.compile(rf"x=({references.CODE.pattern})&n=([0-9A-Fa-f]{{6}})&e=([0-9A-Fa-f]{{16}})", re.ASCII)
_COUNTER = re.compile(r"[0-9A-Fa-f]{6}")
_MAC_CHARS = 16
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_TOKEN = re.compile(r"[!-~]{1,256}")
_CUID = re.compile(rf"(?s).{{1,{limits.CUSTOMER_ID_CHARS_MAX}}}")
_AFTER = " \t\r\n\0"
_HOT = frozenset(("x", "c", "u", "a", "n", "e", "r"))
_REFERENCES = frozenset(("x", "c", "u"))
_NAMING_NONE = frozenset(("n", "e", "t", "r", "ip", "ua"))
_TOKEN_BEGINS = "ixf_"  # noqa: S105 - every API token does, and no mirror


class V1Query(NamedTuple):
    """A query that was read. `ref` is None if it names no tag: the tap itself may then name one of the account.

    `aid` is the account in `a`. `counter` is -1 if there is none in `n`; `mac` has 8 bytes, and is None if there is none in `e`.
    `problem` is the first malformed parameter that may yet be the profile's own.
    """

    ref: bytes | None
    aid: str | None
    counter: int
    mac: bytes | None
    token: str | None
    extras: Extras | None
    problem: InputError | None = None


def parse_parameters(query: str) -> dict[str, str]:
    """Percent-decoded parameters by name, without those that are empty. Texts without a name are joined under the name "".

    Raises InputError for a duplicate, for too many, and for values that are not text.
    """
    if len(query) > limits.REQUEST_TARGET_BYTES_MAX:
        raise InputError("invalid_parameter", f"The query must be at most {limits.REQUEST_TARGET_BYTES_MAX} characters.")
    parameters: dict[str, str] = {}
    if "%" in query or "+" in query:
        query = trimmed(query)
    lowered = "%" in query and query == query.lower()
    pieces = query.split("&") if query else []
    if len(pieces) > limits.PARAMETERS_MAX:
        raise InputError("invalid_parameter", f"The query can have at most {limits.PARAMETERS_MAX} parameters.")
    for piece in pieces:
        if not piece:
            continue
        name, equals, value = piece.partition("=")
        if not equals:
            name, value = "", name
        name, value = _decode(name, None), _decode(value, name, lowered=lowered)
        if not value:
            continue
        if not name:
            value = "&".join(filter(None, (parameters.pop("", None), value)))
        if name in parameters:
            raise InputError("invalid_parameter", "The parameter must be sent only once.", name)
        if len(value) > limits.PARAMETER_BYTES_MAX:
            raise InputError(
                "invalid_parameter", f"The parameter's value must be at most {limits.PARAMETER_BYTES_MAX} characters.", name
            )
        parameters[name] = value
    return parameters


def _decode(text: str, name: str | None, *, lowered: bool = False) -> str:
    """Undo percent-encoding. Control characters never mean anything in a tap, and are refused in every parameter. At the end of a
    value they and spaces are dropped, since programs that read tags add them there; a tag code has to be exact."""
    if "%" not in text and "+" not in text and text.isascii() and text.isprintable():
        return text
    try:
        decoded = unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeError:  # also lone surrogates, which command line arguments may have
        raise InputError("invalid_parameter", "The parameter is not valid UTF-8.", _printable(name)) from None
    if name not in (None, "x"):
        decoded, text = decoded.rstrip(_AFTER), trimmed(text)
    if not decoded.isprintable():
        raise InputError("invalid_parameter", "The parameter contains control characters.", _printable(name))
    return as_sent(decoded, text, lowered=lowered) if name is not None else decoded


def _printable(name: str | None) -> str | None:
    return name if name is not None and name.isascii() and name.isprintable() else None


def sent_code(query: str) -> bytes | None:
    """The tag code in the raw query string, for the response to a query that cannot be read; None if `x` is not exactly one."""
    codes = [piece[2:] for piece in query.split("&") if piece.startswith("x=") and piece != "x="]
    return codes[0].encode() if len(codes) == 1 and references.CODE.fullmatch(codes[0]) else None


def read_query(query: str, *, keyed: bool = False) -> V1Query:
    """Read the raw query string of `/v1/t`; `keyed` says that a header field has an API key.

    Raises InputError with the parameter as its `field`; the value is never quoted.
    """
    plain = _PLAIN.fullmatch(query)
    if plain is not None:
        code, n, e = plain.groups()
        return V1Query(code.encode(), None, int(n, 16), bytes.fromhex(e), None, None)
    parameters = parse_parameters(query)
    return _Reading(parameters, keyed=keyed).query()


class _Reading:
    """The reading of one query. `problem` is the first value that its parameter cannot have."""

    def __init__(self, parameters: dict[str, str], *, keyed: bool) -> None:
        self._parameters = parameters
        self._keyed = keyed
        self.problem: InputError | None = None

    def query(self) -> V1Query:
        aid = self._valid(references.AID, "a", "an account id")
        if self.problem is not None and not self._keyed:
            raise self.problem
        token = self._token(aid)
        ref = self._reference(aid, known=self._keyed or aid is not None or token is not None)
        n, e = self._valid(_COUNTER, "n", "6 hex digits"), self._valid(_HEX, "e", "16 hex digits")
        counter = -1 if n is None else int(n, 16)
        # Another number of digits is left to the profile, which is not known yet.
        mac = bytes.fromhex(e) if e is not None and len(e) == _MAC_CHARS else None
        return V1Query(ref, aid, counter, mac, token, self._extras(aid, token, has_mac=mac is not None), self.problem)

    def _valid(self, pattern: re.Pattern[str], name: str, expected: str) -> str | None:
        """The value of a parameter; None if it is absent or malformed."""
        value = self._parameters.get(name)
        if value is None or pattern.fullmatch(value):
            return value
        self.problem = self.problem or InputError("invalid_parameter", f"{name} must be {expected}.", name)
        return None

    def _token(self, aid: str | None) -> str | None:
        token = self._parameters.get("r")
        if token is None or (token.startswith(_TOKEN_BEGINS) and _TOKEN.fullmatch(token)):
            return token
        if aid is not None or self._keyed:  # a parameter of the tap's own
            return None
        return self._valid(_TOKEN, "r", "an API token")

    def _reference(self, aid: str | None, *, known: bool) -> bytes | None:
        code = self._valid(references.CODE, "x", "a tag code of letters and digits")
        if code is not None:
            return code.encode()
        if aid is None:
            self.problem = self.problem or self._unnamed(known=known)
            if self.problem is not None and not known:
                raise self.problem
            return None
        cuid = self._valid(_CUID, "c", f"1 to {limits.CUSTOMER_ID_CHARS_MAX} characters")
        if cuid is not None:
            return references.by_cuid(aid, cuid)
        uid = self._valid(references.UID_TEXT, "u", "14 upper-case hex digits")
        return references.by_uid(aid, bytes.fromhex(uid)) if uid is not None else None

    def _unnamed(self, *, known: bool) -> InputError | None:
        """What a query without a tag code and an account lacks; None if its tap itself may name a tag of the key's account."""
        if self._parameters.keys() & {"c", "u"}:
            return InputError("missing_parameter", "c and u also require a, the account id.", "a")
        if known and self._parameters.keys() - _NAMING_NONE:
            return None
        return InputError("missing_parameter", "Name the tag: send x, or c or u together with a.", "x")

    def _extras(self, aid: str | None, token: str | None, *, has_mac: bool) -> Extras | None:
        """What goes to the profile, which decides what else it needs.

        Not one reference, `n` and `e`, all of which the scan has itself; without others, the account alone if the reference is a
        tag code, else None.
        """
        parameters, names = self._parameters, self._parameters.keys()
        named_once = len(names & _REFERENCES) == 1
        if (
            self.problem is None
            and named_once
            and next(reversed(parameters.values()))[-1].isalnum()  # else the order counts, see `parameter_readings`
            and names <= _HOT
            and type(parameters.get("c")) is not SentText
            and (has_mac or "e" not in names)
            and (token or "r" not in names)
        ):
            return Extras(aid=aid) if aid is not None and "x" in names else None
        kept = {name: value for name, value in parameters.items() if name != "r" or token is None}
        visitor = None
        if "ip" in parameters or "ua" in parameters:
            visitor = Visitor(parameters.get("ip"), parameters.get("ua"))
        return Extras(kept, visitor=visitor, aid=aid)
