"""The exception tree. A docstring here is the message: it says what is wrong and what mends it.

Expected outcomes of a scan are values (`model.Verdict`), not exceptions. What is raised is a user's mistake
(`InputError` and the configuration errors) or the inability to answer (`UnavailableError`), which the wire turns into 503.
"""


class IxfastError(Exception):
    """Something ixfast cannot go on with."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class ConfigurationError(IxfastError):
    """A setting is missing or wrong; the message names it and says what to write instead."""


class InputError(IxfastError):
    """A request cannot be understood; `code` is the wire's error code and `field` the parameter it is about.

    The value itself is never part of the message: it may be a code, a token or a key.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class ProfileError(ConfigurationError):
    """An encoding profile contradicts itself; the message says where."""


class UnavailableError(IxfastError):
    """No answer can be given now; `code` is one of the wire's 503 codes and `reason` says why in one word."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
