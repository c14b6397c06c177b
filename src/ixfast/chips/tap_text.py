"""Reads a tap from text of unknown origin: a tapped URL, its query string, or what a web server would send to `/v1/t`.

For taps that do not come through the server: from a log, the command line, or a call of the Python API. Nothing is authenticated
here.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from ixfast.chips.message import Message, Missing
from ixfast.chips.profile import CompiledProfile
from ixfast.errors import InputError
from ixfast.limits import PARAMETERS_MAX


def read_tap(profile: CompiledProfile, text: str) -> Message | Missing:
    """Read a tap with this profile. Raises InputError as `read_url` does."""
    message = profile.read_url(text)
    if isinstance(message, Message):
        return message
    # Requests that a web server sends to `/v1/t` have the standard names instead of the template's.
    again = profile.read_parameters(_parameters(text))
    return again if message is None or isinstance(again, Message) else message


def _parameters(text: str) -> dict[str, str]:
    """The query's parameters as `/v1/t` reads them. Raises InputError for duplicates, too many, and invalid UTF-8."""
    query = text.partition("?")[2] if "?" in text else text
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except (UnicodeDecodeError, ValueError):
        raise InputError("invalid_parameter", f"not a UTF-8 query string of at most {PARAMETERS_MAX} parameters") from None
    parameters = dict(pairs)
    if len(parameters) < len(pairs):
        raise InputError("invalid_parameter", "a parameter is duplicated")
    return parameters
