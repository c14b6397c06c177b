"""The exceptions that ixfast raises.

The expected results of a scan are values (`Verdict`), not exceptions. An exception is a user's mistake (`InputError` and the
configuration errors) or the inability to answer (`UnavailableError`), which becomes a 503. A message says what is wrong and how
to fix it; without one, the docstring of the class is the message.
"""


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
