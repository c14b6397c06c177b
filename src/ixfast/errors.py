"""The exceptions that ixfast raises.

The expected results of a scan are values (`Verdict`), not exceptions. An exception is a user's mistake (`InputError` and the
configuration errors) or the inability to answer (`UnavailableError`), which becomes a 503. A message says what is wrong and how
to fix it; without one, the docstring of the class is the message.
"""

from __future__ import annotations

import re

_HEX = frozenset("0123456789ABCDEFabcdef")
_SECRET_CHARS_MIN = 12  # Shorter texts are not most of a key.
_DIGITS_MAX = 6  # Names of profiles, schemes and facts have fewer.
_RUN_CHARS_MAX = 16


def quoted(name: str) -> str:
    """A name that a caller gave, in quotes for a message; only its length if it may be a key, or half of one."""
    runs = re.findall(r"[0-9A-Za-z]+", name)
    letters = "".join(runs)
    may_be_a_key = len(letters) >= _SECRET_CHARS_MIN and (
        sum(char.isdigit() for char in letters) > _DIGITS_MAX
        or max(map(len, runs)) > _RUN_CHARS_MAX
        or _HEX.issuperset(letters)
        or any(len(run) >= _SECRET_CHARS_MIN and re.search(r"\d", run) for run in runs)
    )
    return f"a name of {len(name)} characters" if may_be_a_key else repr(name)


class IxfastError(Exception):
    """ixfast cannot continue."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)

    def __reduce__(self) -> tuple[object, ...]:
        """Copy the message and the attributes. Calling the class again would need the arguments of a subclass."""
        return _empty, (type(self), self.args), self.__dict__


class ConfigurationError(IxfastError):
    """A setting is missing or invalid; the message names it and what is allowed."""


class InputError(IxfastError):
    """A request, or an argument of the Python API, is invalid.

    `code` is an error code, as in the response to a request; `field` is the name of the parameter at fault, or None. The value of
    the parameter is never part of the message: it may be a tag code, a token or a key.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class ProfileError(ConfigurationError):
    """An encoding profile is inconsistent; the message says where."""


class UnavailableError(IxfastError):
    """The request cannot be answered now; `code` is an error code with status 503 and `reason` a word that says why."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


def _empty(cls: type[IxfastError], args: tuple[object, ...]) -> IxfastError:
    """An exception without its attributes, which `pickle` and `copy` then set."""
    return cls.__new__(cls, *args)
