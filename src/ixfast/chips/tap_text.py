"""Reads a tap from text of unknown origin: a tapped URL, its query string, or what a web server would send to `/v1/t`.

For taps that do not come through the server: from a log, the command line, or a call of the Python API. Nothing is authenticated
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_plus

from ixfast.chips.message import Message, Missing
from ixfast.chips.profile import CompiledProfile
from ixfast.domain import tap_url
from ixfast.domain.owner_texts import as_sent
from ixfast.errors import InputError
from ixfast.limits import PARAMETERS_MAX


def first_complete(read: Callable[[Any], Any], readings: Iterable[Any]) -> Any:
    """What `read` makes of the first of the readings that is a complete tap, else of the last one, whose InputError is raised.

    For taps of a known tag: `tap_readings` has the readings.
    """
    message, problem = None, None
    for reading in readings:
        try:
            message, problem = read(reading), None
        except InputError as error:
            problem = error
            continue
        if message is not None and not isinstance(message, Missing):
            return message
    if problem is not None:
        raise problem
    return message


def read_tap(profile: CompiledProfile, text: str) -> Message | Missing:
    """Read a tap with this profile. Raises InputError as `read_url` does."""
    message = profile.read_url(text)
    if isinstance(message, Message):
        return message
    # Requests that a web server sends to `/v1/t` have the standard names instead of the template's.
    again = profile.read_parameters(_parameters(text))
    return again if message is None or isinstance(again, Message) else message


def parameters_in(text: str) -> dict[str, str]:
    """The decoded parameters of a URL and its fragment, by name; of two with one name, the first."""
    found: dict[str, str] = {}
    for place in tap_url.places(tap_url.trimmed(text)):
        for name, value in tap_url.pairs(place.query):
            if value:
                found.setdefault(unquote_plus(name), unquote_plus(value))
    return found


def _parameters(text: str) -> dict[str, str]:
    """The query's parameters as `/v1/t` reads them. Raises InputError for duplicates, too many, and invalid UTF-8."""
    found = tap_url.places(tap_url.trimmed(text))
    place = next((place for place in found if "=" in place.query), found[0])
    if place.query.count("&") >= PARAMETERS_MAX:
        raise InputError("invalid_parameter", f"The URL has more than {PARAMETERS_MAX} parameters.")
    parameters: dict[str, str] = {}
    lowered = "%" in text and text == text.lower()
    try:
        for sent, sent_value in tap_url.pairs(place.query):
            name, value = unquote_plus(sent, errors="strict"), unquote_plus(sent_value, errors="strict")
            value = as_sent(value, sent_value, lowered=lowered)
            if not value:
                continue
            if name and name in parameters:
                raise InputError("invalid_parameter", "A parameter appears twice.")
            parameters[name] = f"{parameters[name]}&{value}" if name in parameters else value
    except UnicodeDecodeError:
        raise InputError("invalid_parameter", "The URL is not UTF-8 once it is percent-decoded.") from None
    return parameters
